"""How good is it on my film? Every second frame is taken out, made again and compared with the true one.

python examples/put_back.py in.mp4
"""

import sys

import midframe
from midframe.colour import to_rgb
from midframe.metrics import psnr
from midframe.video.reader import open_reader

FRAMES = 60  # looked at, from the start

if __name__ == "__main__":
    interpolator = midframe.Interpolator()
    made, held = [], []
    with open_reader(sys.argv[1]) as frames:
        pictures = [to_rgb(frame.planes, frame.format) for frame, _ in zip(frames, range(FRAMES), strict=False)]
    for a, truth, b in zip(pictures[::2], pictures[1::2], pictures[2::2], strict=False):
        made.append(psnr(interpolator.between(a, b), truth))
        held.append(psnr(a, truth))
    level, still = sum(made) / len(made), sum(held) / len(held)
    print(f"{len(made)} pictures: {level:.2f} dB (repeating the frame before: {still:.2f})")
