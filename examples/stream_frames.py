"""Interpolate a stream of frames, a few in memory at a time: `python examples/stream_frames.py in.mp4`.

The same generator feeds an encoder, a network or a display; here the mean luma of each frame is printed.
"""

import sys

import midframe
from midframe.video.reader import open_reader

if __name__ == "__main__":
    interpolator = midframe.Interpolator(device="cpu")
    with open_reader(sys.argv[1]) as frames:
        for frame in interpolator.stream(frames, fps=60):
            print(f"{float(frame.pts):8.4f} s  {frame.kind:12}  {frame.planes[0].float().mean():.2f}")
