"""Score frame pairs with the package `cvvdp`; started by `cvvdp.Cvvdp` in an environment that may lack midframe.

    python cvvdp_worker.py DISPLAY THREADS

Standard input: for each pair a line "HEIGHT WIDTH", then two RGB images of 8 bits (test, reference). Standard output:
"ready", then one JOD a line.
"""

import os
import sys


def main() -> None:
    """Answer pairs until the input ends."""
    display, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the package may print
    import numpy as np
    import pycvvdp
    import torch

    torch.set_num_threads(int(threads))
    metric = pycvvdp.cvvdp(display_name=display, heatmap=None, device=torch.device("cpu"))
    answers.write("ready\n")
    while line := sys.stdin.buffer.readline():
        height, width = map(int, line.split())
        size = height * width * 3
        test, reference = (
            np.frombuffer(sys.stdin.buffer.read(size), np.uint8).reshape(height, width, 3) for _ in range(2)
        )
        jod, _ = metric.predict(test, reference, dim_order="HWC")
        answers.write(f"{float(jod):.6f}\n")


if __name__ == "__main__":
    main()
