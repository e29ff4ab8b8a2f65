"""Convert a video to 60 frames per second: `python examples/interpolate_file.py in.mp4 out.mp4`."""

import sys

import midframe


def show(progress: midframe.Progress) -> None:
    print(f"\r{progress.frames} of {progress.total}, {progress.fps:.1f} a second", end="", flush=True)


if __name__ == "__main__":
    result = midframe.interpolate(sys.argv[1], sys.argv[2], fps=60, on_progress=show)
    print(f"\n{result.path}: {result.kinds.count('i')} new frames, cuts at {[float(at) for at in result.cuts]}")
