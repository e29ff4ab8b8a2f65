"""ColorVideoVDP (Mantiuk et al. 2024, arXiv:2401.11485) of frame pairs, by the PyPI package `cvvdp`.

The package imports torchvision, which must match its torch; so a worker process of any Python with the package computes
the scores, and midframe's own torch is not touched. Pairs go to the worker's standard input as 8-bit RGB, scores come
back one a line.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from midframe.errors import InputError, MediaError
from midframe.extras import install_command
from midframe.metrics import to_levels

CVVDP_DISPLAY = "standard_fhd"  # the display model: 24 inches, 200 cd/m2, seen from 0.6 m
_SECONDS_TO_START = 300


class Cvvdp:
    """Score frames in JOD: 10 is equal to the truth, a difference of 1 is seen by 75 % of viewers.

    Frames are compared one by one, as still images on a 24-inch Full HD display.
    """

    def __init__(self, python: Path | None = None, threads: int | None = None) -> None:
        """Start the worker.

        Args:
            python: a Python interpreter with the package `cvvdp`; None for this one.
            threads: of the worker's torch; None for as many as this process uses.

        Raises:
            InputError: the interpreter does not exist or has no usable package.
        """
        program = str(python or sys.executable)
        worker = str(files("midframe.evaluation").joinpath("cvvdp_worker.py"))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        try:
            self._process = subprocess.Popen(
                [program, "-I", worker, CVVDP_DISPLAY, str(threads or torch.get_num_threads())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise InputError(f"--cvvdp '{program}' cannot be started: {error.strerror}; give a Python") from error
        if self._answer() != "ready":
            reason = self._last_error()
            self.close()
            raise InputError(
                f"'{program}' has no usable package cvvdp ({reason}); "
                f"{install_command('perceptual')}, or give another Python with --cvvdp"
            )

    def score(self, image: Tensor, truth: Tensor) -> float:
        """Return the JOD of a frame (3, H, W) RGB float 0..1, rounded to 8 bits, against the truth.

        Raises:
            MediaError: the worker ended.
        """
        if image.shape != truth.shape or image.dim() != 3:
            raise ValueError(f"images of shape {tuple(image.shape)} and {tuple(truth.shape)}: both must be (3, H, W)")
        pixels = [to_levels(x).to(torch.uint8).permute(1, 2, 0).contiguous().numpy().tobytes() for x in (image, truth)]
        height, width = image.shape[-2:]
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"%d %d\n" % (height, width) + pixels[0] + pixels[1])
            self._process.stdin.flush()
        except OSError:
            pass  # the answer says why
        try:
            return float(self._answer())
        except ValueError as error:
            raise MediaError(f"cvvdp ended: {self._last_error()}") from error

    def close(self) -> None:
        """End the worker."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(timeout=_SECONDS_TO_START)
        self._errors.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def _last_error(self) -> str:
        self._process.wait(timeout=_SECONDS_TO_START)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit code {self._process.returncode}"
