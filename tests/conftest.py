"""Shared by all tests: the slow and gpu marks, and threads that do not fight over two cores."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

from commands import Call, Done


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    # the few small frames of tests must not enter the estimates of this user's videos
    os.environ["MIDFRAME_SPEED_FILE"] = os.path.join(tempfile.gettempdir(), f"midframe-speed-{os.getpid()}.json")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --run-slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call("probe", path)`: the command line in this process, with exit code, out and err."""
    from midframe.cli import main

    def run(*words: object) -> Done:
        monkeypatch.setattr("sys.argv", ["midframe", *(str(word) for word in words)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    return run
