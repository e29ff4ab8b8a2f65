"""Interpolate three frames between two images, as arrays: `python examples/frames_between.py a.png b.png folder`."""

import sys
from pathlib import Path

import cv2

import midframe

if __name__ == "__main__":
    a, b = (cv2.cvtColor(cv2.imread(name), cv2.COLOR_BGR2RGB) for name in sys.argv[1:3])
    folder = Path(sys.argv[3])
    folder.mkdir(exist_ok=True)
    # motion is estimated once for all three
    for n, frame in enumerate(midframe.Interpolator().between(a, b, t=[0.25, 0.5, 0.75]), start=1):
        cv2.imwrite(str(folder / f"{n}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        print(folder / f"{n}.png")
