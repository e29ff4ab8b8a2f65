"""Optical flow between two frames, both ways, for `dis` and `midnet`."""
