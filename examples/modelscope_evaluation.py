"""ModelScope's published evaluation with the import changed: PSNR, SSIM and LPIPS by its definitions.

    python examples/modelscope_evaluation.py FOLDER [--weights DIR] [--model ID]

FOLDER holds one folder a set, each with frame1 ... frame4 and framet, or im1 ... im7 of a Vimeo septuplet.
"""

from __future__ import annotations

import argparse

from midframe.modelscope import VideoFrameInterpolationDataset, build_trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--weights", help="folder with raft-sintel.pt and interpnet.pt")
    parser.add_argument("--model", default="damo/cv_raft_video-frame-interpolation_practical")
    given = parser.parse_args()
    eval_dataset = VideoFrameInterpolationDataset.from_folder(given.folder)
    trainer = build_trainer(default_args={"model": given.weights or given.model, "eval_dataset": eval_dataset})
    print(trainer.evaluate())


if __name__ == "__main__":
    main()
