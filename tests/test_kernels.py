"""What happens where the C++ kernels are not installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from midframe import kernels
from midframe.models.midnet.model import backend_for
from midframe.models.midnet.torch_backend import TorchBackend


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = kernels.missing, kernels.warn_if_missing
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    yield
    for cached in caches:
        cached.cache_clear()


def test_midnet_runs_on_torch_and_one_line_says_why_it_is_slow(
    nothing_installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert isinstance(backend_for(torch.device("cpu")), TorchBackend)
        assert isinstance(backend_for(torch.device("cpu")), TorchBackend)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "C++ kernels are not installed" in line and "10 times slower" in line and "compiler" in line
    assert kernels.description() == line


def test_a_module_of_other_sources_is_told_from_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("midframe._native")
    kernels.missing.cache_clear()
    try:
        monkeypatch.delattr(module, "interface")
        assert "built from other sources" in kernels.missing() and "build-native" in kernels.missing()
        assert isinstance(backend_for(torch.device("cpu")), TorchBackend)
    finally:
        kernels.missing.cache_clear()
        monkeypatch.undo()
    assert kernels.missing() == ""
