"""What midnet does to pictures on a CPU, compiled by Numba: splines, pictures drawn, judged and mixed.

The same stands in midnet.py as tensor operations, which GPUs and training use and which are the oracle of the tests.
There each operation passes whole pictures through memory; here a few rows at a time go through all of them, which takes
a fifth of the time. Rows do not depend on how they are shared among threads.

A picture is light and chroma, as films are: what is done to it is linear, so nothing is lost by it, and chroma of a
film is drawn at its own size, which is less than half of the samples of RGB.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from midframe.colour import levels, matrix_to_rgb
from midframe.models.midnet import EVIDENCE, Motion
from midframe.types import PixelFormat

Array = NDArray[Any]  # of float32
Number = Any  # float32, or an integer, in compiled code
Mask = NDArray[np.bool_]
Runs = NDArray[np.int64]  # (R, 4): rows first to last and columns left to right of 4x4 blocks
Function = TypeVar("Function", bound=Callable[..., Any])

f32 = np.float32
# Blocks; sides of the tiles in which a guess is drawn or not: `midnet.TILE_BLOCKS`, once more here, for compiled code
# is kept until this file changes.
TILE = 4
BAND = 8  # rows of 4x4 blocks that are worked on at a time: what one needs of a picture fits a processor's own cache
SHORT = 32  # blocks; a run that is looked at block by block
NEAR = 2  # tiles between runs that are looked at as well, as one run
POLE = f32(np.sqrt(3.0) - 2.0)  # of the cubic B-spline


def compiled(function: Function) -> Function:
    """Machine code, kept on disk where there is a place for it; lets go of the interpreter.

    Products and sums are not fused: a loop's last turns are not done in lanes, and must round as the others do. Which
    turns are depends on where arrays lie, and the same film has to come out twice.
    """
    options: dict[str, Any] = {"fastmath": {"nsz"}, "error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither beside the source nor in the home of the user can anything be written
        return njit(**options)(function)  # type: ignore[no-any-return]


Values = Sequence[Any]  # of LLVM
WORD, FLOAT, LONG = ir.IntType(32), ir.FloatType(), ir.IntType(64)
BESIDE = 8, 4  # pixels of one and of two channels that are drawn together


def _shuffled(builder: Any, vector: Any, order: Sequence[int]) -> Any:
    nothing = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, nothing, ir.Constant(ir.VectorType(WORD, len(order)), list(order)))


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    """A value in every lane."""
    one = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, ir.Constant(WORD, 0)
    )
    return _shuffled(builder, one, [0] * lanes)


def _loaded(builder: Any, place: Any, lanes: int) -> Any:
    found = builder.load(builder.bitcast(place, ir.VectorType(FLOAT, lanes).as_pointer()))
    found.align = 4
    return found


def _stored(builder: Any, vector: Any, place: Any) -> None:
    builder.store(vector, builder.bitcast(place, vector.type.as_pointer())).align = 4


def _starts(context: Any, builder: Any, kinds: Values, values: Values) -> list[Any]:
    """Where the arrays among arguments begin in memory; the others as they are."""
    return [
        cgutils.create_struct_proxy(kind)(context, builder, value).data  # type: ignore[no-untyped-call]
        if isinstance(kind, types.Array)
        else value
        for kind, value in zip(kinds, values, strict=True)
    ]


def _interpolated(builder: Any, place: Any, across: int, pixels: int) -> Any:
    """Pixels of blocks `across` wide, the first of which is the second of the four found at a place; linear."""
    offsets = [(k % across + 0.5) / across - 0.5 for k in range(pixels)]  # from the middle of its block, in blocks
    left = [k // across + (offset >= 0) for k, offset in enumerate(offsets)]
    blocks = _loaded(builder, place, 4)
    one, two = (_shuffled(builder, blocks, [k + more for k in left]) for more in (0, 1))
    part = ir.Constant(one.type, [offset % 1 for offset in offsets])
    return builder.fadd(one, builder.fmul(part, builder.fsub(two, one)))


def _enlarger(across: int) -> Any:
    """Two blocks of a row of them as pixels."""

    def enlarge(context: Any, blocks: Any, at: Any, out: Any, to: Any) -> Any:
        """Of the flat `blocks` those at `at + 1` and the next, between those beside, to the flat `out` at `to`."""
        signature = types.void(blocks, at, out, to)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            blocks, at, out, to = _starts(context, builder, signature.args, values)
            found = _interpolated(builder, builder.gep(blocks, [at]), across, 2 * across)
            _stored(builder, found, builder.gep(out, [to]))
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(enlarge)


def _weigher(channels: int, across: int) -> Any:
    """From flows of blocks to the spline's weights of a group of pixels side by side in a row."""
    pixels = BESIDE[channels - 1]
    kind, whole = ir.VectorType(FLOAT, pixels), ir.VectorType(WORD, pixels)

    def same(number: float) -> Any:
        return ir.Constant(kind, [float(f32(number))] * pixels)

    def weights(builder: Any, place: Any, size: Any, room: Any) -> Any:
        """Stores the four weights, (4, pixels), and returns the first of the four coefficients."""
        last = builder.sitofp(builder.sub(size, ir.Constant(size.type, 1)), FLOAT)
        most, least = _spread(builder, last, pixels), same(0.0)
        place = builder.select(builder.fcmp_ordered(">", place, least), place, least)  # also where it is no number
        place = builder.select(builder.fcmp_ordered("<", place, most), place, most)
        first = builder.fptosi(place, whole)
        f = builder.fsub(place, builder.sitofp(first, kind))
        g = builder.fsub(same(1.0), f)

        def outer(x: Any) -> Any:
            return builder.fmul(builder.fmul(builder.fmul(x, x), x), same(1.0 / 6.0))

        def inner(x: Any) -> Any:
            curve = builder.fsub(builder.fmul(same(3.0), x), same(6.0))
            return builder.fmul(builder.fadd(same(4.0), builder.fmul(builder.fmul(x, x), curve)), same(1.0 / 6.0))

        for k, value in enumerate((outer(g), inner(f), inner(g), outer(f))):
            _stored(builder, value, builder.gep(room, [ir.Constant(LONG, k * pixels)]))
        return builder.add(first, ir.Constant(whole, [1] * pixels))  # coefficients begin two places before the picture

    def weigh(
        context: Any, flows: Any, at: Any, far: Any, x: Any, y: Any, down: Any, width: Any, height: Any, stride: Any,
        wx: Any, wy: Any, places: Any,
    ) -> Any:  # fmt: skip
        """Whether the places of pixels x and on of row y lie side by side in the spline of (height, width).

        Flows to the right, of blocks from the one before on, are found at `at`, those down `far` further on; a block
        has `down` rows. Weights (4, pixels) go to `wx` and `wy`, the first place of each pixel, less what it is further
        on, to `places`.
        """
        signature = types.boolean(flows, at, far, x, y, down, width, height, stride, wx, wy, places)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            flows, at, far, x, y, down, width, height, stride, wx, wy, places = _starts(
                context, builder, signature.args, values
            )

            def moved(at: Any, begin: Any, scale: Any) -> Any:
                flow = _interpolated(builder, builder.gep(flows, [at]), across, pixels)
                return builder.fadd(begin, builder.fmul(scale, flow))

            begin = _spread(builder, builder.sitofp(x, FLOAT), pixels)
            begin = builder.fadd(begin, ir.Constant(kind, [float(k) for k in range(pixels)]))
            to_x = moved(at, begin, same(across))
            down = _spread(builder, builder.sitofp(down, FLOAT), pixels)
            to_y = moved(builder.add(at, far), _spread(builder, builder.sitofp(y, FLOAT), pixels), down)
            columns, rows = weights(builder, to_x, width, wx), weights(builder, to_y, height, wy)
            columns = builder.sub(columns, ir.Constant(whole, list(range(pixels))))
            line = _spread(builder, builder.trunc(stride, WORD), pixels)
            found = builder.add(builder.mul(rows, line), builder.mul(columns, ir.Constant(whole, [channels] * pixels)))
            _stored(builder, found, places)
            first = _shuffled(builder, found, [0] * pixels)
            equal = builder.bitcast(builder.icmp_signed("==", found, first), ir.IntType(pixels))
            return builder.icmp_unsigned("==", equal, ir.Constant(ir.IntType(pixels), (1 << pixels) - 1))

        return signature, generate

    return intrinsic(weigh)


def _sampler(channels: int, pixels: int) -> Any:
    """Weighted sums of 4x4 places of one or two channels: what a loop vectoriser does not find by itself.

    Of a single pixel, the places of a row in lanes; or of several whose places lie side by side, the pixels in lanes.
    Both add in the same order, and nothing is fused, so that it makes no difference which of them is used.
    """
    lanes = channels * (4 if pixels == 1 else pixels)

    def down(builder: Any, place: Any, stride: Any, weights: Values) -> Any:
        total = None
        for weight in weights:
            product = builder.fmul(_loaded(builder, place, lanes), weight)
            total = product if total is None else builder.fadd(total, product)
            place = builder.gep(place, [stride])
        return total

    def of_one(builder: Any, source: Any, stride: Any, wx: Any, wy: Any, width: Any) -> Any:
        across: Any = ir.Constant(ir.VectorType(FLOAT, lanes), ir.Undefined)
        weights: list[Any] = []
        for k in range(4):
            for channel in range(channels):
                lane = ir.Constant(WORD, channels * k + channel)
                across = builder.insert_element(across, builder.load(wx), lane)
            weights.append(_spread(builder, builder.load(wy), lanes))
            wx, wy = builder.gep(wx, [width]), builder.gep(wy, [width])
        total, left = builder.fmul(down(builder, source, stride, weights), across), lanes
        while left > channels:  # the sum of the four places
            left //= 2
            total = builder.fadd(*(_shuffled(builder, total, range(k, k + left)) for k in (0, left)))
        return total

    def of_several(builder: Any, source: Any, stride: Any, wx: Any, wy: Any, width: Any) -> Any:
        twice = [lane // channels for lane in range(lanes)]
        weights, across = [], []
        for _ in range(4):
            across.append(_shuffled(builder, _loaded(builder, wx, pixels), twice))
            weights.append(_shuffled(builder, _loaded(builder, wy, pixels), twice))
            wx, wy = builder.gep(wx, [width]), builder.gep(wy, [width])
        columns = []
        for k in range(4):
            place = builder.gep(source, [ir.Constant(LONG, channels * k)])
            columns.append(builder.fmul(down(builder, place, stride, weights), across[k]))
        return builder.fadd(builder.fadd(columns[0], columns[2]), builder.fadd(columns[1], columns[3]))

    def sample(
        context: Any, source: Any, base: Any, stride: Any, wx: Any, wy: Any, first: Any, width: Any, target: Any,
        at: Any, apart: Any,
    ) -> Any:  # fmt: skip
        """Of the flat float32 `source` the places of the first pixel begin at `base`, rows are `stride` apart.

        Weights (4, width) are flat and looked at from `first` on; the channels go to the flat `target` at `at` and
        `apart` further on.
        """
        signature = types.void(source, base, stride, wx, wy, first, width, target, at, apart)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            source, base, stride, wx, wy, first, width, target, at, apart = _starts(
                context, builder, signature.args, values
            )
            source, target = builder.gep(source, [base]), builder.gep(target, [at])
            wx, wy = builder.gep(wx, [first]), builder.gep(wy, [first])
            total = (of_one if pixels == 1 else of_several)(builder, source, stride, wx, wy, width)
            for channel in range(channels):
                _stored(builder, _shuffled(builder, total, range(channel, channels * pixels, channels)), target)
                target = builder.gep(target, [apart])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(sample)


def _multiplier(outputs: int, lanes: int) -> Any:
    """A product of matrices, `outputs` rows and `lanes` columns of it: their sums never leave the processor."""
    kind = ir.VectorType(FLOAT, lanes)

    def multiply(
        context: Any, weight: Any, first: Any, inside: Any, count: Any, bias: Any, row: Any, x: Any, at: Any,
        width: Any, out: Any, to: Any,
    ) -> Any:  # fmt: skip
        """Rows `row` and on of the flat `weight` (., inside), `count` entries of each from `first` on, times x.

        Of the flat x (inside, width) column 0 of entry 0 is at `at`; of the flat `out` (., width) row 0 at `to`.
        """
        signature = types.void(weight, first, inside, count, bias, row, x, at, width, out, to)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            weight, first, inside, count, bias, row, x, at, width, out, to = _starts(
                context, builder, signature.args, values
            )
            rows = [builder.add(row, ir.Constant(LONG, k)) for k in range(outputs)]
            sums = [cgutils.alloca_once(builder, kind) for _ in rows]  # type: ignore[no-untyped-call]
            for own, total in zip(rows, sums, strict=True):
                builder.store(_spread(builder, builder.load(builder.gep(bias, [own])), lanes), total)
            begins = [builder.add(builder.mul(own, inside), first) for own in rows]
            with cgutils.for_range(builder, count) as loop:
                entry = builder.add(loop.index, first)
                values = _loaded(builder, builder.gep(x, [builder.add(at, builder.mul(entry, width))]), lanes)
                for begin, total in zip(begins, sums, strict=True):
                    place = builder.gep(weight, [builder.add(begin, loop.index)])
                    product = builder.fmul(values, _spread(builder, builder.load(place), lanes))
                    builder.store(builder.fadd(builder.load(total), product), total)
            for own, total in zip(rows, sums, strict=True):
                _stored(builder, builder.load(total), builder.gep(out, [builder.add(to, builder.mul(own, width))]))
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(multiply)


def _bits_as_float(context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda _, builder, __, values: builder.bitcast(values[0], ir.FloatType())


def _float_as_bits(context: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(32))


weigh_light, weigh_chroma, weigh_half = _weigher(1, 4), _weigher(2, 4), _weigher(2, 2)
sample_one, sample_two = _sampler(1, 1), _sampler(2, 1)
sample_ones, sample_twos = _sampler(1, BESIDE[0]), _sampler(2, BESIDE[1])
enlarge_twice, enlarge_fourfold = _enlarger(2), _enlarger(4)
multiply_wide, multiply_tile = _multiplier(4, 4 * TILE), _multiplier(4, TILE)
multiply_row, multiply_bit = _multiplier(1, 4 * TILE), _multiplier(1, TILE)
bits_as_float: Any = intrinsic(_bits_as_float)  # the float32 whose bits an int32 has
float_as_bits: Any = intrinsic(_float_as_bits)


@compiled
def exp(x: Number) -> Number:
    """e^x of a float32 up to 0; relative error 1e-7 times 1 - x. Unlike the library's, it can be computed in lanes."""
    y = max(x * f32(1.4426950408889634), f32(-126.0))
    whole = np.int32(y - f32(0.5))
    f = y - f32(whole)  # -0.5..0.5
    p = f32(1.535336188319500e-4)
    for c in (1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2, 2.402264791363012e-1,
              6.931472028550421e-1, 1.0):  # fmt: skip
        p = p * f + f32(c)
    return p * bits_as_float((whole + np.int32(127)) << np.int32(23))


@compiled
def log(x: Number) -> Number:
    """Natural logarithm of a positive, normal float32; error 1e-6."""
    bits = float_as_bits(x)
    exponent = (bits >> np.int32(23)) - np.int32(127)
    m = bits_as_float((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000))  # 1..2
    high = np.int32(1) if m > f32(1.41421356) else np.int32(0)
    m = m * (f32(0.5) if high else f32(1.0))
    s = (m - f32(1.0)) / (m + f32(1.0))
    q = s * s
    series = f32(2.0) + q * (f32(2.0 / 3.0) + q * (f32(0.4) + q * f32(2.0 / 7.0)))
    return f32(exponent + high) * f32(0.6931471805599453) + s * series


@compiled
def _within(x: Number, low: Number, high: Number) -> Number:
    """Brought to low..high; `low` for what is no number, for it may say where memory is read."""
    return min(x if x > low else low, high)


# Written out: numpy's assignment to slices takes seconds to compile


@compiled
def _clear(row: Array) -> None:
    for x in range(row.shape[0]):
        row[x] = f32(0.0)


@compiled
def _put(source: Array, target: Array) -> None:
    for x in range(target.shape[0]):
        target[x] = source[x]


# Splines


@compiled
def _filter_rows(first: int, last: int, planes: Array, out: Array) -> None:
    """Rows first to last of all those of (C, H, W), two places more on either side, filtered into (H, W + 4, C).

    One value waits for the one before, so four rows go side by side; H is a multiple of four.
    """
    _, height, width = planes.shape
    long = width + 4
    z, six, whole = POLE, f32(6.0), f32(1.0) / (f32(1.0) - POLE)
    end = z / (f32(1.0) - z * z)
    kept, level = np.empty((long, 4), np.float32), np.empty(4, np.float32)
    for row in range(first, last, 4):
        c, y = row // height, row % height
        rows = planes[c, y : y + 4]
        one, two, three, four = rows[0, 0] * whole, rows[1, 0] * whole, rows[2, 0] * whole, rows[3, 0] * whole
        for x in range(long):
            k = min(max(x - 2, 0), width - 1)
            if x > 0:
                one, two = rows[0, k] + z * one, rows[1, k] + z * two
                three, four = rows[2, k] + z * three, rows[3, k] + z * four
            kept[x, 0], kept[x, 1], kept[x, 2], kept[x, 3] = one, two, three, four
        for k in range(4):
            value = rows[k, width - 1] * whole
            level[k] = -z * whole * value - end * (kept[long - 1, k] - value)
        one, two, three, four = level[0], level[1], level[2], level[3]
        for back in range(long):
            x = long - 1 - back
            if back > 0:
                one, two = z * (one - kept[x, 0]), z * (two - kept[x, 1])
                three, four = z * (three - kept[x, 2]), z * (four - kept[x, 3])
            out[y, x, c], out[y + 1, x, c] = six * one, six * two
            out[y + 2, x, c], out[y + 3, x, c] = six * three, six * four


@compiled
def _filter_columns(first: int, last: int, rows: Array, out: Array) -> None:
    """Columns first to last of (H, N), two places more at either end, filtered along themselves, into (H + 4, N)."""
    height = rows.shape[0]
    tall = height + 4
    z = POLE
    end = z / (f32(1.0) - z * z)
    for x in range(first, last):
        out[0, x] = rows[0, x] / (f32(1.0) - z)
    for y in range(1, tall):
        source = min(max(y - 2, 0), height - 1)
        for x in range(first, last):
            out[y, x] = rows[source, x] + z * out[y - 1, x]
    for x in range(first, last):
        level = rows[height - 1, x] / (f32(1.0) - z)
        out[tall - 1, x] = -z * level / (f32(1.0) - z) - end * (out[tall - 1, x] - level)
    for y in range(tall - 2, -1, -1):
        for x in range(first, last):
            out[y, x] = z * (out[y + 1, x] - out[y, x])
        for x in range(first, last):
            out[y + 1, x] *= f32(6.0)
    for x in range(first, last):
        out[0, x] *= f32(6.0)


# Rows of flows and shares, enlarged as `F.interpolate` enlarges bilinearly
# Loops run from 0 over slices: an index that might be negative keeps a loop from being done in lanes


@compiled
def _between(flat: Array, at: int, height: int, width: int, place: Number, left: int, right: int, out: Array) -> None:
    """What lies at height `place` between rows of a plane (height, width), which begins at `at` of a flat array.

    Columns from one before `left` to one after `right`; the edge is repeated.
    """
    above = int(place)
    part = place - f32(above)
    upper = np.uint64(at + above * width)
    lower = np.uint64(at + min(above + 1, height - 1) * width)
    first, last = np.uint64(max(left - 1, 0)), min(right + 1, width)
    shift = np.uint64(first - np.uint64(left) + np.uint64(1))  # 0, or 1 at the left edge
    for k in range(last - np.int64(first)):
        x = np.uint64(k)
        one = flat[upper + first + x]
        out[shift + x] = one + part * (flat[lower + first + x] - one)
    if left == 0:
        out[0] = out[1]
    if right == width:
        out[right - left + 1] = out[right - left]


@compiled
def _height(y: Number, down: Number) -> Number:
    """Where row y lies between rows of blocks of `down` rows."""
    return max((f32(y) + f32(0.5)) / f32(down) - f32(0.5), f32(0.0))


@compiled
def _enlarge(grid: Array, y: int, down: int, across: int, left: int, right: int, wide: Array, row: Array) -> None:
    """What columns left to right of a grid (h, w) become in row y of it, enlarged `down` times and `across` 2 or 4.

    `wide` is room for two columns more than that; there is an even number of them.
    """
    height, width = grid.shape
    _between(grid.reshape(-1), 0, height, width, _height(y, down), left, right, wide)
    if across == 4:
        for x in range(0, right - left, 2):
            enlarge_fourfold(wide, x, row, 4 * x)
    else:
        for x in range(0, right - left, 2):
            enlarge_twice(wide, x, row, 2 * x)


# Flows


@compiled
def _sample(plane: Array, y: int, left: int, scale: Number, across: Array, down: Array, out: Array) -> None:
    """As many columns as `out` has, from `left` on, of row y of a plane (H, W), moved by `scale` times (across, down).

    Linear; the edge is repeated.
    """
    height, width = plane.shape
    flat = plane.reshape(-1)
    one, below = np.uint64(1), np.uint64(width)
    for x in range(out.shape[0]):
        px = _within(f32(left + x) + scale * across[x], f32(0.0), f32(width - 1))
        py = _within(f32(y) + scale * down[x], f32(0.0), f32(height - 1))
        column, line = min(np.int64(px), width - 2), min(np.int64(py), height - 2)
        fx, fy = px - f32(column), py - f32(line)
        at = np.uint64(line * width + column)
        upper = flat[at] + fx * (flat[at + one] - flat[at])
        lower = flat[at + below] + fx * (flat[at + below + one] - flat[at + below])
        out[x] = upper + fy * (lower - upper)


@compiled
def _splat(flow: Array, bend: Array, importance: Array, t: Number, own: int, out: Array) -> None:
    """One flow (2, h, w) carried to the instant that is `t` away: what `midnet._carried` splats of it.

    Added to `out` (5, h, w) are weighted sums of the flows from there to a and to b, the one back being first if `own`
    is 0, and the sum of weights. `bend` (2, h, w or nothing) is the acceleration, `importance` (h, w) its logarithm.
    """
    _, height, width = flow.shape
    bent = bend.shape[1] > 0
    curve = f32(0.5) * t * (f32(1.0) - t)
    for y in range(height):
        for x in range(width):
            dx, dy = t * flow[0, y, x], t * flow[1, y, x]
            if bent:
                dx, dy = dx - curve * bend[0, y, x], dy - curve * bend[1, y, x]
            px = _within(f32(x) + dx, f32(-2.0), f32(width + 1))  # what is farther off lands nowhere
            py = _within(f32(y) + dy, f32(-2.0), f32(height + 1))
            left, top = np.int64(np.floor(px)), np.int64(np.floor(py))
            fx, fy = px - f32(left), py - f32(top)
            weight = np.exp(min(max(importance[y, x], f32(-6.0)), f32(6.0)))
            on_x, on_y = flow[0, y, x] - dx, flow[1, y, x] - dy
            for below in range(2):
                line = top + below
                if line < 0 or line >= height:
                    continue
                down = weight * (fy if below else f32(1.0) - fy)
                for beside in range(2):
                    column = left + beside
                    if column < 0 or column >= width:
                        continue
                    share = down * (fx if beside else f32(1.0) - fx)
                    out[2 * own, line, column] -= share * dx
                    out[2 * own + 1, line, column] -= share * dy
                    out[2 - 2 * own, line, column] += share * on_x
                    out[3 - 2 * own, line, column] += share * on_y
                    out[4, line, column] += share


@compiled
def _carried(
    first: int, last: int, from_a: Array, from_b: Array, ab: Array, ba: Array, bend_a: Array, bend_b: Array, t: Number,
    carried: Array, alone_a: Array, alone_b: Array, seen: Array,
) -> None:  # fmt: skip
    """Rows first to last of what `midnet._carried` makes of splats (5, h, w); what has no rows is not wanted."""
    width = ab.shape[2]
    s, floor = f32(1.0) - t, f32(0.05)
    bent = bend_a.shape[1] > 0
    wanted = seen.shape[1] > 0
    fill, more = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(first, last):
        load_a, load_b = from_a[4, y], from_b[4, y]
        for x in range(width):
            more[x] = f32(1.0) / (s * load_a[x] + t * load_b[x] + floor)
        for c in range(4):
            forth, back = ab[c % 2, y], ba[c % 2, y]
            of_forth, of_back = (-t * s, t * t) if c < 2 else (s * s, -t * s)
            for x in range(width):
                fill[x] = of_forth * forth[x] + of_back * back[x]
            if bent:
                one, two = bend_a[c % 2, y], bend_b[c % 2, y]
                half = f32(0.5) * t * s
                for x in range(width):
                    fill[x] += half * (s * one[x] + t * two[x])
            sum_a, sum_b, target = from_a[c, y], from_b[c, y], carried[c, y]
            for x in range(width):
                target[x] = (s * sum_a[x] + t * sum_b[x] + floor * fill[x]) * more[x]
        if not wanted:
            continue
        for side in range(2):
            flow, total, out = (ab, from_a, alone_a) if side == 0 else (ba, from_b, alone_b)
            bend, way = (bend_a, t) if side == 0 else (bend_b, s)
            if out.shape[1] > 0:
                for c in range(4):
                    forth, sums, load, target = flow[c % 2, y], total[c, y], total[4, y], out[c, y]
                    part = f32(0.0) - way if (c < 2) == (side == 0) else f32(1.0) - way  # back, or on
                    curve = f32(0.5) * t * s
                    if bent:
                        curved = bend[c % 2, y]
                        for x in range(width):
                            fill[x] = part * forth[x] + curve * curved[x]
                    else:
                        for x in range(width):
                            fill[x] = part * forth[x]
                    for x in range(width):
                        target[x] = (sums[x] + floor * fill[x]) / (load[x] + floor)
            covered, load = seen[side, y], total[4, y]
            for x in range(width):
                covered[x] = load[x] / (load[x] + f32(0.25))
        one, two, three = seen[0, y], seen[1, y], seen[2, y]
        for x in range(width):
            three[x] = f32(2.0) * (one[x] - two[x])


@compiled
def _from_beside(first: int, last: int, flows: Array, dx: int, dy: int, out: Array) -> None:
    """Rows first to last of flows (4, h, w), taken from so many places to the right and below; the edge is repeated."""
    _, height, width = flows.shape
    for c in range(4):
        for y in range(first, last):
            source, target = flows[c, min(max(y + dy, 0), height - 1)], out[c, y]
            for x in range(width):
                target[x] = source[min(max(x + dx, 0), width - 1)]


@compiled
def _present(first: int, last: int, guesses: Array, rest: int, apart: Number, present: Mask) -> None:
    """Rows first to last of tiles: `midnet.present`; where a guess (K, 4, h, w) is not, it becomes the first one."""
    kinds, _, _, width = guesses.shape
    for row in range(first, last):
        for tile in range(width // TILE):
            present[0, row, tile] = True
            for k in range(1, kinds):
                most = f32(0.0)
                for c in range(4):
                    for y in range(TILE * row, TILE * row + TILE):
                        for x in range(TILE * tile, TILE * tile + TILE):
                            most = max(most, abs(guesses[k, c, y, x] - guesses[0, c, y, x]))
                there = most > apart or k == rest
                present[k, row, tile] = there
                if not there:
                    _follow_first(guesses, k, row, tile)


@compiled
def _follow_first(guesses: Array, k: int, row: int, tile: int) -> None:
    """Let guess k of flows (K, 4, h, w) be the first one in a tile."""
    for c in range(4):
        for y in range(TILE * row, TILE * row + TILE):
            for x in range(TILE * tile, TILE * tile + TILE):
                guesses[k, c, y, x] = guesses[0, c, y, x]


@compiled
def _missed(first: int, last: int, flow: Array, back: Array, out: Array) -> None:
    """Rows first to last of `midnet.missed` of flows (2, h, w)."""
    width = flow.shape[2]
    one, two = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(first, last):
        across, down, target = flow[0, y], flow[1, y], out[y]
        _sample(back[0], y, 0, f32(1.0), across, down, one)
        _sample(back[1], y, 0, f32(1.0), across, down, two)
        for x in range(width):
            dx, dy = across[x] + one[x], down[x] + two[x]
            target[x] = f32(4.0) * np.sqrt(dx * dx + dy * dy)


@compiled
def _agreed(first: int, last: int, own: Array, other: Array, flow: Array, out: Array) -> None:
    """Rows first to last of the acceleration (2, h, w) that the far end of a flow bears out; see `midnet._agreed`."""
    width = flow.shape[2]
    one, two, tiny = np.empty(width, np.float32), np.empty(width, np.float32), f32(1e-6)
    for y in range(first, last):
        across, down, mine_x, mine_y = flow[0, y], flow[1, y], own[0, y], own[1, y]
        _sample(other[0], y, 0, f32(1.0), across, down, one)
        _sample(other[1], y, 0, f32(1.0), across, down, two)
        to_x, to_y = out[0, y], out[1, y]
        for x in range(width):
            mean_x, mean_y = f32(0.5) * (mine_x[x] + one[x]), f32(0.5) * (mine_y[x] + two[x])
            dx, dy = mine_x[x] - one[x], mine_y[x] - two[x]
            size = np.sqrt(mean_x * mean_x + mean_y * mean_y) + tiny
            speed = np.sqrt(across[x] * across[x] + down[x] * down[x])
            agree = max(f32(1.0) - np.sqrt(dx * dx + dy * dy) / size, f32(0.0))
            gain = agree * min(f32(0.5) * speed / size, f32(1.0))
            to_x[x], to_y[x] = mean_x * gain, mean_y * gain


@compiled
def _smoothed(first: int, last: int, place: Array, reach: int, alike: Number, sure: Number, out: Array) -> None:
    """Rows first to last of `midnet.smoothed`; `place` is (6, h + 2 reach, w + 2 reach): flow, colours, trust.

    Only where something is in doubt among 16 neighbours.
    """
    width = out.shape[2]
    rows, kept = np.empty((3, width), np.float32), np.empty(width, np.float32)
    for y in range(first, last):
        for x in range(width):
            kept[x] = min(sure * place[5, y + reach, x + reach], f32(1.0))
        for k in range(2):
            own, target = place[k, y + reach, reach:], out[k, y]
            for x in range(width):
                target[x] = own[x]
        for begin in range(0, width, 16):
            end = min(begin + 16, width)
            least = f32(1.0)
            for x in range(begin, end):
                least = min(least, kept[x])
            if least == f32(1.0):
                continue
            count, own_x = end - begin, reach + begin
            red, green, blue = place[2, y + reach, own_x:], place[3, y + reach, own_x:], place[4, y + reach, own_x:]
            across, down, load = rows[0, :count], rows[1, :count], rows[2, :count]
            for k in range(3):
                _clear(rows[k, :count])
            for line in range(y, y + 2 * reach + 1):
                for dx in range(2 * reach + 1):
                    far = f32((dx - reach) ** 2 + (line - y - reach) ** 2) / f32(2 * reach * reach)
                    there = begin + dx
                    flow_x, flow_y, trust = place[0, line, there:], place[1, line, there:], place[5, line, there:]
                    reds, greens, blues = place[2, line, there:], place[3, line, there:], place[4, line, there:]
                    for x in range(count):
                        one, two, three = reds[x] - red[x], greens[x] - green[x], blues[x] - blue[x]
                        weight = trust[x] * exp(-alike * (one * one + two * two + three * three) - far)
                        across[x] += weight * flow_x[x]
                        down[x] += weight * flow_y[x]
                        load[x] += weight
            for k in range(2):
                sums, target = rows[k], out[k, y, begin:end]
                for x in range(count):
                    mean = sums[x] / load[x]
                    target[x] = mean + kept[begin + x] * (target[x] - mean)


# Pictures


@compiled
def _draw(runs: Runs, spline: Array, flow: Array, down: int, across: int, out: Array, means: Array) -> None:
    """Runs of blocks of planes (C, H, W) under a flow (2, h, w).

    A block has `down` rows and `across` columns of the planes, of which there are one or two. Means of the blocks go to
    `means` (C, h, w).
    """
    channels, height, width = out.shape
    _, rows, columns = flow.shape
    apart, stride = height * width, (width + 4) * channels
    flat, target, together = flow.reshape(-1), out.reshape(-1), BESIDE[channels - 1]
    far = columns + 4  # flows of a row: to the right, then down; four are looked at at a time
    wide = np.zeros(2 * far, np.float32)
    to_right, to_below = wide[:far], wide[far:]
    wx, wy = np.empty(4 * together, np.float32), np.empty(4 * together, np.float32)
    places = np.empty(together, np.int32)
    total = np.empty(width, np.float32)
    inverse = f32(1.0) / f32(down * across)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        begin, count = across * left, across * (right - left)
        groups, step = count // together, together // across
        for block in range(first, last):
            for y in range(down * block, down * block + down):
                place = _height(y, down)
                _between(flat, 0, rows, columns, place, left, right, to_right)
                _between(flat, rows * columns, rows, columns, place, left, right, to_below)
                for group in range(groups):
                    x, at = group * together, group * step
                    own = y * width + begin + x
                    if channels == 1:
                        beside = weigh_light(wide, at, far, begin + x, y, down, width, height, stride, wx, wy, places)
                        if beside:
                            sample_ones(spline, np.int64(places[0]), stride, wx, wy, 0, together, target, own, apart)
                        else:
                            for k in range(together):
                                base = np.int64(places[k]) + k
                                sample_one(spline, base, stride, wx, wy, k, together, target, own + k, apart)
                        continue
                    if across == 4:
                        beside = weigh_chroma(wide, at, far, begin + x, y, down, width, height, stride, wx, wy, places)
                    else:
                        beside = weigh_half(wide, at, far, begin + x, y, down, width, height, stride, wx, wy, places)
                    if beside:
                        sample_twos(spline, np.int64(places[0]), stride, wx, wy, 0, together, target, own, apart)
                    else:
                        for k in range(together):
                            base = np.int64(places[k]) + 2 * k
                            sample_two(spline, base, stride, wx, wy, k, together, target, own + k, apart)
            for c in range(channels):
                sums = total[:count]
                _clear(sums)
                for y in range(down * block, down * block + down):
                    source = out[c, y, begin : begin + count]
                    for x in range(count):
                        sums[x] += source[x]
                _sums(sums, across, inverse, means[c, block, left:right])


@compiled
def _sums(row: Array, across: int, scale: Number, out: Array) -> None:
    """Sums of 1, 2 or 4 neighbours, times `scale`."""
    if across == 4:
        for x in range(out.shape[0]):
            out[x] = scale * (row[4 * x] + row[4 * x + 1] + row[4 * x + 2] + row[4 * x + 3])
    else:
        for x in range(out.shape[0]):
            out[x] = scale * (row[2 * x] + row[2 * x + 1])


@compiled
def _means(first: int, last: int, planes: Array, down: int, across: int, means: Array) -> None:
    """Rows first to last of blocks: means of their `down` x `across` pixels, of every plane (C, H, W)."""
    channels, _, width = planes.shape
    total = np.empty(width, np.float32)
    inverse = f32(1.0) / f32(down * across)
    for block in range(first, last):
        for c in range(channels):
            _clear(total)
            for y in range(down * block, down * block + down):
                source = planes[c, y]
                for x in range(width):
                    total[x] += source[x]
            _sums(total, across, inverse, means[c, block])


@compiled
def _tones(first: int, last: int, light: Array, chroma: Array, matrix: Array, tones: Array) -> None:
    """Rows first to last: R, G and B (3, h, w) of light (h, w) and chroma (2, h, w); `matrix` (3, 2) is of chroma."""
    for y in range(first, last):
        _row_of_tones(light[y], chroma[:, y], matrix, tones[:, y])


@compiled
def _tones_of(runs: Runs, light: Array, chroma: Array, matrix: Array, tones: Array) -> None:
    """`_tones` of runs of blocks."""
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        for y in range(first, last):
            _row_of_tones(light[y, left:right], chroma[:, y, left:right], matrix, tones[:, y, left:right])


@compiled
def _row_of_tones(light: Array, chroma: Array, matrix: Array, tones: Array) -> None:
    one, two = chroma[0], chroma[1]
    for c in range(3):
        of_first, of_second, target = matrix[c, 0], matrix[c, 1], tones[c]
        for x in range(target.shape[0]):
            target[x] = light[x] + of_first * one[x] + of_second * two[x]


@compiled
def _light_and_chroma(first: int, last: int, image: Array, light: Array, chroma: Array) -> None:
    """Rows first to last of RGB (3, H, W) as light (H, W) and BT.601's Cb and Cr (2, H, W)."""
    for y in range(first, last):
        red, green, blue, own = image[0, y], image[1, y], image[2, y], light[y]
        one, two = chroma[0, y], chroma[1, y]
        for x in range(own.shape[0]):
            value = f32(0.299) * red[x] + f32(0.587) * green[x] + f32(0.114) * blue[x]
            own[x] = value
            one[x] = f32(1.0 / 1.772) * (blue[x] - value)
            two[x] = f32(1.0 / 1.402) * (red[x] - value)


@compiled
def _read(first: int, last: int, codes: NDArray[Any], zero: Number, gain: Number, out: Array) -> None:
    """Rows first to last of a plane of code values (h, w), made larger by repeating its edge."""
    height, width = codes.shape
    for y in range(first, last):
        source, target = codes[min(y, height - 1)], out[y]
        for x in range(width):
            target[x] = gain * (f32(source[x]) - zero)
        for x in range(width, target.shape[0]):
            target[x] = target[width - 1]


@compiled
def _write(first: int, last: int, plane: Array, zero: Number, gain: Number, most: Number, codes: NDArray[Any]) -> None:
    """Rows first to last of a plane, as the nearest code values 0 to `most`, as many columns as those have."""
    shift = zero + f32(0.5)
    for y in range(first, min(last, codes.shape[0])):
        source, target = plane[y], codes[y]
        for x in range(target.shape[0]):
            target[x] = np.int32(_within(gain * source[x] + shift, f32(0.0), most))


# What the judge sees


@compiled
def _fine_detail(runs: Runs, plane: Array, out: Array) -> None:
    """Of runs of blocks the root mean square of what two means over 3x3 pixels take from a plane."""
    height, width = plane.shape
    wide, once = np.empty(width + 4, np.float32), np.empty(width + 4, np.float32)
    total = np.empty(width, np.float32)
    weights = np.empty(5, np.float32)
    ninth = f32(1.0 / 9.0)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        begin, end = 4 * left, 4 * right
        low, high = max(4 * first - 2, 0), min(4 * last + 2, height)
        soft = np.empty((high - low, end - begin), np.float32)
        count = end - begin
        for y in range(low, high):
            near, far = max(begin - 2, 0), min(end + 2, width)  # two columns more on either side
            _put(plane[y, near:far], wide[near - begin + 2 : far - begin + 2])
            if begin == 0:
                wide[0] = wide[1] = plane[y, 0]
            if end == width:
                wide[count + 2] = wide[count + 3] = plane[y, width - 1]
            for x in range(count + 2):
                once[x] = wide[x] + wide[x + 1] + wide[x + 2]
            if begin == 0:  # a mean of means, each with the edge repeated
                once[0] = once[1]
            if end == width:
                once[count + 1] = once[count]
            for x in range(count):
                soft[y - low, x] = ninth * (once[x] + once[x + 1] + once[x + 2])
        for block in range(first, last):
            _clear(total[:count])
            for y in range(4 * block, 4 * block + 4):
                if 2 <= y < height - 2:
                    near_rows, own = soft[y - 2 - low : y + 3 - low], plane[y, begin:end]
                    for x in range(count):
                        outer, inner = near_rows[0, x] + near_rows[4, x], near_rows[1, x] + near_rows[3, x]
                        value = own[x] - ninth * (outer + f32(2.0) * inner + f32(3.0) * near_rows[2, x])
                        total[x] += value * value
                else:
                    _clear(weights)  # of the rows from y - 2 on
                    for up in range(-1, 2):
                        middle = min(max(y + up, 0), height - 1)
                        for more in range(-1, 2):
                            weights[min(max(middle + more, 0), height - 1) - y + 2] += ninth
                    for x in range(count):
                        value = plane[y, begin + x]
                        for k in range(5):
                            if weights[k] > f32(0.0):
                                value -= weights[k] * soft[y - 2 + k - low, x]
                        total[x] += value * value
            mean = out[block, left:right]
            _sums(total, 4, f32(0.0625), mean)
            for x in range(right - left):
                mean[x] = np.sqrt(mean[x])


@compiled
def _judged(
    first: int, last: int, a: Array, b: Array, still_a: Array, still_b: Array, evidence: Array, present: Mask,
    rest: int, limits: Array, judged: Mask,
) -> None:  # fmt: skip
    """Rows first to last of tiles: what guess is judged, see `midnet.calm`, and entry 10 of the first's and "rest"'s.

    Their brightness is `a` and `b` (H, W), and that of the pictures themselves; `limits` are those of flows, of the
    difference of `a` and `b`, where no other guess is `present` and where one is, of colours and of what "rest" does
    worse. Where nothing is judged no guess is present any more but the first and "rest".
    """
    kinds, _, _, width = evidence.shape
    slow, calm, calmer, alike, worse = limits
    sums, off = np.empty(4 * width, np.float32), np.empty(width, np.float32)
    # of what has been seen of a row of tiles
    total, most, other = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    speed, tones = np.empty(width, np.float32), np.empty(width, np.float32)
    third = f32(1.0 / 3.0)
    for row in range(first, last):
        for found in (total, most, other, speed, tones):
            _clear(found)
        for y in range(TILE * row, TILE * row + TILE):
            apart, worst = evidence[0, 10, y], evidence[rest, 10, y]
            _apart(a, b, y, sums, apart)
            _apart(still_a, still_b, y, sums, worst)
            for x in range(width):
                total[x] += apart[x]
                most[x] = max(most[x], apart[x])
                other[x] = max(other[x], worst[x])
            for c in range(4):
                flow = evidence[0, c, y]
                for x in range(width):
                    speed[x] = max(speed[x], abs(flow[x]))
            for side in range(4, 10, 3):
                _clear(off)
                for c in range(side, side + 3):
                    one, two = evidence[0, c, y], evidence[rest, c, y]
                    for x in range(width):
                        off[x] += abs(one[x] - two[x])
                for x in range(width):
                    tones[x] = max(tones[x], third * off[x])
        for tile in range(width // TILE):
            at = TILE * tile
            for x in range(at + 1, at + TILE):
                total[at] += total[x]
                most[at], other[at] = max(most[at], most[x]), max(other[at], other[x])
                speed[at], tones[at] = max(speed[at], speed[x]), max(tones[at], tones[x])
            still = speed[at] < slow or other[at] > most[at] + worse or tones[at] < alike
            others = 0
            for k in range(kinds):
                others += present[k, row, tile]
            limit = calmer if others > 2 else calm
            alone = still and total[at] < f32(TILE * TILE) * limit and most[at] < f32(2.0) * limit
            for k in range(kinds):
                judged[k, row, tile] = present[k, row, tile] and not alone
                if alone and present[k, row, tile] and k != rest and k > 0:
                    present[k, row, tile] = False
                    _follow_first(evidence[:, :4], k, row, tile)


@compiled
def _apart(a: Array, b: Array, y: int, sums: Array, out: Array) -> None:
    """Of row y of blocks the mean difference of two planes (H, W); `sums` is room."""
    _clear(sums)
    for line in range(4 * y, 4 * y + 4):
        one, two = a[line], b[line]
        for x in range(sums.shape[0]):
            sums[x] += abs(one[x] - two[x])
    _sums(sums, 4, f32(0.0625), out)


@compiled
def _run(tiles: Mask, tile: int) -> tuple[int, int]:
    """Columns of blocks from the first tile on that is present, `tile` or later, to the next that is not."""
    while tile < tiles.shape[0] and not tiles[tile]:
        tile += 1
    begin = tile
    while tile < tiles.shape[0] and tiles[tile]:
        tile += 1
    return TILE * begin, TILE * tile


@compiled
def _near(present: Mask, k: int, row: int, tile: int) -> bool:
    """Whether a guess is present in a tile or in one of its eight neighbours, whose shares reach into it."""
    _, rows, tiles = present.shape
    for y in range(max(row - 1, 0), min(row + 2, rows)):
        for x in range(max(tile - 1, 0), min(tile + 2, tiles)):
            if present[k, y, x]:
                return True
    return False


@compiled
def _follow(
    first: int, last: int, present: Mask, judged: Mask, rest: int, light: Array, still_a: Array, still_b: Array,
    mean: Array,
) -> None:  # fmt: skip
    """Rows first to last of tiles of light (2, K, H, W): what the first guess has beside tiles where another is.

    And where anything is judged the mean of all guesses; what "rest" has are the pictures themselves.
    """
    kinds, _, tiles = present.shape
    side = 4 * TILE
    scale, others = f32(0.5) / f32(kinds), f32(kinds - 1)
    for row in range(first, last):
        for k in range(1, kinds):
            for tile in range(tiles):
                if k != rest and not present[k, row, tile] and _near(present, k, row, tile):
                    for y in range(side * row, side * row + side):
                        for number in range(2):
                            source = light[number, 0, y, side * tile : side * tile + side]
                            _put(source, light[number, k, y, side * tile : side * tile + side])
        for y in range(side * row, side * row + side):
            begin, end = _run(judged[0, row], 0)
            while begin < end:
                left, right = 4 * begin, 4 * end
                total, one, two = mean[y, left:right], light[0, 0, y, left:right], light[1, 0, y, left:right]
                own, other = still_a[y, left:right], still_b[y, left:right]
                for x in range(right - left):
                    total[x] = scale * (others * (one[x] + two[x]) + (own[x] + other[x]))
                begin, end = _run(judged[0, row], end // TILE)
            for k in range(1, kinds):
                begin, end = (0, 0) if k == rest else _run(present[k, row], 0)
                while begin < end:
                    left, right = 4 * begin, 4 * end
                    total, one, two = mean[y, left:right], light[0, 0, y, left:right], light[1, 0, y, left:right]
                    own, other = light[0, k, y, left:right], light[1, k, y, left:right]
                    for x in range(right - left):
                        total[x] += scale * ((own[x] + other[x]) - (one[x] + two[x]))
                    begin, end = _run(present[k, row], end // TILE)


@compiled
def _compare(runs: Runs, a: Array, b: Array, mean: Array, evidence: Array) -> None:
    """Entries 10 to 14 of the evidence (17, h, w) of a guess, from what it makes of the brightness (H, W)."""
    width = a.shape[1]
    sums = np.empty((3, width), np.float32)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        for block in range(first, last):
            for c in range(3):
                _clear(sums[c])
            for y in range(4 * block, 4 * block + 4):
                one, two = a[y, 4 * left : 4 * right], b[y, 4 * left : 4 * right]
                both = mean[y, 4 * left : 4 * right]
                for x in range(4 * (right - left)):
                    sums[0, x] += abs(one[x] - two[x])
                    sums[1, x] += abs(one[x] - both[x])
                    sums[2, x] += abs(two[x] - both[x])
            for c in range(3):
                _sums(sums[c], 4, f32(0.0625), evidence[10 + c, block, left:right])
    _fine_detail(runs, a, evidence[13])
    _fine_detail(runs, b, evidence[14])


@compiled
def _hidden(runs: Runs, ab: Array, ba: Array, evidence: Array) -> None:
    """Entries 15 and 16 of the evidence of runs of blocks: logits (h, w) fetched along the flows of a guess."""
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        for y in range(first, last):
            flow = evidence[0:4, y, left:right]
            _sample(ab, y, left, f32(1.0), flow[0], flow[1], evidence[15, y, left:right])
            _sample(ba, y, left, f32(1.0), flow[2], flow[3], evidence[16, y, left:right])


# The judge, a row of blocks at a time: what of a guess is present there lies packed, so that it is done in lanes


@compiled
def _root(x: Number) -> Number:
    return f32(4.0) * np.sqrt(max(x, f32(0.0)) + f32(1e-4))


@compiled
def _length(x: Number, y: Number) -> Number:
    return np.sqrt(x * x + y * y + f32(1e-6))


@compiled
def _roots(row: Array, out: Array) -> None:
    for x in range(out.shape[0]):
        out[x] = _root(row[x])


@compiled
def _minus(one: Array, two: Array, out: Array) -> None:
    for x in range(out.shape[0]):
        out[x] = one[x] - two[x]


@compiled
def _log_length(one: Array, two: Array, y: int, begin: int, out: Array) -> None:
    """Of what two flows (2, h, w) are apart, in columns of row y from `begin` on."""
    across, across_from, down, down_from = one[0, y, begin:], two[0, y, begin:], one[1, y, begin:], two[1, y, begin:]
    for x in range(out.shape[0]):
        out[x] = log(f32(1.0) + _length(across[x] - across_from[x], down[x] - down_from[x]))


@compiled
def _tones_apart(one: Array, two: Array, y: int, begin: int, out: Array) -> None:
    """Of columns of row y of colours (3, h, w), from `begin` on."""
    _clear(out)
    for c in range(3):
        own, other = one[c, y, begin:], two[c, y, begin:]
        for x in range(out.shape[0]):
            out[x] += abs(own[x] - other[x])
    for x in range(out.shape[0]):
        out[x] = _root(f32(1.0 / 3.0) * out[x])


@compiled
def _unevenness(flow: Array, y: int, begin: int, room: Array, out: Array) -> None:
    """How far columns of row y of a flow (2, h, w), from `begin` on, are from their mean over 3x3 places."""
    _, height, width = flow.shape
    count = out.shape[0]
    above, below = max(y - 1, 0), min(y + 1, height - 1)
    near, far = max(begin - 1, 0), min(begin + count + 1, width)
    for k in range(2):
        sums = room[k, near - begin + 1 :]
        upper, here, lower = flow[k, above, near:far], flow[k, y, near:far], flow[k, below, near:far]
        for x in range(far - near):
            sums[x] = upper[x] + here[x] + lower[x]
        if begin == 0:
            room[k, 0] = room[k, 1]
        if begin + count == width:
            room[k, count + 1] = room[k, count]
    ninth = f32(1.0 / 9.0)
    one, two = flow[0, y, begin : begin + count], flow[1, y, begin : begin + count]
    for x in range(count):
        dx = one[x] - ninth * (room[0, x] + room[0, x + 1] + room[0, x + 2])
        dy = two[x] - ninth * (room[1, x] + room[1, x + 1] + room[1, x + 2])
        out[x] = log(f32(1.0) + _length(dx, dy))


@compiled
def _clues(
    own: Array, leader: Array, apart: Array, lead: Array, least: Array, y: int, begin: int, room: Array, out: Array
) -> None:
    """`midnet.clues` of columns of row y of blocks, from `begin` on, of a guess, into `out` (CLUES, n).

    `own` and `leader` are the evidence (EVIDENCE, h, w) of the guess and of the first one; `apart` and `lead` (w) tell
    how far their pictures are apart, `least` the least of all guesses.
    """
    # one after the other: loops that write several rows at once are not done in lanes
    _put(apart[begin:], out[0])
    _minus(out[0], least[begin:], out[1])
    _minus(out[0], lead[begin:], out[2])
    for k in range(2):
        _roots(own[11 + 2 * k, y, begin:], out[4 + 3 * k])
        _roots(own[12 + 2 * k, y, begin:], out[5 + 3 * k])
        _minus(out[4 + 3 * k], out[5 + 3 * k], out[6 + 3 * k])
        logits, target = own[15 + k, y, begin:], out[10 + k]
        for x in range(target.shape[0]):
            target[x] = f32(0.25) * logits[x]
    to_a, to_b = own[0:2], own[2:4]
    _log_length(to_a, leader[0:2], y, begin, out[12])
    _log_length(to_b, leader[2:4], y, begin, out[13])
    _log_length(to_b, to_a, y, begin, out[16])
    _unevenness(to_a, y, begin, room, out[14])
    _unevenness(to_b, y, begin, room, out[15])
    _tones_apart(own[4:7], own[7:10], y, begin, out[3])
    _tones_apart(own[4:7], leader[4:7], y, begin, out[17])
    _tones_apart(own[7:10], leader[7:10], y, begin, out[18])
    _tones_apart(own[4:7], leader[7:10], y, begin, out[19])
    _tones_apart(own[7:10], leader[4:7], y, begin, out[20])


@compiled
def _rectified(x: Number) -> Number:
    return max(x, f32(0.1) * x)


@compiled
def _layer(weight: Array, bias: Array, x: Array, out: Array) -> None:
    """A linear layer (C', C) of n columns (C, n) -> (C', n); n is a multiple of a tile's side."""
    inside, count = x.shape
    weights, source, target, at = weight.reshape(-1), x.reshape(-1), out.reshape(-1), 0
    while at < count:
        at = _columns(weights, 0, bias, source, inside, count, at, target, out.shape[0])


@compiled
def _columns(
    weight: Array, first: int, bias: Array, x: Array, inside: int, count: int, at: int, out: Array, outside: int
) -> int:
    """Of a flat linear layer the columns from `at` on, of four tiles if there are as many, or one; where they end.

    Entries of x before `first` count as nothing.
    """
    used, row, four = inside - first, 0, at + 4 * TILE <= count
    while row < outside:
        if row + 4 <= outside:
            if four:
                multiply_wide(weight, first, inside, used, bias, row, x, at, count, out, at)
            else:
                multiply_tile(weight, first, inside, used, bias, row, x, at, count, out, at)
            row += 4
        else:
            if four:
                multiply_row(weight, first, inside, used, bias, row, x, at, count, out, at)
            else:
                multiply_bit(weight, first, inside, used, bias, row, x, at, count, out, at)
            row += 1
    return at + (4 * TILE if four else TILE)


@compiled
def _gather(weight: Array, bias: Array, shared: Array, tiles: Mask, own: int, out: Array) -> None:
    """`_layer` of what is shared, rectified, where the entries before `own` are nothing but in some `tiles`."""
    inside, count = shared.shape
    weights, source, target, at = weight.reshape(-1), shared.reshape(-1), out.reshape(-1), 0
    while at < count:
        first = own
        for tile in range(at // TILE, min(at // TILE + 4, tiles.shape[0])):
            if tiles[tile]:
                first = 0
        at = _columns(weights, first, bias, source, inside, count, at, target, out.shape[0])
    _rectify(out)


@compiled
def _rectify(x: Array) -> None:
    for c in range(x.shape[0]):
        row = x[c]
        for j in range(x.shape[1]):
            row[j] = _rectified(row[j])


@compiled
def _hull(tiles: Mask) -> tuple[int, int]:
    """Columns of blocks from the first tile that is present to the last."""
    first, last = 0, tiles.shape[0]
    while not tiles[first]:
        first += 1
    while not tiles[last - 1]:
        last -= 1
    return TILE * first, TILE * last


# Most runs are short, and a slice costs as much as a run of some blocks: for these there are loops without


@compiled
def _pack(rows: Array, tiles: Mask, left: int, out: Array) -> None:
    """Of rows (C, n), which begin at block `left`, the tiles that are present, side by side."""
    at = 0
    begin, end = _run(tiles, 0)
    while begin < end:
        for c in range(rows.shape[0]):
            if end - begin > SHORT:
                _put(rows[c, begin - left :], out[c, at : at + end - begin])
            else:
                for x in range(end - begin):
                    out[c, at + x] = rows[c, begin - left + x]
        at += end - begin
        begin, end = _run(tiles, end // TILE)


@compiled
def _pool(rows: Array, at: int, begin: int, end: int, first: bool, rest: bool, shared: Array) -> None:
    """Add features (C, n) of a guess, from `at` on, to what all of them show in columns `begin` to `end` of a row.

    The mean, the maximum, the first guess and "rest", C rows of `shared` each.
    """
    each = rows.shape[0]
    for c in range(each):
        if end - begin > SHORT:
            own, total, most = rows[c, at:], shared[c, begin:end], shared[each + c, begin:end]
            if first:
                for x in range(end - begin):
                    total[x] = _rectified(own[x])
                _put(total, most)
                _put(total, shared[2 * each + c, begin:end])
            else:
                for x in range(end - begin):
                    value = _rectified(own[x])
                    total[x] += value
                    most[x] = max(most[x], value)
            if rest:
                still = shared[3 * each + c, begin:end]
                for x in range(end - begin):
                    still[x] = _rectified(own[x])
            continue
        for x in range(end - begin):
            value = _rectified(rows[c, at + x])
            if first:
                shared[c, begin + x] = shared[each + c, begin + x] = value
                shared[2 * each + c, begin + x] = value
            else:
                shared[c, begin + x] += value
                shared[each + c, begin + x] = max(shared[each + c, begin + x], value)
            if rest:
                shared[3 * each + c, begin + x] = value


@compiled
def _meet(features: Array, at: int, around: Array, begin: int, end: int, out: Array) -> None:
    """What is seen of a guess, columns of (C, n) from `at` on, and of what lies around it, rectified into `out`."""
    for c in range(out.shape[0]):
        if end - begin > SHORT:
            own, more, target = features[c, at:], around[c, begin:end], out[c, at:]
            for x in range(end - begin):
                target[x] = _rectified(own[x] + more[x])
        else:
            for x in range(end - begin):
                out[c, at + x] = _rectified(features[c, at + x] + around[c, begin + x])


@compiled
def _look(
    first: int, last: int, evidence: Array, seen: Array, t: Number, present: Mask, rest: int, starts: NDArray[np.int64],
    look: Array, kind: Array, second: Array, bias: Array, gather: Array, gather_bias: Array, features: Array,
    near: Array,
) -> None:  # fmt: skip
    """The judge's first layers in rows first to last of blocks.

    Features of each guess that is `present` (judged) go to the flat `features`, of row y and guess k from
    `starts[y, k]` blocks on, channels first; what is gathered of all of them and of the block itself to `near`
    (context, h, w).
    """
    kinds, _, _, width = evidence.shape
    each, count = look.shape
    # of each as much as is wanted: a slice of columns would not lie without gaps, and not be done in lanes
    packed, every = np.empty(count * width, np.float32), np.empty(count * width, np.float32)
    middles = np.empty(each * width, np.float32)
    apart, least, times = np.empty((kinds, width), np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    room = np.empty((2, width + 2), np.float32)
    leader = evidence[0]
    shared = np.empty((gather.shape[1], width), np.float32)
    gathered = np.empty((near.shape[0], width), np.float32)
    for y in range(first, last):
        for x in range(width):
            apart[0, x] = _root(leader[10, y, x])
            least[x] = apart[0, x]
            times[x] = f32(0.0)
        if not present[0, y // TILE].all():
            for c in range(4 * each):
                _clear(shared[c])
        for k in range(1, kinds):
            begin, end = _run(present[k, y // TILE], 0)
            while begin < end:
                own, lowest = apart[k, begin:end], least[begin:end]
                _roots(evidence[k, 10, y, begin:end], own)
                for x in range(end - begin):
                    lowest[x] = min(lowest[x], own[x])
                begin, end = _run(present[k, y // TILE], end // TILE)
        for k in range(kinds):
            tiles = present[k, y // TILE]
            blocks = TILE * int(tiles.sum())
            if blocks == 0:
                continue
            left, right = _hull(tiles)
            found = every[: count * (right - left)].reshape(count, right - left)
            _clues(evidence[k], leader, apart[k], apart[0], least, y, left, room, found)
            if blocks < right - left:
                part, found = found, packed[: count * blocks].reshape(count, blocks)
                _pack(part, tiles, left, found)
            middle = middles[: each * blocks].reshape(each, blocks)
            _layer(look, kind[k], found, middle)
            _rectify(middle)
            start = starts[y, k] * each
            out = features[start : start + each * blocks].reshape(each, blocks)
            _layer(second, bias, middle, out)
            begin, end = _run(tiles, 0)
            at = 0
            while begin < end:
                for x in range(begin, end):
                    times[x] += f32(1.0)
                _pool(out, at, begin, end, k == 0, k == rest, shared)
                at += end - begin
                begin, end = _run(tiles, end // TILE)
        for x in range(width):
            times[x] = f32(1.0) / max(times[x], f32(1.0))
        for c in range(each):
            mean = shared[c]
            for x in range(width):
                mean[x] *= times[x]
        at = 4 * each
        early, late, speed = shared[at + 3], shared[at + 4], shared[at + 12]
        for x in range(width):
            early[x], late[x] = t, f32(1.0) - t
        _put(least, shared[at + 11])
        for c in range(3):
            _put(seen[c, y], shared[at + c])
            for side in range(2):
                tone, target = leader[4 + 3 * side + c, y], shared[at + 5 + 3 * side + c]
                for x in range(width):
                    target[x] = tone[x] - f32(0.5)
        _log_length(leader[2:4], leader[0:2], y, 0, speed)
        _gather(gather, gather_bias, shared, present[0, y // TILE], at, gathered)
        for c in range(near.shape[0]):
            _put(gathered[c], near[c, y])


@compiled
def _decide(
    first: int, last: int, features: Array, starts: NDArray[np.int64], present: Mask, rest: int, near: Array,
    far: Array, spread: Array, spread_bias: Array, second: Array, bias: Array, verdict: Array, last_bias: Array,
    ahead: Array, seen: Array, t: Number, shares: Array,
) -> None:  # fmt: skip
    """The judge's last two layers in rows first to last of blocks: shares (2K, h, w).

    What lies around is told by `near` (context, h, w) and `far` (each + 3, h / 2, w / 2). Where no guess is `present`
    (judged), both sides of the first are weighed by that alone.
    """
    kinds, entries, (context, _, width), each = present.shape[0], far.shape[0], near.shape, second.shape[0]
    own_row, around = np.empty((context, width), np.float32), np.empty((entries, width), np.float32)
    wide, twice = np.empty(width // 2 + 2, np.float32), np.empty(width, np.float32)
    middles = np.empty(each * width, np.float32)
    verdicts, most, sums = np.empty(2 * width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    sides, packed = np.empty((2, width), np.float32), np.empty(each * width, np.float32)
    early, late, nothing = log(f32(1.0) - t + f32(1e-3)), log(t + f32(1e-3)), f32(-1e30)
    for y in range(first, last):
        for c in range(context):
            _put(near[c, y], own_row[c])
        _layer(spread, spread_bias, own_row, around)
        for c in range(entries):
            _enlarge(far[c], y, 2, 2, 0, width // 2, wide, twice)
            target = around[c]
            for x in range(width):
                target[x] += twice[x]
        of_a, of_b, of_rest = around[entries - 3], around[entries - 2], around[entries - 1]
        for x in range(width):
            visible = seen[2, y, x]
            soft = log(f32(1.0) + exp(-abs(visible)))
            sides[0, x] = of_a[x] + early + min(visible, f32(0.0)) - soft
            sides[1, x] = of_b[x] + late + min(-visible, f32(0.0)) - soft
            most[x] = nothing
        for k in range(kinds):
            tiles = present[k, y // TILE]
            blocks = TILE * int(tiles.sum())
            for side in range(2):
                row = shares[side * kinds + k, y]
                for x in range(width):
                    row[x] = nothing
            if blocks == 0:
                continue
            start = starts[y, k] * each
            own = features[start : start + each * blocks].reshape(each, blocks)
            found = packed[: each * blocks].reshape(each, blocks)
            begin, end = _run(tiles, 0)
            at = 0
            while begin < end:
                _meet(own, at, around, begin, end, found)
                at += end - begin
                begin, end = _run(tiles, end // TILE)
            middle = middles[: each * blocks].reshape(each, blocks)
            logits = verdicts[: 2 * blocks].reshape(2, blocks)
            _layer(second, bias, found, middle)
            _rectify(middle)
            _layer(verdict, last_bias, middle, logits)
            begin, end = _run(tiles, 0)
            at = 0
            while begin < end:
                gain = f32(1.0) if k == rest else f32(0.0)
                for side in range(2):
                    target = shares[side * kinds + k, y]
                    for x in range(begin, end):
                        value = logits[side, at + x - begin] + sides[side, x] + ahead[k] + gain * of_rest[x]
                        target[x] = value
                        most[x] = max(most[x], value)
                at += end - begin
                begin, end = _run(tiles, end // TILE)
        for tile in range(width // TILE):
            if not present[0, y // TILE, tile]:
                for x in range(TILE * tile, TILE * tile + TILE):
                    shares[0, y, x], shares[kinds, y, x] = sides[0, x], sides[1, x]
                    most[x] = max(sides[0, x], sides[1, x])
        for x in range(width):
            sums[x] = f32(0.0)
        for k in range(2 * kinds):
            row = shares[k, y]
            for x in range(width):
                value = exp(row[x] - most[x])
                row[x] = value if row[x] > nothing else f32(0.0)
                sums[x] += row[x]
        for k in range(2 * kinds):
            row = shares[k, y]
            for x in range(width):
                row[x] /= sums[x]


@compiled
def _mix(
    first: int, last: int, pictures: Array, still_a: Array, still_b: Array, rest: int, present: Mask, shares: Array,
    down: int, across: int, out: Array,
) -> None:  # fmt: skip
    """Rows first to last of the mixture of planes (2K, C, H, W) with shares (2K, h, w) that sum to 1.

    A block has `down` rows and `across` columns of the planes. Where the share of a guess reaches into tiles where that
    is not present, the first guess takes it. What "rest" has are the planes of the pictures themselves.
    """
    channels, height, width = out.shape
    half, tiles = present.shape[0], present.shape[2]
    wide = np.empty(TILE * tiles + 2, np.float32)
    row, left_over = np.empty(width, np.float32), np.empty(width, np.float32)
    drawn, of_a, of_b, target = pictures.reshape(-1), still_a.reshape(-1), still_b.reshape(-1), out.reshape(-1)
    high, side = down * TILE, across * TILE
    reached = np.empty((half, tiles), np.bool_)
    for y in range(first, last):
        if y == first or y % high == 0:
            for k in range(half):
                for tile in range(tiles):
                    reached[k, tile] = k == 0 or _near(present, k, y // high, tile)
        for c in range(channels):
            _clear(out[c, y])
        for kind in range(2 * half):
            k = half * (1 - kind // half) + half - 1 - kind % half  # the first of each side last: it takes what is left
            guess = k % half
            if guess == half - 1:
                _clear(left_over)
            begin, end = _run(reached[guess], 0)
            while begin < end:
                _enlarge(shares[k], y, down, across, begin, end, wide, row)
                if guess == 0:  # everywhere
                    _pile(left_over, 0, row, 0, width)
                tile, stop = begin // TILE, end // TILE
                while tile < stop:
                    there, start = guess == 0 or present[guess, y // high, tile], tile
                    while tile < stop and (guess == 0 or present[guess, y // high, tile] == there):
                        tile += 1
                    x, count, at = side * start, side * (tile - start), side * start - across * begin
                    if not there:
                        _pile(row, at, left_over, x, count)
                        continue
                    for c in range(channels):
                        own, to = y * width + x, (c * height + y) * width + x
                        if guess != rest:
                            _add(row, at, drawn, (k * channels + c) * height * width + own, target, to, count)
                        elif k < half:
                            _add(row, at, of_a, to, target, to, count)
                        else:
                            _add(row, at, of_b, to, target, to, count)
                begin, end = _run(reached[guess], end // TILE)


@compiled
def _pile(one: Array, at: int, total: Array, to: int, count: int) -> None:
    """Add so many of a flat array, from `at` on, to a total, from `to` on."""
    begin, first = np.uint64(at), np.uint64(to)
    for k in range(count):
        total[first + np.uint64(k)] += one[begin + np.uint64(k)]


@compiled
def _add(part: Array, at: int, source: Array, own: int, total: Array, to: int, count: int) -> None:
    """Add so many products of two flat arrays, from `at` and `own` on, to a total, from `to` on."""
    begin, second, first = np.uint64(at), np.uint64(own), np.uint64(to)
    for k in range(count):
        x = np.uint64(k)
        total[first + x] += part[begin + x] * source[second + x]


# Doors


def _tell() -> None:
    """Say why the first picture takes so long, if nothing compiled is kept of this file as it is."""
    logger = logging.getLogger(__name__)
    place = _draw.stats.cache_path  # type: ignore[attr-defined]
    if place is None:
        logger.warning("compiling for this processor, half a minute at every start; NUMBA_CACHE_DIR may name a folder")
        return
    written = Path(__file__).stat().st_mtime
    if not any(kept.stat().st_mtime >= written for kept in Path(place).glob("drawing._draw-*.nbi")):
        logger.warning("compiling for this processor, once: half a minute")


_tell()


def in_bands(work: Callable[[int, int], None], length: int, band: int) -> list[Callable[[], None]]:
    """Calls of `work` on rows 0 to `length`, `band` at a time."""
    return [partial(work, first, min(first + band, length)) for first in range(0, length, band)]


class _Helpers:
    """Threads that help whoever has several things to do; they wait between pictures."""

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.count = 0

    def ask(self, work: Callable[[], None], count: int) -> list[Future[None]]:
        """Let `count` helpers do `work`, each as soon as it can."""
        if self.pool is None or self.count < count:
            self.pool, self.count = ThreadPoolExecutor(count, "drawing"), count
        return [self.pool.submit(work) for _ in range(count)]


_HELPERS = _Helpers()


def at_once(calls: Sequence[Callable[[], None]]) -> None:
    """All calls, by as many threads as torch has been given, this one among them."""
    waiting = iter(calls)  # whose next one is taken by one thread only

    def work() -> None:
        for call in waiting:
            call()

    count = min(torch.get_num_threads(), len(calls)) - 1
    helpers = _HELPERS.ask(work, count) if count > 0 else []
    try:
        work()
    finally:  # whoever has not begun need not come any more
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _of_each(kernel: Callable[..., None], out: Array, **parts: Any) -> Tensor:
    """`out`, its rows written by a kernel, member by member of a batch; of tensors that is given the member's part."""
    calls: list[Callable[[], None]] = []
    for n, made in enumerate(out):
        own = {name: x[n].contiguous().numpy() if isinstance(x, Tensor) else x for name, x in parts.items()}
        calls += in_bands(partial(kernel, **own, out=made), made.shape[-2], BAND)
    at_once(calls)
    return torch.from_numpy(out)


def smoothed(colour: Tensor, flow: Tensor, trust: Tensor, reach: int, alike: float, sure: float) -> Tensor:
    """`midnet.smoothed` of (B, 2, h, w), given mean colours and trust at its places."""
    place = F.pad(torch.cat([flow, colour, trust], 1).float(), (reach,) * 4, mode="replicate")
    out = np.empty(flow.shape, np.float32)
    return _of_each(_smoothed, out, place=place, reach=reach, alike=f32(0.5 / alike**2), sure=f32(sure))


def missed(flow: Tensor, back: Tensor) -> Tensor:
    """`midnet.missed`."""
    out = np.empty((len(flow), *flow.shape[2:]), np.float32)
    return _of_each(_missed, out, flow=flow, back=back)[:, None]


def agreed(own: Tensor, other: Tensor, flow: Tensor) -> Tensor:
    """`midnet._agreed` of an acceleration and of the one at the other end of a flow."""
    return _of_each(_agreed, np.empty(flow.shape, np.float32), own=own, other=other, flow=flow)


class Guessed(NamedTuple):
    """Guesses of the flows, until this thread makes the next ones."""

    evidence: Array  # (K, EVIDENCE, h, w), of which there are the flows: to a and to b, the first's where not present
    present: Mask  # (K, h / TILE, w / TILE)
    seen: Array  # (3, h, w), see `midnet.carry`


def guessed(
    motion: Motion, t: float, names: Sequence[str], bend: tuple[Tensor, Tensor] | None, around: int, apart: float
) -> Guessed:
    """`midnet.carry` and `midnet.present` of one gap.

    Args:
        motion: batch 1.
        t: the instant.
        names: of the guesses, "carried" and "rest" among them.
        bend: acceleration at a and b, if known.
        around: places from which flows are borrowed.
        apart: by how many places a guess has to differ somewhere in a tile to be present.
    """
    flow_a, flow_b, *of_smooth = (
        x[0].contiguous().numpy() for x in (motion.ab, motion.ba, motion.smooth_ab, motion.smooth_ba)
    )
    sure = [
        x[0, 1].contiguous().numpy()
        for x in (motion.ab_sure, motion.ba_sure, motion.smooth_ab_sure, motion.smooth_ba_sure)
    ]
    _, height, width = flow_a.shape
    nothing = np.empty((4, 0, 0), np.float32)
    curves = (nothing, nothing) if bend is None else tuple(x[0].contiguous().numpy() for x in bend)
    flows = [flow_a, flow_b, *of_smooth] if "smooth" in names else [flow_a, flow_b]
    splats = ROOMS.take("splats", (len(flows), 5, height, width), np.float32)
    splats[:] = 0.0
    ways = f32(t), f32(1.0 - t)
    at_once(
        [partial(_splat, flow, curves[n % 2], sure[n], ways[n % 2], n % 2, splats[n]) for n, flow in enumerate(flows)]
    )
    evidence = ROOMS.take("evidence", (len(names), EVIDENCE, height, width), np.float32)
    found = evidence[:, :4]
    seen = ROOMS.take("seen", (3, height, width), np.float32)
    made = {name: found[k] for k, name in enumerate(names)}
    alone = made.get("alone_a", nothing), made.get("alone_b", nothing)
    calls: list[Callable[[], None]] = []
    for n in range(0, len(flows), 2):
        name, *more = ("smooth", nothing, nothing, nothing[:3]) if n else ("carried", *alone, seen)
        work = partial(
            _carried, from_a=splats[n], from_b=splats[n + 1], ab=flows[n], ba=flows[n + 1], bend_a=curves[0],
            bend_b=curves[1], t=ways[0], carried=made[name], alone_a=more[0], alone_b=more[1], seen=more[2],
        )  # fmt: skip
        calls += in_bands(work, height, 4 * BAND)
    at_once(calls)
    beside = {"right": (around, 0), "left": (-around, 0), "below": (0, around), "above": (0, -around)}
    calls = []
    for name in set(names) & set(beside):
        dx, dy = beside[name]
        work = partial(_from_beside, flows=made["carried"], dx=dx, dy=dy, out=made[name])
        calls += in_bands(work, height, 8 * BAND)
    at_once(calls)
    made["rest"][:] = 0.0
    present = np.empty((len(names), height // TILE, width // TILE), np.bool_)
    work = partial(_present, guesses=found, rest=names.index("rest"), apart=f32(apart), present=present)
    at_once(in_bands(work, height // TILE, BAND))
    return Guessed(evidence, present, seen)


def runs_of(mask: Mask) -> Runs:
    """The tiles (rows, columns) that a mask names, side by side ones as one run."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return TILE * np.stack([begins[:, 0], begins[:, 0] + 1, begins[:, 1], ends[:, 1]], 1)


def joined(runs: Runs) -> Runs:
    """Runs that lie near each other in a row as one."""
    if len(runs) == 0:
        return runs
    apart = (runs[1:, 0] != runs[:-1, 0]) | (runs[1:, 2] - runs[:-1, 3] > NEAR * TILE)
    edges = np.flatnonzero(np.concatenate([[True], apart, [True]]))
    out = runs[edges[:-1]]
    out[:, 3] = runs[edges[1:] - 1, 3]
    return out


def banded(runs: Runs, band: int) -> list[Runs]:
    """Those that begin within the same `band` rows, together."""
    which = runs[:, 0] // band
    return [runs[which == k] for k in np.unique(which)]


class Rooms(threading.local):
    """Arrays that a thread uses again for the next picture: fresh memory costs more than what is computed in it."""

    def __init__(self) -> None:
        self.kept: dict[str, NDArray[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        """An array of a shape; whatever is in it is what this thread has left under that name."""
        size = math.prod(shape)
        room = self.kept.get(name)
        if room is None or room.size < size:
            self.kept.pop(name, None)
            room = self.kept[name] = np.empty(size, kind)
        return room[:size].reshape(shape)


ROOMS = Rooms()


class Layers(NamedTuple):
    """A picture: what is drawn of it, and what it is drawn from. Sides are multiples of a tile's."""

    light: Array  # (H, W), 0..1
    chroma: Array | None  # (2, H / 1 or 2, W / 1 or 2), -0.5..0.5; none of a grey picture
    light_spline: Array  # (H + 4, W + 4), flat
    chroma_spline: Array | None  # likewise, channels last
    tones: Array  # (3, H / 4, W / 4): mean R, G and B of blocks
    matrix: Array  # (3, 2): what chroma adds to light for R, G and B
    format: PixelFormat | None = None  # of the planes it was made of, and their sizes
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that chroma has of every block."""
        assert self.chroma is not None
        return self.chroma.shape[1] // self.tones.shape[1], self.chroma.shape[2] // self.tones.shape[2]


def layers_of_rgb(image: Tensor) -> Layers:
    """Of RGB (3, H, W)."""
    picture = np.ascontiguousarray(image.numpy(), np.float32)
    light, chroma = np.empty(picture.shape[1:], np.float32), np.empty((2, *picture.shape[1:]), np.float32)
    at_once(in_bands(partial(_light_and_chroma, image=picture, light=light, chroma=chroma), len(light), 4 * BAND))
    return _layers(light, chroma, "smpte170m")


def layers_of_planes(planes: Sequence[Tensor], format: PixelFormat, height: int, width: int) -> Layers:
    """Of planes as decoders make them, without alpha, their edges repeated up to a size."""
    light = np.empty((height, width), np.float32)
    chroma, whole = None, [light]
    if format.layout == "yuv":
        chroma = np.empty((2, height >> format.chroma_h, width >> format.chroma_w), np.float32)
        whole.extend(chroma)
    for codes, plane, (dark, wide) in zip(planes, whole, _ranges(format), strict=True):
        work = partial(_read, codes=codes.numpy(), zero=f32(dark), gain=f32(1.0 / wide), out=plane)
        at_once(in_bands(work, len(plane), 8 * BAND))
    sizes = tuple((len(plane), plane.shape[1]) for plane in planes)
    return _layers(light, chroma, format.matrix)._replace(format=format, sizes=sizes)


def _ranges(format: PixelFormat) -> list[tuple[float, float]]:
    """Of each plane the code value of 0, and how many make 1."""
    black, span, zero, chroma_span = levels(format)
    return [(black, span), *[(zero, chroma_span)] * (format.plane_count - 1)]


def _layers(light: Array, chroma: Array | None, matrix: str) -> Layers:
    rows, columns = light.shape[0] // 4, light.shape[1] // 4
    tones, of_light = np.empty((3, rows, columns), np.float32), np.empty((1, rows, columns), np.float32)
    at_once(in_bands(partial(_means, planes=light[None], down=4, across=4, means=of_light), rows, 4 * BAND))
    if chroma is None:
        tones[:] = of_light
        return Layers(light, None, _spline(light[None]), None, tones, np.zeros((3, 2), np.float32))
    colours = np.array(matrix_to_rgb(matrix), np.float32)
    made = Layers(light, chroma, _spline(light[None]), _spline(chroma), tones, np.ascontiguousarray(colours[:, 1:]))
    of_chroma = np.empty((2, rows, columns), np.float32)
    down, across = made.block
    work = partial(_means, planes=chroma, down=down, across=across, means=of_chroma)
    at_once(in_bands(work, rows, 4 * BAND))
    _tones(0, rows, of_light[0], of_chroma, made.matrix, tones)
    return made


def _spline(planes: Array) -> Array:
    """`midnet.spline_coefficients` of (C, H, W): (H + 4, W + 4, C), flat."""
    channels, height, width = planes.shape
    rows = ROOMS.take("rows", (height, width + 4, channels), np.float32)
    out = np.empty((height + 4, (width + 4) * channels), np.float32)
    at_once(in_bands(partial(_filter_rows, planes=planes, out=rows), channels * height, 4 * BAND))
    at_once(in_bands(partial(_filter_columns, rows=rows.reshape(height, -1), out=out), out.shape[1], 256))
    return out.reshape(-1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Two pictures under K guesses, until this thread draws the next ones.

    What a guess has in tiles where it is not present is not to be read, nor what "rest" has, nor entries 11 and on
    of the evidence where nothing is judged.
    """

    light: Array  # (2K, 1, H, W): a under each guess, then b
    chroma: Array | None  # (2K, 2, ., .), likewise
    present: Mask  # (K, h / TILE, w / TILE)
    judged: Mask  # likewise: present, and the first guess alone will not do
    rest: int  # which guess is that of no motion
    seen: Array  # (3, h, w), see `midnet.carry`
    evidence: Array  # (K, EVIDENCE, h, w), see `midnet.Midnet.candidates`
    a: Layers
    b: Layers


def drawn(
    a: Layers, b: Layers, guessed: Guessed, hidden: tuple[Tensor, Tensor], rest: int, limits: Sequence[float]
) -> Drawn:
    """Both pictures brought to t under every guess, and what tells how far to trust each.

    Args:
        a: the left picture.
        b: the right one.
        guessed: the flows.
        hidden: logits (h, w) that a pixel of a is not seen in b, and the other way round.
        rest: which guess is that of no motion.
        limits: within which the first guess alone will do, see `_judged`.
    """
    evidence = guessed.evidence
    kinds, _, rows, columns = evidence.shape
    height, width = 4 * rows, 4 * columns
    there = guessed.present  # less what is found not to need it
    light = ROOMS.take("light", (2, kinds, 1, height, width), np.float32)
    means = ROOMS.take("means", (2, kinds, 3, rows, columns), np.float32)
    mean = ROOMS.take("mean", (height, width), np.float32)
    chroma = None
    if a.chroma is not None:
        chroma = ROOMS.take("chroma", (2, kinds, *a.chroma.shape), np.float32)
    else:
        means[:, :, 1:] = 0.0
    # the first guess is everywhere and is shared by all threads; the runs of another go to one
    everywhere = [(np.array([[y, min(y + BAND, rows), 0, columns]]), 0) for y in range(0, rows, BAND)]
    ab, ba = (x.contiguous().numpy() for x in hidden)

    def draw(part: Runs, k: int, number: int) -> None:
        side = (a, b)[number]
        flow, found = evidence[k, 2 * number : 2 * number + 2], means[number, k]
        _draw(part, side.light_spline, flow, 4, 4, light[number, k], found[:1])
        if chroma is not None and side.chroma_spline is not None:
            _draw(part, side.chroma_spline, flow, *side.block, chroma[number, k], found[1:])
        tones = evidence[k, 4 + 3 * number : 7 + 3 * number]
        _tones_of(part, found[0], found[1:], a.matrix, tones)

    at_once([partial(draw, *task, number) for task in everywhere for number in (0, 1)])
    for number, side in enumerate((a, b)):
        evidence[rest, 4 + 3 * number : 7 + 3 * number] = side.tones
    judged = np.empty_like(there)
    work = partial(
        _judged, a=light[0, 0, 0], b=light[1, 0, 0], still_a=a.light, still_b=b.light, evidence=evidence,
        present=there, rest=rest, limits=np.array(limits, np.float32), judged=judged,
    )  # fmt: skip
    at_once(in_bands(work, rows // TILE, 1))
    elsewhere = [(joined(runs_of(there[k])), k) for k in range(1, kinds) if k != rest]
    at_once([partial(draw, *task, number) for task in elsewhere for number in (0, 1)])
    work = partial(
        _follow, present=there, judged=judged, rest=rest, light=light[:, :, 0], still_a=a.light, still_b=b.light,
        mean=mean,
    )  # fmt: skip
    at_once(in_bands(work, rows // TILE, 1))

    def see(part: Runs, k: int) -> None:
        _hidden(part, ab, ba, evidence[k])
        one, two = (a.light, b.light) if k == rest else (light[0, k, 0], light[1, k, 0])
        _compare(part, one, two, mean, evidence[k])

    tasks = [(part, k) for k in range(kinds) for part in banded(joined(runs_of(judged[k])), 4 * BAND)]
    at_once([partial(see, *task) for task in tasks])
    flat = None if chroma is None else chroma.reshape(2 * kinds, *chroma.shape[2:])
    return Drawn(light.reshape(2 * kinds, 1, height, width), flat, there, judged, rest, guessed.seen, evidence, a, b)


def completed(found: Drawn) -> tuple[Array, Array]:
    """Pictures (2K, 3, H, W) and evidence of `layers_of_rgb`; of the first guess where another is not present."""
    kinds = len(found.present)
    present, judged = (x.repeat(TILE, 1).repeat(TILE, 2)[:, None] for x in (found.present, found.judged))
    assert found.chroma is not None
    there = judged.repeat(4, 2).repeat(4, 3)
    sides = []
    for n, still in enumerate((found.a, found.b)):
        own = slice(n * kinds, (n + 1) * kinds)
        light, chroma = found.light[own], found.chroma[own]
        light[found.rest], chroma[found.rest] = still.light, still.chroma
        light, chroma = (np.where(there, x, x[:1]) for x in (light, chroma))
        sides.append(light + np.einsum("kn,pnyx->pkyx", still.matrix, chroma))
    evidence = np.where(present, found.evidence, found.evidence[:1])
    evidence[:, 11:] = np.where(judged[0], evidence[:, 11:], 0.0)
    return np.concatenate(sides), evidence


def mixed(found: Drawn, shares: Tensor) -> tuple[Array, Array | None]:
    """Light (H, W) and chroma: of every picture the share that goes into every block (2K, h, w), sum 1.

    Both are this thread's until it mixes the next picture.
    """
    a, b = found.a, found.b
    light = _mixed("mixed light", found, shares, found.light, (a.light[None], b.light[None]), 4, 4)[0]
    if found.chroma is None or a.chroma is None or b.chroma is None:
        return light, None
    return light, _mixed("mixed chroma", found, shares, found.chroma, (a.chroma, b.chroma), *a.block)


def _mixed(
    name: str, found: Drawn, shares: Tensor, pictures: Array, still: tuple[Array, Array], down: int, across: int
) -> Array:
    out = ROOMS.take(name, pictures.shape[1:], np.float32)
    work = partial(
        _mix, pictures=pictures, still_a=still[0], still_b=still[1], rest=found.rest, present=found.judged,
        shares=shares.numpy(), down=down, across=across, out=out,
    )  # fmt: skip
    at_once(in_bands(work, out.shape[1], BAND * down))
    return out


def rgb_of(light: Array, chroma: Array | None, like: Layers) -> Tensor:
    """RGB (3, H, W) of light and chroma that come of `layers_of_rgb`."""
    assert chroma is not None
    out = np.empty((3, *light.shape), np.float32)
    work = partial(_tones, light=light, chroma=chroma, matrix=like.matrix, tones=out)
    at_once(in_bands(work, len(light), 4 * BAND))
    return torch.from_numpy(out)


def planes_of(light: Array, chroma: Array | None, like: Layers) -> tuple[Tensor, ...]:
    """Planes like those of a picture, rounded to the code values of its format."""
    assert like.format is not None
    whole = [light] if chroma is None else [light, *chroma]
    most, made = f32((1 << like.format.depth) - 1 + 0.5), []
    for plane, (dark, wide), size in zip(whole, _ranges(like.format), like.sizes, strict=True):
        codes = torch.empty(size, dtype=like.format.dtype)
        work = partial(_write, plane=plane, zero=f32(dark), gain=f32(wide), most=most, codes=codes.numpy())
        at_once(in_bands(work, len(codes), 8 * BAND))
        made.append(codes)
    return tuple(made)


class Weights(NamedTuple):
    """Of the judge's layers that see one block."""

    look: Array  # (each, CLUES)
    kind: Array  # (K, each): bias of the first layer, for each guess
    first: Array  # (each, each)
    first_bias: Array
    second: Array
    second_bias: Array
    verdict: Array  # (2, each)
    verdict_bias: Array
    gather: Array  # (context, 4 each + SHARED_CLUES): of the mean, the maximum, the first's, "rest"'s, and the block's
    gather_bias: Array
    spread: Array  # (each + 3, context)
    spread_bias: Array


class Looked(NamedTuple):
    """What the first layers make of the guesses that are present."""

    features: Array  # flat
    starts: NDArray[np.int64]  # (h, K): where those of a row of blocks and a guess begin, in blocks
    near: Array  # (context, h, w): what is gathered of them


def look(found: Drawn, t: float, weights: Weights) -> Looked:
    """The judge's first layers.

    Args:
        found: of `drawn`.
        t: the instant.
        weights: of the judge.
    """
    kinds, _, height, width = found.evidence.shape
    each = len(weights.look)
    counts = (TILE * found.judged.sum(2)).T.repeat(TILE, 0)  # (h, K)
    starts = np.concatenate([[0], counts.reshape(-1).cumsum()])
    features = ROOMS.take("features", (int(starts[-1]) * each,), np.float32)
    near = ROOMS.take("near", (len(weights.gather), height, width), np.float32)
    begins = starts[:-1].reshape(height, kinds)
    work = partial(
        _look, evidence=found.evidence, seen=found.seen, t=f32(t), present=found.judged, rest=found.rest,
        starts=begins, look=weights.look, kind=weights.kind, second=weights.first, bias=weights.first_bias,
        gather=weights.gather, gather_bias=weights.gather_bias, features=features, near=near,
    )  # fmt: skip
    at_once(in_bands(work, height, BAND))
    return Looked(features, begins, near)


def decide(looked: Looked, found: Drawn, far: Tensor, t: float, weights: Weights, ahead: Tensor) -> Tensor:
    """The judge's last two layers: shares (2K, h, w), this thread's until it decides on the next picture.

    Args:
        looked: of `look`.
        found: of `drawn`.
        far: (each + 3, h / 2, w / 2), what the surroundings say; the last three are logits of a, of b and of "rest".
        t: the instant.
        weights: of the judge.
        ahead: logits (K,) of the guesses before anything is seen.
    """
    kinds, _, height, width = found.evidence.shape
    shares = ROOMS.take("shares", (2 * kinds, height, width), np.float32)
    work = partial(
        _decide, features=looked.features, starts=looked.starts, present=found.judged, rest=found.rest,
        near=looked.near, far=far.numpy(), spread=weights.spread, spread_bias=weights.spread_bias,
        second=weights.second, bias=weights.second_bias, verdict=weights.verdict, last_bias=weights.verdict_bias,
        ahead=ahead.numpy(), seen=found.seen, t=f32(t), shares=shares,
    )  # fmt: skip
    at_once(in_bands(work, height, BAND))
    return torch.from_numpy(shares)
