"""ModelScope's three published examples of video frame interpolation, with the import changed and a local clip.

    python examples/modelscope_interpolation.py [clip.mp4] [--weights DIR] [--model ID]

The weights are the official ones (`midframe models fetch vfinet`), or those in DIR. Without a clip one is drawn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np

from midframe.modelscope import OutputKeys, Tasks, pipeline


def drawn_clip(path: Path, frames: int = 4) -> Path:
    """A disc that crosses a striped ground."""
    y, x = np.mgrid[:96, :128]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(frames):
            image = np.stack([(x * 3 + y) % 200, (x + y * 2) % 180, (y * 3) % 160], -1).astype(np.uint8)
            image[(x - 30 - 6 * i) ** 2 + (y - 48) ** 2 < 400] = (230, 180, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--weights", type=Path, help="folder with raft-sintel.pt and interpnet.pt")
    parser.add_argument("--model", default="damo/cv_raft_video-frame-interpolation_practical")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = str(given.video or drawn_clip(Path(folder) / "clip.mp4"))
        interpolate = pipeline(Tasks.video_frame_interpolation, str(given.weights or given.model))

        # example 1, interp_ratio
        result = interpolate({"video": video, "interp_ratio": 4})[OutputKeys.OUTPUT_VIDEO]
        print(f"pipeline: the output video path is {result}")

        # example 2, out_fps
        result = interpolate({"video": video, "out_fps": 50})[OutputKeys.OUTPUT_VIDEO]
        print(f"pipeline: the output video path is {result}")

        # example 3, twice the rate if nothing is said
        result = interpolate({"video": video})[OutputKeys.OUTPUT_VIDEO]
        print(f"pipeline: the output video path is {result}")


if __name__ == "__main__":
    main()
