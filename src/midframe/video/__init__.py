"""Read and write video: the only package that imports PyAV."""
