"""Planes to RGB and back: exact round trips, and agreement with libswscale's accurate mode."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product

import av
import av.filter
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation

from midframe import colour
from midframe.types import PixelFormat

ACCURATE = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
CHROMA = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "440": (0, 1), "411": (2, 0), "410": (2, 2)}
SPACES = {"bt709": 1, "smpte170m": 5, "bt2020nc": 9, "smpte240m": 7, "fcc": 4}  # libswscale's numbers


@pytest.fixture(autouse=True)
def several_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small frames, cut as large ones are."""
    monkeypatch.setattr(colour, "STRIP_ROWS", 64)


def yuv(chroma: str = "420", depth: int = 8, **more: object) -> PixelFormat:
    name = f"yuv{chroma}p" + ("" if depth == 8 else f"{depth}le")
    return replace(PixelFormat(name, "yuv", depth, *CHROMA[chroma]), **more)


def noise(
    format: PixelFormat, height: int, width: int, low: float = 0.0, high: float = 1.0
) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(height * 1000 + width)
    top = (1 << format.depth) - 1
    sizes = [(height, width)] * format.plane_count
    if format.layout == "yuv":
        small = (-(-height >> format.chroma_h), -(-width >> format.chroma_w))
        sizes[1:3] = [small, small]
    return tuple(
        torch.randint(int(low * top), int(high * top) + 1, size).to(torch.int32).to(format.dtype) for size in sizes
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.to(torch.int32) - b.to(torch.int32)).abs().max())


@pytest.mark.parametrize("chroma", CHROMA)
@pytest.mark.parametrize("size", [(64, 48), (65, 33), (1, 1), (2, 3), (130, 70), (129, 7), (66, 66), (1, 9)])
def test_a_round_trip_changes_no_level(chroma: str, size: tuple[int, int]) -> None:
    for siting, matrix, full in product(("left", "center", "topleft"), ("bt709", "ycgco"), (False, True)):
        for depth in (8, 10, 16):
            format = yuv(chroma, depth, siting=siting, matrix=matrix, full_range=full)
            planes = noise(format, *size)
            back = colour.from_rgb(colour.to_rgb(planes, format), format)
            assert [p.dtype for p in back] == [format.dtype] * 3
            for before, after in zip(planes, back, strict=True):
                assert difference(before, after) == 0, (siting, matrix, full, depth)


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_rgb_and_gray_round_trip(depth: int) -> None:
    suffix = "" if depth == 8 else f"{depth}le"
    for layout, name, full in (("rgb", "gbrp", True), ("gray", "gray", True), ("gray", "gray", False)):
        format = PixelFormat(name + suffix, layout, depth, full_range=full)
        planes = noise(format, 9, 13)
        rgb = colour.to_rgb(planes, format)
        assert rgb.shape == (3, 9, 13) and rgb.dtype == torch.float32
        for before, after in zip(planes, colour.from_rgb(rgb, format), strict=True):
            assert difference(before, after) == 0


def with_swscale(
    planes: tuple[torch.Tensor, ...], format: PixelFormat, name: str, height: int, width: int
) -> np.ndarray:
    """RGB of the planes as libswscale makes it: (H, W, 3)."""
    frame = av.VideoFrame(width, height, format.name)
    for plane, source in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        if format.depth > 8:
            rows.view(np.uint16)[:, : plane.width] = source.numpy()
        else:
            rows[:, : plane.width] = source.numpy()
    space = SPACES[format.matrix]
    range_in = 2 if format.full_range else 1
    made = frame.reformat(
        format=name, src_colorspace=space, dst_colorspace=space, src_color_range=range_in, dst_color_range=2,
        interpolation=ACCURATE,
    )  # fmt: skip
    return made.to_ndarray()


@pytest.mark.parametrize("matrix", SPACES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_colours_agree_with_swscale(matrix: str, full: bool, depth: int) -> None:
    format = yuv("444", depth, matrix=matrix, full_range=full)
    planes = noise(format, 64, 64)
    ours = colour.to_rgb(planes, format)
    far = (ours > 1.9).any(0, keepdim=True).expand_as(ours).permute(1, 2, 0).numpy()
    assert far.mean() < 0.05
    ours = ours.clamp(0, 1)
    for name, top in (("rgb24", 255), ("rgb48le", 65535)):
        theirs = with_swscale(planes, format, name, 64, 64).astype(np.int64)
        mine = (ours * top + 0.5).to(torch.int64).permute(1, 2, 0).numpy()
        # libswscale's own sums run over at twice white
        theirs = np.where(far, mine, theirs)
        allowed = 1 if top == 255 else 3 * 257 // 2  # libswscale works with 14 bits of the coefficients
        assert np.abs(mine - theirs).max() <= allowed


def scaled(frame: av.VideoFrame, siting: str) -> np.ndarray:
    """RGB of a BT.709 frame whose chroma sits at `siting`, by libavfilter."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    scale = graph.add(
        "scale",
        f"flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact:in_chroma_loc={siting}:"
        "in_color_matrix=bt709:in_range=tv:out_range=pc",
    )
    wanted = graph.add("format", "rgb24")
    sink = graph.add("buffersink")
    graph.link_nodes(source, scale, wanted, sink)
    graph.configure()
    graph.push(frame)
    return graph.pull().to_ndarray()


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
@pytest.mark.parametrize("chroma", ["420", "422"])
def test_chroma_is_put_where_swscale_puts_it(chroma: str, siting: str) -> None:
    format = yuv(chroma, 8, siting=siting)
    height, width = 64, 96
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    down, across = 1 << format.chroma_h, 1 << format.chroma_w
    planes = [
        40 + (x + y) % 160,
        (80 + 2 * x)[::down, ::across] % 150 + 40,
        (90 + 2 * y + x)[::down, ::across] % 150 + 40,
    ]
    frame = av.VideoFrame(width, height, format.name)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        rows[:, : plane.width] = samples.numpy()
    mine = colour.to_rgb([p.to(torch.uint8) for p in planes], format).clamp(0, 1)
    mine = (mine * 255 + 0.5).to(torch.int).permute(1, 2, 0).numpy()
    apart = np.abs(mine - scaled(frame, siting).astype(int))[4:-4, 4:-4]
    assert apart.max() <= 1


def test_to_yuv_agrees_with_swscale() -> None:
    torch.manual_seed(0)
    rgb = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    frame = av.VideoFrame.from_ndarray(rgb.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    for matrix, full in product(SPACES, (False, True)):
        format = yuv("444", 8, matrix=matrix, full_range=full)
        made = frame.reformat(
            format="yuv444p", src_colorspace=SPACES[matrix], dst_colorspace=SPACES[matrix], src_color_range=2,
            dst_color_range=2 if full else 1, interpolation=ACCURATE,
        )  # fmt: skip
        theirs = made.to_ndarray()
        mine = colour.from_rgb(rgb.float() / 255, format)
        for n in range(3):
            assert np.abs(mine[n].numpy().astype(int) - theirs[n].astype(int)).max() <= 1, (matrix, full)


def test_levels_beyond_black_and_white_survive() -> None:
    format = yuv("420")
    planes = (torch.full((4, 4), 250, dtype=torch.uint8), *(torch.full((2, 2), 128, dtype=torch.uint8),) * 2)
    rgb = colour.to_rgb(planes, format)
    assert rgb.min() > 1
    assert difference(colour.from_rgb(rgb, format)[0], planes[0]) == 0


def test_known_colours() -> None:
    # BT.709 red, limited range: ITU-R BT.709-6 gives Y 63, Cb 102, Cr 240
    red = torch.zeros(3, 2, 2)
    red[0] = 1
    y, cb, cr = colour.from_rgb(red, yuv("420", matrix="bt709"))
    assert (int(y[0, 0]), int(cb[0, 0]), int(cr[0, 0])) == (63, 102, 240)
    y, cb, cr = colour.from_rgb(red, yuv("420", matrix="smpte170m"))
    assert (int(y[0, 0]), int(cb[0, 0]), int(cr[0, 0])) == (81, 90, 240)


def test_an_edge_of_colour_stays_in_place() -> None:
    # half red, half blue; after the round trip through 4:2:0 the edge is where it was, for every siting
    image = torch.zeros(3, 8, 32)
    image[0, :, :16] = 1
    image[2, :, 16:] = 1
    for siting in ("left", "center", "topleft"):
        format = yuv("420", siting=siting)
        seen = colour.to_rgb(colour.from_rgb(image, format), format)
        middle = float((seen[0] - seen[2]).mean(0).cumsum(0).argmax())
        assert abs(middle - 15.5) <= 0.5, siting


def test_convert_keeps_what_both_formats_have() -> None:
    source = yuv("420", 8, alpha=True)
    planes = noise(source, 20, 24)
    same = colour.convert(planes, source, replace(source, alpha=False))
    assert all(a is b for a, b in zip(same, planes, strict=False)) and len(same) == 3
    deep = replace(source, name="yuva420p10le", depth=10)
    wide = colour.convert(planes, source, deep)
    assert [p.dtype for p in wide] == [torch.uint16] * 4
    back = colour.convert(wide, deep, source)
    for before, after in zip(planes, back, strict=True):
        assert difference(before, after) <= 1
    opaque = colour.convert(planes[:3], replace(source, alpha=False), source)
    assert opaque[3].min() == 255


def test_a_column_of_strips_equals_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    # strips are an arrangement in memory, not in the frame
    format = yuv("420", siting="topleft")
    planes = noise(format, 300, 40)
    whole = colour.to_rgb(planes, format)
    monkeypatch.setattr(colour, "STRIP_ROWS", 300)
    assert torch.equal(colour.to_rgb(planes, format), whole)
    assert all(torch.equal(a, b) for a, b in zip(colour.from_rgb(whole, format), planes, strict=True))


@pytest.mark.gpu
def test_the_device_makes_no_difference() -> None:
    for depth in (8, 10):
        format = yuv("420", depth)
        planes = noise(format, 130, 66)
        here, there = colour.to_rgb(planes, format), colour.to_rgb(planes, format, "cuda")
        assert there.device.type == "cuda"
        torch.testing.assert_close(here, there.cpu(), atol=2e-6, rtol=0)
        for a, b in zip(planes, colour.from_rgb(there, format), strict=True):
            assert difference(a, b.cpu()) == 0
