"""Kernels of midnet on a CPU, in C++ (src/native). All arrays are float32 without gaps unless said otherwise."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Range = tuple[float, float]  # the code value of 0, and how many make 1
Size = tuple[int, int]  # height, width

interface: int  # of this file; `kernels.INTERFACE`
CORRELATION_PADDING: int

def simd_variants() -> list[str]: ...
def simd_variant() -> str: ...
def use_simd_variant(name: str) -> None: ...
def exponential(x: Array, out: Array) -> None: ...
def logarithm(x: Array, out: Array) -> None: ...

class Planes:
    @property
    def luma(self) -> Array: ...
    @property
    def chroma(self) -> Array: ...  # None of a grey frame
    @property
    def block_means(self) -> Array: ...
    @property
    def matrix(self) -> list[float]: ...

class MotionHypotheses:
    @property
    def features(self) -> Array: ...
    @property
    def active(self) -> Array: ...
    @property
    def coverage(self) -> Array: ...

class Warped:
    @property
    def luma(self) -> Array: ...
    @property
    def chroma(self) -> Array: ...  # None of grey frames
    @property
    def evaluated(self) -> Array: ...
    @property
    def features(self) -> Array: ...
    @property
    def active(self) -> Array: ...
    @property
    def coverage(self) -> Array: ...
    @property
    def zero(self) -> int: ...
    @property
    def a(self) -> Planes: ...
    @property
    def b(self) -> Planes: ...

class FusionNetwork:
    def __init__(self, weights: list[Array], biases: list[Array], hypothesis_bias: Array, prior: Array) -> None: ...

class Workspace:
    def __init__(self, threads: int = 1) -> None: ...
    threads: int

    def planes_of_rgb(self, rgb: Array, matrix: Sequence[float]) -> Planes: ...
    def planes_of_codes(
        self, codes: list[Array], ranges: list[Range], size: Size, chroma_size: Size, matrix: Sequence[float]
    ) -> Planes: ...
    def rgb_of(self, luma: Array, chroma: Array, matrix: Sequence[float]) -> Array: ...
    def write_codes(self, plane: Array, range: Range, most: float, codes: Array) -> None: ...
    def spline_coefficients(self, planes: Array) -> Array: ...
    def warp(self, planes: Array, flow: Array) -> tuple[Array, Array]: ...
    def inverse_search(
        self,
        first: Sequence[NDArray[Any]],  # uint8
        second: Sequence[NDArray[Any]],
        initial: tuple[Sequence[Array], ...] | None,
        stride: int,
        steps: int,
        relaxation: float,
    ) -> Array: ...
    def background_motion(
        self,
        flow: Array,
        weight: Array,
        cells: Size,
        longer: int,
        taps: Array,
        iterations: int,
        prior: float,
        scale: float,
        ridge: float,
    ) -> Array: ...
    def forward_backward_error(self, flow: Array, backward: Array) -> Array: ...
    def confirmed_acceleration(self, own: Array, other: Array, flow: Array) -> Array: ...
    def local_correlation(self, a: Array, b: Array, radius: int) -> Array: ...
    def filtered_flow(self, padded: Array, radius: int, colour: float, reliable: float) -> Array: ...
    def flow_importance(
        self,
        flow: Array,
        error: Array,
        other_error: Array,
        background: Array,
        area: Sequence[float],
        limits: Sequence[float],
    ) -> Array: ...
    def hypotheses(
        self,
        flows: list[Array],
        importances: list[Array],
        refined: Array | None,
        acceleration: tuple[Array, Array] | None,
        t: float,
        names: list[str],
        others: list[str],
        shift: int,
        threshold: float,
    ) -> MotionHypotheses: ...
    def warp_hypotheses(
        self,
        hypotheses: MotionHypotheses,
        a: Planes,
        b: Planes,
        occlusion_ab: Array,
        occlusion_ba: Array,
        limits: Sequence[float],
    ) -> Warped: ...
    def fuse(self, warped: Warped, network: FusionNetwork, t: float) -> Array: ...
    def blend(self, warped: Warped, weights: Array) -> tuple[Array, Array | None]: ...
