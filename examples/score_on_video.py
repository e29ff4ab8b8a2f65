"""Score the model on a video of your own: remove every second frame, interpolate it, and compare with the original.

python examples/score_on_video.py in.mp4
"""

import sys

import midframe
from midframe.colour import to_rgb
from midframe.metrics import psnr
from midframe.video.reader import open_reader

FRAMES = 60  # used, from the start

if __name__ == "__main__":
    interpolator = midframe.Interpolator()
    made, held = [], []
    with open_reader(sys.argv[1]) as frames:
        images = [to_rgb(frame.planes, frame.format) for frame, _ in zip(frames, range(FRAMES), strict=False)]
    for a, truth, b in zip(images[::2], images[1::2], images[2::2], strict=False):
        made.append(psnr(interpolator.between(a, b), truth))
        held.append(psnr(a, truth))
    level, still = sum(made) / len(made), sum(held) / len(held)
    print(f"{len(made)} frames: {level:.2f} dB (repeating the frame before: {still:.2f})")
