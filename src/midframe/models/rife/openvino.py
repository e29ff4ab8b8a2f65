"""RIFE frames by OpenVINO on a CPU: one compiled graph per frame size, float32 throughout.

bf16 is not used: with flow and sampling in it the frames differ by 42 dB from those of float32.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from midframe.errors import InputError
from midframe.models.rife.network import Network, compose, eighth


def installed() -> bool:
    """Whether the package openvino is there."""
    return importlib.util.find_spec("openvino") is not None


class _Whole(nn.Module):
    """The graph that is compiled: both encoded images and t in, the frame and its reduced flow out."""

    def __init__(self, network: Network, flow_scale: float) -> None:
        super().__init__()
        self.network = network
        self.flow_scale = flow_scale

    def forward(self, a: Tensor, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.network.architecture.any_time:
            state = self.network.at(a, b, t, self.flow_scale)
        else:
            state = self.network.middle(a, b, self.flow_scale)
        return compose(a[:, :3], b[:, :3], state), eighth(state.flow)


class OpenVino:
    """A network's compiled graphs. Threads may share it: each has its own inference request."""

    def __init__(self, network: Network) -> None:
        """Nothing is compiled before the first frame.

        Raises:
            InputError: the package is not installed.
        """
        if not installed():
            raise InputError("--runtime openvino needs the package: pip install 'midframe[openvino]'")
        self._network = network
        self._graphs: dict[tuple[int, int, float], Any] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def frame(self, a: Tensor, b: Tensor, t: float, flow_scale: float) -> tuple[Tensor, Tensor]:
        """The frame (1, 3, H, W) at t and the flow (1, 4, H / 8, W / 8) from encoded images (1, C, H, W) each."""
        request = self._request((a.shape[-2], a.shape[-1], flow_scale), a)
        given = [a, b] if not self._network.architecture.any_time else [a, b, torch.tensor([t])]
        answer = request.infer([x.contiguous().numpy() for x in given])
        frame, flow = (torch.from_numpy(answer[n].copy()) for n in (0, 1))  # the request keeps its own memory
        return frame, flow

    def _request(self, key: tuple[int, int, float], like: Tensor) -> Any:
        requests = self._own.__dict__.setdefault("requests", {})
        if key not in requests:
            with self._lock:
                if key not in self._graphs:
                    self._graphs[key] = self._compile(like, key[2])
            requests[key] = self._graphs[key].create_infer_request()
        return requests[key]

    def _compile(self, like: Tensor, flow_scale: float) -> Any:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # decoder and encoder want the cores too
        }
        example = torch.zeros(tuple(like.shape))
        shapes = [tuple(like.shape), tuple(like.shape), (1,)]
        if not self._network.architecture.any_time:
            shapes.pop()  # t is no input of its graph
        # tensors made in inference mode cannot be traced, and the engine works in it
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about sizes that are constants here
            inputs = (example.clone(), example.clone(), torch.full((1,), 0.5))
            graph = openvino.convert_model(_Whole(self._network, flow_scale), example_input=inputs, input=shapes)
        return openvino.Core().compile_model(graph, "CPU", settings)
