"""What midnet does to pictures on a CPU, compiled by Numba: splines, flows polished, pictures drawn, judged and mixed.

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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from midframe.models.midnet import EVIDENCE
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


def _sampler(channels: int) -> Any:
    """Weighted sum of 4x4 places of one or two channels: what a loop vectoriser does not find by itself."""

    def sample(
        context: Any, source: Any, base: Any, stride: Any, x0: Any, x1: Any, x2: Any, x3: Any,
        y0: Any, y1: Any, y2: Any, y3: Any, target: Any, at: Any, apart: Any,
    ) -> Any:  # fmt: skip
        """Of the flat float32 `source` the places begin at `base`, rows are `stride` apart.

        x0..x3 and y0..y3 are weights; the channels go to the flat float32 `target` at `at` and `apart` further on.
        """
        signature = types.void(source, base, stride, x0, x1, x2, x3, y0, y1, y2, y3, target, at, apart)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            lanes = 4 * channels
            kind = ir.VectorType(ir.FloatType(), lanes)

            def number(k: int) -> Any:
                return ir.Constant(ir.IntType(32), k)

            def shuffled(vector: Any, order: list[int]) -> Any:
                nothing = ir.Constant(vector.type, ir.Undefined)
                which = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
                return builder.shuffle_vector(vector, nothing, which)

            def start(argument: int, offset: Any) -> Any:
                proxy: Any = cgutils.create_struct_proxy(signature.args[argument])  # type: ignore[no-untyped-call]
                return builder.gep(proxy(context, builder, values[argument]).data, [offset])

            across: Any = ir.Constant(kind, ir.Undefined)
            for k in range(4):
                across = builder.insert_element(across, values[3 + k], number(channels * k))
            across = shuffled(across, [channels * (k // channels) for k in range(lanes)])
            place, total = start(0, values[1]), None
            for k in range(4):
                loaded = builder.load(builder.bitcast(place, kind.as_pointer()))
                loaded.align = 4
                weight = builder.insert_element(ir.Constant(kind, ir.Undefined), values[7 + k], number(0))
                product = builder.fmul(loaded, shuffled(weight, [0] * lanes), flags=("fast",))
                total = product if total is None else builder.fadd(total, product, flags=("fast",))
                place = builder.gep(place, [values[2]])
            total = builder.fmul(total, across, flags=("fast",))
            while lanes > channels:  # the sum of the four places
                lanes //= 2
                halves = [shuffled(total, list(range(k, k + lanes))) for k in (0, lanes)]
                total = builder.fadd(*halves, flags=("fast",))
            offset = values[12]
            for channel in range(channels):
                builder.store(builder.extract_element(total, number(channel)), start(11, offset))
                offset = builder.add(offset, values[13])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(sample)


def _bits_as_float(context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda _, builder, __, values: builder.bitcast(values[0], ir.FloatType())


def _float_as_bits(context: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(32))


sample_one, sample_two = _sampler(1), _sampler(2)
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
def _enlarge(grid: Array, y: int, down: int, across: int, left: int, right: int, wide: Array, row: Array) -> None:
    """What columns left to right of a grid (h, w) become in row y of it, enlarged `down` times and `across` 1, 2 or 4.

    `wide` is room.
    """
    height, width = grid.shape
    place = max((f32(y) + f32(0.5)) / f32(down) - f32(0.5), f32(0.0))
    above = np.int64(place)
    part = place - f32(above)
    first, last, count = max(left - 1, 0), min(right + 1, width), right - left
    upper, lower = grid[above, first:last], grid[min(above + 1, height - 1), first:last]
    shift = 1 - (left - first)
    inner = wide[shift : shift + last - first]
    for x in range(last - first):
        inner[x] = upper[x] + part * (lower[x] - upper[x])
    if left == 0:
        wide[0] = wide[1]
    if right == width:
        wide[count + 1] = wide[count]
    if across == 4:
        for x in range(count):
            a, b, c = wide[x], wide[x + 1], wide[x + 2]
            row[4 * x] = a + f32(0.625) * (b - a)
            row[4 * x + 1] = a + f32(0.875) * (b - a)
            row[4 * x + 2] = b + f32(0.125) * (c - b)
            row[4 * x + 3] = b + f32(0.375) * (c - b)
    elif across == 2:
        for x in range(count):
            a, b, c = wide[x], wide[x + 1], wide[x + 2]
            row[2 * x] = a + f32(0.75) * (b - a)
            row[2 * x + 1] = b + f32(0.25) * (c - b)
    else:
        for x in range(count):
            row[x] = wide[x + 1]


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
        px = min(max(f32(left + x) + scale * across[x], f32(0.0)), f32(width - 1))
        py = min(max(f32(y) + scale * down[x], f32(0.0)), f32(height - 1))
        column, line = min(np.int64(px), width - 2), min(np.int64(py), height - 2)
        fx, fy = px - f32(column), py - f32(line)
        at = np.uint64(line * width + column)
        upper = flat[at] + fx * (flat[at + one] - flat[at])
        lower = flat[at + below] + fx * (flat[at + below + one] - flat[at + below])
        out[x] = upper + fy * (lower - upper)


@compiled
def _splat(values: Array, flow: Array, weight: Array, out: Array) -> None:
    """`ops.splat` of (C, h, w): weighted sums, and in the last entry the sum of weights, added to (C + 1, h, w)."""
    colours, height, width = values.shape
    for y in range(height):
        for x in range(width):
            px = min(max(f32(x) + flow[0, y, x], f32(-2.0)), f32(width + 1))  # what is farther off lands nowhere
            py = min(max(f32(y) + flow[1, y, x], f32(-2.0)), f32(height + 1))
            left, top = np.int64(np.floor(px)), np.int64(np.floor(py))
            fx, fy = px - f32(left), py - f32(top)
            for below in range(2):
                line = top + below
                if line < 0 or line >= height:
                    continue
                down = fy if below else f32(1.0) - fy
                for beside in range(2):
                    column = left + beside
                    if column < 0 or column >= width:
                        continue
                    share = weight[y, x] * down * (fx if beside else f32(1.0) - fx)
                    for c in range(colours):
                        out[c, line, column] += share * values[c, y, x]
                    out[colours, line, column] += share


@compiled
def _polish(
    runs: Runs, present: Mask, a: Array, b: Array, guess: Array, gain: Number, step: Array, evidence: Array
) -> None:
    """`midnet.polish`, times `gain`, of two planes brought to t by a guess (4, h, w), in runs of blocks.

    Around every run one place more of `step` (2, 2h, 2w) is found, for `_draw` looks there; not where the neighbour is
    present, who finds it himself. Entries 4 and 5 of the evidence (19, h, w) are the mean step of the blocks.
    """
    height, width = a.shape
    tall, half = height // 2, width // 2
    wide, rows = np.empty(guess.shape[2] + 2, np.float32), np.empty((4, width), np.float32)
    one, two = np.empty(width, np.float32), np.empty(width, np.float32)
    ninth = f32(1.0 / 9.0)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        top, bottom = max(2 * first - 1, 0), min(2 * last + 1, tall)  # places of the step, at half size
        begin, end = max(2 * left - 1, 0), min(2 * right + 1, half)
        above, under = max(top - 1, 0), min(bottom + 1, tall)  # those whose sums it takes
        before, after = max(begin - 1, 0), min(end + 1, half)
        low, high = max(2 * above - 1, 0), min(2 * under + 1, height)  # pixels whose differences they take
        near, far = max(2 * before - 1, 0), min(2 * after + 1, width)
        columns, places = far - near, after - before
        mean, change = np.empty((high - low, columns + 2), np.float32), np.empty((high - low, columns), np.float32)
        for y in range(low, high):
            for k in range(4):
                _enlarge(guess[k], y, 4, 4, near // 4, (far + 3) // 4, wide, rows[k])
            skip = near % 4
            _sample(a, y, near, f32(4.0), rows[0, skip:], rows[1, skip:], one[:columns])
            _sample(b, y, near, f32(4.0), rows[2, skip:], rows[3, skip:], two[:columns])
            line, other = mean[y - low], change[y - low]
            middle = line[1:]
            for x in range(columns):
                middle[x] = f32(0.25) * (one[x] + two[x])
                other[x] = two[x] - one[x]
            line[0], line[columns + 1] = line[1], line[columns]
        # sums of products over 2x2 pixels; a column more on either side, the edge repeated
        sums = np.zeros((under - above, 5, places + 2), np.float32)
        room = np.empty((5, 2 * places), np.float32)
        shift = 2 * before - near
        for r in range(above, under):
            total = sums[r - above]
            for y in (2 * r, 2 * r + 1):
                line, other = mean[y - low, shift:], change[y - low, shift:]
                over = mean[max(y - 1, 0) - low, shift + 1 :]
                below = mean[min(y + 1, height - 1) - low, shift + 1 :]
                for x in range(2 * places):
                    gx, gy = line[x + 2] - line[x], below[x] - over[x]
                    trust = f32(1.0) / (f32(1.0) + f32(20.0) * abs(other[x]))
                    tx, ty = trust * gx, trust * gy
                    room[0, x], room[1, x], room[2, x] = tx * gx, tx * gy, ty * gy
                    room[3, x], room[4, x] = tx * other[x], ty * other[x]
                for k in range(5):
                    sum_of, pairs = total[k, 1:], room[k]
                    for x in range(places):
                        sum_of[x] += f32(0.25) * (pairs[2 * x] + pairs[2 * x + 1])
            for k in range(5):
                total[k, 0], total[k, places + 1] = total[k, 1], total[k, places]
        around = np.empty((5, places + 2), np.float32)
        found = np.empty((2, end - begin), np.float32)
        for r in range(top, bottom):
            over, here, below = sums[max(r - 1, 0) - above], sums[r - above], sums[min(r + 1, tall - 1) - above]
            for k in range(5):
                for x in range(places + 2):
                    around[k, x] = ninth * (over[k, x] + here[k, x] + below[k, x])
            skip = begin - before
            a_xx, a_xy, a_yy = around[0, skip:], around[1, skip:], around[2, skip:]
            a_xt, a_yt = around[3, skip:], around[4, skip:]
            for x in range(end - begin):
                xx = a_xx[x] + a_xx[x + 1] + a_xx[x + 2] + f32(2e-4)
                xy = a_xy[x] + a_xy[x + 1] + a_xy[x + 2]
                yy = a_yy[x] + a_yy[x + 1] + a_yy[x + 2] + f32(2e-4)
                xt = a_xt[x] + a_xt[x + 1] + a_xt[x + 2]
                yt = a_yt[x] + a_yt[x + 1] + a_yt[x + 2]
                area = f32(1.0) / (xx * yy - xy * xy)
                found[0, x] = gain * min(max((xy * yt - yy * xt) * area, f32(-1.0)), f32(1.0))
                found[1, x] = gain * min(max((xy * xt - xx * yt) * area, f32(-1.0)), f32(1.0))
            if 2 * first <= r < 2 * last:
                _put(found[0], step[0, r, begin:end])
                _put(found[1], step[1, r, begin:end])
            else:
                for x in range(begin, end):
                    if not present[r // (2 * TILE), x // (2 * TILE)]:
                        step[0, r, x], step[1, r, x] = found[0, x - begin], found[1, x - begin]
        for block in range(first, last):
            for k in range(2):
                upper, lower = step[k, 2 * block, 2 * left :], step[k, 2 * block + 1, 2 * left :]
                out = evidence[4 + k, block, left:right]
                for x in range(right - left):
                    out[x] = f32(0.25) * (upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1])


@compiled
def _smoothed(first: int, last: int, place: Array, reach: int, alike: Number, flow: Array) -> None:
    """Rows first to last of `midnet.smoothed`; `place` is (6, h + 2 reach, w + 2 reach): flow, colours, trust."""
    width = flow.shape[2]
    rows = np.empty((3, width), np.float32)
    for y in range(first, last):
        red, green, blue = place[2, y + reach], place[3, y + reach], place[4, y + reach]
        for k in range(3):
            _clear(rows[k])
        for line in range(y, y + 2 * reach + 1):
            other_red, other_green, other_blue = place[2, line], place[3, line], place[4, line]
            across, down, trust = place[0, line], place[1, line], place[5, line]
            for dx in range(2 * reach + 1):
                far = f32((dx - reach) ** 2 + (line - y - reach) ** 2) / f32(2 * reach * reach)
                for x in range(width):
                    one, two = other_red[x + dx] - red[x + reach], other_green[x + dx] - green[x + reach]
                    three = other_blue[x + dx] - blue[x + reach]
                    weight = trust[x + dx] * exp(-alike * (one * one + two * two + three * three) - far)
                    rows[0, x] += weight * across[x + dx]
                    rows[1, x] += weight * down[x + dx]
                    rows[2, x] += weight
        for x in range(width):
            kept = min(place[5, y + reach, x + reach], f32(1.0))
            for k in range(2):
                mean = rows[k, x] / rows[2, x]
                flow[k, y, x] = mean + kept * (place[k, y + reach, x + reach] - mean)


# Pictures


@compiled
def _weights(places: Array, size: int, whole: NDArray[np.int64], weights: Array) -> None:
    """Of places along an axis the cubic B-spline's four weights, and the first of the four coefficients."""
    sixth = f32(1.0 / 6.0)
    for x in range(places.shape[0]):
        at = min(max(places[x], f32(0.0)), f32(size - 1))
        first = np.int32(at)
        f = at - f32(first)
        g = f32(1.0) - f
        whole[x] = first + 1  # coefficients begin two places before the picture
        weights[0, x] = g * g * g * sixth
        weights[1, x] = (f32(4.0) + f * f * (f32(3.0) * f - f32(6.0))) * sixth
        weights[2, x] = (f32(4.0) + g * g * (f32(3.0) * g - f32(6.0))) * sixth
        weights[3, x] = f * f * f * sixth


@compiled
def _draw(
    runs: Runs, spline: Array, flow: Array, step: Array, share: Number, down: int, across: int, out: Array, means: Array
) -> None:
    """Runs of blocks of planes (C, H, W) under a flow (2, h, w) and `share` of the polishing step (2, 2h, 2w).

    A block has `down` rows and `across` columns of the planes, of which there are one or two. Means of the blocks go to
    `means` (C, h, w).
    """
    channels, height, width = out.shape
    stride = np.int64((width + 4) * channels)
    wide, more = np.empty(2 * flow.shape[2] + 2, np.float32), np.empty(width, np.float32)
    room = np.empty((2, width), np.float32)
    lines = np.empty((2, width), np.int64)
    wx, wy = np.empty((4, width), np.float32), np.empty((4, width), np.float32)
    row, total = np.empty(channels * width, np.float32), np.empty((channels, width), np.float32)
    inverse = f32(1.0) / f32(down * across)
    share_x, share_y = share * f32(0.25) * f32(across), share * f32(0.25) * f32(down)
    apart = np.int64(width)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        begin, count = across * left, across * (right - left)
        to_x, to_y, columns, rows = room[0, :count], room[1, :count], lines[0], lines[1]
        for block in range(first, last):
            for c in range(channels):
                _clear(total[c, :count])
            for y in range(down * block, down * block + down):
                _enlarge(flow[0], y, down, across, left, right, wide, to_x)
                _enlarge(step[0], y, down // 2, across // 2, 2 * left, 2 * right, wide, more)
                for x in range(count):
                    to_x[x] = f32(begin + x) + f32(across) * to_x[x] + share_x * more[x]
                _enlarge(flow[1], y, down, across, left, right, wide, to_y)
                _enlarge(step[1], y, down // 2, across // 2, 2 * left, 2 * right, wide, more)
                for x in range(count):
                    to_y[x] = f32(y) + f32(down) * to_y[x] + share_y * more[x]
                _weights(to_x, width, columns, wx)
                _weights(to_y, height, rows, wy)
                if channels == 1:
                    for x in range(count):
                        base = rows[x] * stride + columns[x]
                        sample_one(
                            spline, base, stride, wx[0, x], wx[1, x], wx[2, x], wx[3, x],
                            wy[0, x], wy[1, x], wy[2, x], wy[3, x], row, np.int64(x), apart,
                        )  # fmt: skip
                else:
                    for x in range(count):
                        base = rows[x] * stride + columns[x] * 2
                        sample_two(
                            spline, base, stride, wx[0, x], wx[1, x], wx[2, x], wx[3, x],
                            wy[0, x], wy[1, x], wy[2, x], wy[3, x], row, np.int64(x), apart,
                        )  # fmt: skip
                for c in range(channels):
                    target, source, sums = out[c, y, begin : begin + count], row[c * width :], total[c]
                    for x in range(count):
                        target[x] = source[x]
                        sums[x] += source[x]
            for c in range(channels):
                _sums(total[c], across, inverse, means[c, block, left:right])


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
    for c in range(3):
        of_first, of_second = matrix[c, 0], matrix[c, 1]
        for y in range(first, last):
            target, own, one, two = tones[c, y], light[y], chroma[0, y], chroma[1, y]
            for x in range(target.shape[0]):
                target[x] = own[x] + of_first * one[x] + of_second * two[x]


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
            target[x] = np.int32(min(max(gain * source[x] + shift, f32(0.0)), most))


@compiled
def _follow(runs: Runs, leader: Array, plane: Array) -> None:
    """Where a guess is not present: what the first one has."""
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        for y in range(4 * first, 4 * last):
            _put(leader[y, 4 * left : 4 * right], plane[y, 4 * left : 4 * right])


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
def _mean(first: int, last: int, bright: Array, mean: Array) -> None:
    """Rows first to last of the mean of all brightness (2, K, H, W)."""
    kinds, width = bright.shape[1], bright.shape[3]
    for y in range(first, last):
        for x in range(width):
            mean[y, x] = bright[0, 0, y, x] + bright[1, 0, y, x]
        for k in range(1, kinds):
            for x in range(width):
                mean[y, x] += bright[0, k, y, x] + bright[1, k, y, x]
        for x in range(width):
            mean[y, x] *= f32(0.5) / f32(kinds)


@compiled
def _compare(runs: Runs, a: Array, b: Array, mean: Array, evidence: Array) -> None:
    """Entries 12 to 16 of the evidence (19, h, w) of a guess, from what it makes of the brightness (H, W)."""
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
                _sums(sums[c], 4, f32(0.0625), evidence[12 + c, block, left:right])
    _fine_detail(runs, a, evidence[15])
    _fine_detail(runs, b, evidence[16])


@compiled
def _hidden(first: int, last: int, ab: Array, ba: Array, evidence: Array) -> None:
    """Entries 17 and 18 of rows first to last of the evidence: logits (h, w) fetched along the flows of a guess."""
    for y in range(first, last):
        _sample(ab, y, 0, f32(1.0), evidence[0, y], evidence[1, y], evidence[17, y])
        _sample(ba, y, 0, f32(1.0), evidence[2, y], evidence[3, y], evidence[18, y])


# The judge: its clues, and what lies between the layers of `midnet.Judge`. A row is a guess that is present in a block.


@compiled
def _root(x: Number) -> Number:
    return f32(4.0) * np.sqrt(max(x, f32(0.0)) + f32(1e-4))


@compiled
def _length(x: Number, y: Number) -> Number:
    return np.sqrt(x * x + y * y + f32(1e-6))


@compiled
def _tones_apart(one: Array, two: Array, y: int, out: Array) -> None:
    for x in range(out.shape[0]):
        total = abs(one[0, y, x] - two[0, y, x]) + abs(one[1, y, x] - two[1, y, x]) + abs(one[2, y, x] - two[2, y, x])
        out[x] = _root(f32(1.0 / 3.0) * total)


@compiled
def _unevenness(flow: Array, y: int, room: Array, out: Array) -> None:
    """How far row y of a flow (2, h, w) is from its mean over 3x3 places."""
    _, height, width = flow.shape
    above, below = max(y - 1, 0), min(y + 1, height - 1)
    for k in range(2):
        for x in range(width):
            room[k, x + 1] = flow[k, above, x] + flow[k, y, x] + flow[k, below, x]
        room[k, 0], room[k, width + 1] = room[k, 1], room[k, width]
    ninth = f32(1.0 / 9.0)
    for x in range(width):
        dx = flow[0, y, x] - ninth * (room[0, x] + room[0, x + 1] + room[0, x + 2])
        dy = flow[1, y, x] - ninth * (room[1, x] + room[1, x + 1] + room[1, x + 2])
        out[x] = log(f32(1.0) + _length(dx, dy))


@compiled
def _clues(
    first: int, last: int, evidence: Array, seen: Array, t: Number, present: Mask, starts: NDArray[np.int64],
    rows: Array, place: NDArray[np.int32], shared: Array, offset: int,
) -> None:  # fmt: skip
    """`midnet.clues` of rows first to last of blocks: of each guess that is present into `rows` (R, CLUES).

    `starts` says which row a row of blocks begins with, `place` (h, w, K) is told which row is whose, -1 for none. What
    is common to a block goes to `shared` (h, w, C), from `offset` on.
    """
    kinds, _, _, width = evidence.shape
    count = rows.shape[1]
    found, apart = np.empty((count, width), np.float32), np.empty((kinds, width), np.float32)
    least, room, velocity = (
        np.empty(width, np.float32),
        np.empty((2, width + 2), np.float32),
        np.empty(width, np.float32),
    )
    leader = evidence[0]
    for y in range(first, last):
        row = starts[y]
        for x in range(width):
            for k in range(kinds):
                place[y, x, k] = -1
                if present[k, y // TILE, x // TILE]:
                    place[y, x, k] = row
                    row += 1
        for k in range(kinds):
            for x in range(width):
                apart[k, x] = _root(evidence[k, 12, y, x])
        for x in range(width):
            least[x] = apart[0, x]
        for k in range(1, kinds):
            for tile in range(width // TILE):
                if present[k, y // TILE, tile]:
                    for x in range(tile * TILE, tile * TILE + TILE):
                        least[x] = min(least[x], apart[k, x])
        for k in range(kinds):
            own = evidence[k]
            for x in range(width):
                found[0, x] = apart[k, x]
                found[1, x] = apart[k, x] - least[x]
                found[2, x] = apart[k, x] - apart[0, x]
                found[4, x], found[5, x] = _root(own[13, y, x]), _root(own[14, y, x])
                found[6, x] = found[4, x] - found[5, x]
                found[7, x], found[8, x] = _root(own[15, y, x]), _root(own[16, y, x])
                found[9, x] = found[7, x] - found[8, x]
                found[10, x], found[11, x] = f32(0.25) * own[17, y, x], f32(0.25) * own[18, y, x]
                found[12, x] = _length(own[4, y, x], own[5, y, x])
            for x in range(width):
                found[13, x] = log(f32(1.0) + _length(own[0, y, x] - leader[0, y, x], own[1, y, x] - leader[1, y, x]))
                found[14, x] = log(f32(1.0) + _length(own[2, y, x] - leader[2, y, x], own[3, y, x] - leader[3, y, x]))
                found[17, x] = log(f32(1.0) + _length(own[2, y, x] - own[0, y, x], own[3, y, x] - own[1, y, x]))
            _unevenness(own[0:2], y, room, found[15])
            _unevenness(own[2:4], y, room, found[16])
            _tones_apart(own[6:9], own[9:12], y, found[3])
            _tones_apart(own[6:9], leader[6:9], y, found[18])
            _tones_apart(own[9:12], leader[9:12], y, found[19])
            _tones_apart(own[6:9], leader[9:12], y, found[20])
            _tones_apart(own[9:12], leader[6:9], y, found[21])
            if k == 0:
                for x in range(width):
                    velocity[x] = found[17, x]
            for x in range(width):
                row = place[y, x, k]
                if row >= 0:
                    for c in range(count):
                        rows[row, c] = found[c, x]
        for x in range(width):
            block = shared[y, x]
            for c in range(3):
                block[offset + c] = seen[c, y, x]
                block[offset + 5 + c] = leader[6 + c, y, x] - f32(0.5)
                block[offset + 8 + c] = leader[9 + c, y, x] - f32(0.5)
            block[offset + 3], block[offset + 4] = t, f32(1.0) - t
            block[offset + 11], block[offset + 12] = least[x], velocity[x]


@compiled
def _rectified(x: Number) -> Number:
    return max(x, f32(0.1) * x)


@compiled
def _pool(first: int, last: int, rows: Array, place: NDArray[np.int32], shared: Array) -> None:
    """Mean and maximum of the rows (R, each) of all guesses, and the first one's, into a block's first entries."""
    each, (_, width, kinds) = rows.shape[1], place.shape
    for y in range(first, last):
        for x in range(width):
            block = shared[y, x]
            row = place[y, x, 0]
            for c in range(each):
                value = _rectified(rows[row, c])
                block[c], block[each + c], block[2 * each + c] = value, value, value
            count = f32(1.0)
            for k in range(1, kinds):
                row = place[y, x, k]
                if row >= 0:
                    count += f32(1.0)
                    for c in range(each):
                        value = _rectified(rows[row, c])
                        block[c] += value
                        block[each + c] = max(block[each + c], value)
            for c in range(each):
                block[c] /= count


@compiled
def _add(first: int, last: int, rows: Array, place: NDArray[np.int32], values: Array) -> None:
    """Rows (R, each) and values (h, w, K, each), added and rectified."""
    each, (_, width, kinds) = rows.shape[1], place.shape
    for y in range(first, last):
        for x in range(width):
            for k in range(kinds):
                row = place[y, x, k]
                if row >= 0:
                    for c in range(each):
                        rows[row, c] = _rectified(rows[row, c] + values[y, x, k, c])


@compiled
def _decide(
    first: int, last: int, rows: Array, place: NDArray[np.int32], around: Array, ahead: Array, seen: Array, t: Number,
    shares: Array,
) -> None:  # fmt: skip
    """Shares (2K, h, w) from logits (R, 2), those of the block, and what is known beforehand."""
    _, width, kinds = place.shape
    entries = around.shape[2]
    logits = np.empty(2 * kinds, np.float32)
    early, late = log(f32(1.0) - t + f32(1e-3)), log(t + f32(1e-3))
    for y in range(first, last):
        for x in range(width):
            soft = log(f32(1.0) + exp(-abs(seen[2, y, x])))
            to_a = around[y, x, entries - 2] + early + min(seen[2, y, x], f32(0.0)) - soft
            to_b = around[y, x, entries - 1] + late + min(-seen[2, y, x], f32(0.0)) - soft
            most = f32(-1e30)
            for k in range(kinds):
                row = place[y, x, k]
                if row >= 0:
                    logits[k] = rows[row, 0] + ahead[k] + to_a
                    logits[kinds + k] = rows[row, 1] + ahead[k] + to_b
                    most = max(most, logits[k], logits[kinds + k])
            total = f32(0.0)
            for k in range(2 * kinds):
                if place[y, x, k % kinds] >= 0:
                    logits[k] = exp(logits[k] - most)
                    total += logits[k]
                else:
                    logits[k] = f32(0.0)
            for k in range(2 * kinds):
                shares[k, y, x] = logits[k] / total


@compiled
def _mix(
    first: int, last: int, pictures: Array, present: Mask, shares: Array, down: int, across: int, out: Array
) -> None:
    """Rows first to last of the mixture of planes (2K, C, H, W) with shares (2K, h, w) that sum to 1.

    A block has `down` rows and `across` columns of the planes.
    """
    channels, _, width = out.shape
    half = pictures.shape[0] // 2
    blocks = width // across
    wide, row, left_over = np.empty(blocks + 2, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    high, side = down * TILE, across * TILE
    for y in range(first, last):
        for c in range(channels):
            _clear(out[c, y])
        for kind in range(2 * half):
            k = half * (1 - kind // half) + half - 1 - kind % half  # the first of each side last: it takes what is left
            if k % half == half - 1:
                _clear(left_over)
            _enlarge(shares[k], y, down, across, 0, blocks, wide, row)
            if k % half == 0:
                for x in range(width):
                    row[x] += left_over[x]
            tile = 0
            while tile < width // side:
                there, begin = present[k % half, y // high, tile], tile * side
                while tile < width // side and present[k % half, y // high, tile] == there:
                    tile += 1
                part, rest = row[begin : tile * side], left_over[begin : tile * side]
                if there:
                    for c in range(channels):
                        target, source = out[c, y, begin : tile * side], pictures[k, c, y, begin : tile * side]
                        for x in range(tile * side - begin):
                            target[x] += part[x] * source[x]
                else:
                    for x in range(tile * side - begin):
                        rest[x] += part[x]


# Doors


def _tell() -> None:
    """Say why the first picture takes so long, if nothing compiled is kept of this file as it is."""
    logger = logging.getLogger(__name__)
    place = _draw.stats.cache_path  # type: ignore[attr-defined]
    if place is None:
        logger.warning(
            "compiling for this processor, some twenty seconds at every start; NUMBA_CACHE_DIR may name a folder"
        )
        return
    written = Path(__file__).stat().st_mtime
    if not any(kept.stat().st_mtime >= written for kept in Path(place).glob("drawing._draw-*.nbi")):
        logger.warning("compiling for this processor, once: some twenty seconds")


_tell()


def in_bands(work: Callable[[int, int], None], length: int, band: int) -> list[Callable[[], None]]:
    """Calls of `work` on rows 0 to `length`, `band` at a time."""
    return [partial(work, first, min(first + band, length)) for first in range(0, length, band)]


def at_once(calls: Iterable[Callable[[], None]]) -> None:
    """All calls, by as many threads as torch has been given."""
    threads = torch.get_num_threads()
    if threads == 1:
        for call in calls:
            call()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def smoothed(colour: Tensor, flow: Tensor, sure: Tensor, reach: int, alike: float) -> Tensor:
    """`midnet.smoothed` of (B, 2, h, w), given mean colours and trust at its places."""
    place = F.pad(torch.cat([flow, colour, sure], 1).float(), (reach,) * 4, mode="replicate").numpy()
    out = np.empty(flow.shape, np.float32)
    calls: list[Callable[[], None]] = []
    for one, made in zip(place, out, strict=True):
        work = partial(_smoothed, place=one, reach=reach, alike=f32(0.5 / alike**2), flow=made)
        calls += in_bands(work, made.shape[1], BAND)
    at_once(calls)
    return torch.from_numpy(out)


def splat(values: Tensor, flow: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.splat` of (B, C, h, w), flow (B, 2, h, w) and weight (B, 1, h, w), float32."""
    count, colours, height, width = values.shape
    out = np.zeros((count, colours + 1, height, width), np.float32)
    carried, along, load = (x.contiguous().numpy() for x in (values, flow, weight[:, 0]))
    at_once([partial(_splat, carried[n], along[n], load[n], out[n]) for n in range(count)])
    made = torch.from_numpy(out)
    return made[:, :-1], made[:, -1:]


def runs_of(mask: Mask) -> Runs:
    """The tiles (rows, columns) that a mask names, side by side ones as one run."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return TILE * np.stack([begins[:, 0], begins[:, 0] + 1, begins[:, 1], ends[:, 1]], 1)


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
    black, span, zero, chroma_span = levels(format)
    light = np.empty((height, width), np.float32)
    reading = [(planes[0], black, span, light)]
    chroma = None
    if format.layout == "yuv":
        chroma = np.empty((2, height >> format.chroma_h, width >> format.chroma_w), np.float32)
        reading += [(planes[1 + k], zero, chroma_span, chroma[k]) for k in range(2)]
    for codes, dark, wide, plane in reading:
        work = partial(_read, codes=codes.numpy(), zero=f32(dark), gain=f32(1.0 / wide), out=plane)
        at_once(in_bands(work, len(plane), 8 * BAND))
    sizes = tuple((len(plane), plane.shape[1]) for plane in planes)
    return _layers(light, chroma, format.matrix)._replace(format=format, sizes=sizes)


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

    What a guess has in tiles where it is not present is not to be read.
    """

    light: Array  # (2K, 1, H, W): a under each guess, then b
    chroma: Array | None  # (2K, 2, ., .), likewise
    present: Mask  # (K, h / TILE, w / TILE)
    evidence: Array  # (K, EVIDENCE, h, w), see `midnet.Midnet.candidates`
    like: Layers  # of a


def drawn(
    a: Layers,
    b: Layers,
    guesses: Tensor,
    present: Tensor,
    hidden: tuple[Tensor, Tensor],
    rest: int,
    t: float,
    gain: float,
) -> Drawn:
    """Both pictures brought to t under every guess, and what tells how far to trust each.

    Args:
        a: the left picture.
        b: the right one.
        guesses: (K, 4, h, w) flows to a and to b.
        present: (K, h / TILE, w / TILE), where to draw a guess; the first one everywhere.
        hidden: logits (h, w) that a pixel of a is not seen in b, and the other way round.
        rest: which guess is that of no motion; -1 if none is.
        t: the instant.
        gain: of the polishing step.
    """
    kinds, _, rows, columns = guesses.shape
    height, width = 4 * rows, 4 * columns
    there: Mask = present.numpy()
    steps = ROOMS.take("steps", (kinds, 2, height // 2, width // 2), np.float32)
    light = ROOMS.take("light", (2, kinds, 1, height, width), np.float32)
    means = ROOMS.take("means", (2, kinds, 3, rows, columns), np.float32)
    mean = ROOMS.take("mean", (height, width), np.float32)
    evidence = ROOMS.take("evidence", (kinds, EVIDENCE, rows, columns), np.float32)
    chroma = None
    if a.chroma is not None:
        chroma = ROOMS.take("chroma", (2, kinds, *a.chroma.shape), np.float32)
    evidence[:, :4] = guesses.numpy()
    # a guess's runs go to one thread, for they overlap by a place; the first guess's, which do not, to all
    bands = [np.array([[y, min(y + BAND, rows), 0, columns]]) for y in range(0, rows, BAND)]
    runs = [bands if k == 0 else [runs_of(there[k])] for k in range(kinds)]
    tasks = [(part, k) for k in range(kinds) if k != rest for part in runs[k]]

    def polish(part: Runs, k: int) -> None:
        _polish(part, there[k], a.light, b.light, evidence[k, :4], f32(gain), steps[k], evidence[k])

    def draw(part: Runs, k: int, number: int) -> None:
        side, share = (a, b)[number], f32(1.0 - t if number else -t)  # both go their part, so that t stays t
        flow, found = evidence[k, 2 * number : 2 * number + 2], means[number, k]
        _draw(part, side.light_spline, flow, steps[k], share, 4, 4, light[number, k], found[:1])
        if chroma is not None and side.chroma_spline is not None:
            _draw(part, side.chroma_spline, flow, steps[k], share, *side.block, chroma[number, k], found[1:])

    def colour(part: Runs, k: int, number: int) -> None:
        tones, found = evidence[k, 6 + 3 * number : 9 + 3 * number], means[number, k]
        for first, last, _, __ in part:
            if chroma is None:
                tones[:, first:last] = found[:1, first:last]
            else:
                _tones(first, last, found[0], found[1:], a.matrix, tones)

    def stay(number: int) -> None:
        side = (a, b)[number]
        light[number, rest, 0] = side.light
        evidence[rest, 6 + 3 * number : 9 + 3 * number] = side.tones
        if chroma is not None:
            chroma[number, rest] = side.chroma

    def follow(k: int, number: int) -> None:
        _follow(runs_of(~there[k]), light[number, 0, 0], light[number, k, 0])

    def compare(part: Runs, k: int) -> None:
        _compare(part, light[0, k, 0], light[1, k, 0], mean, evidence[k])

    at_once([partial(polish, *task) for task in tasks])
    drawing = [partial(draw, *task, number) for task in tasks for number in (0, 1)]
    if rest >= 0:
        evidence[rest, 4:6] = 0.0
        drawing += [partial(stay, number) for number in (0, 1)]
    at_once(drawing)
    at_once([partial(colour, *task, number) for task in tasks for number in (0, 1)])
    at_once([partial(follow, k, number) for k in range(1, kinds) if k != rest for number in (0, 1)])
    at_once(in_bands(partial(_mean, bright=light[:, :, 0], mean=mean), height, 4 * BAND))
    if rest >= 0:
        tasks.append((np.array([[0, rows, 0, columns]]), rest))
    at_once([partial(compare, *task) for task in tasks])
    ab, ba = (x.contiguous().numpy() for x in hidden)
    at_once([partial(_hidden, 0, rows, ab, ba, evidence[k]) for k in range(kinds)])
    flat = None if chroma is None else chroma.reshape(2 * kinds, *chroma.shape[2:])
    return Drawn(light.reshape(2 * kinds, 1, height, width), flat, there, evidence, a)


def completed(found: Drawn) -> tuple[Array, Array]:
    """Pictures (2K, 3, H, W) and evidence of `layers_of_rgb`; of the first guess where another is not present."""
    kinds = len(found.present)
    blocks = found.present.repeat(TILE, 1).repeat(TILE, 2)[:, None]
    assert found.chroma is not None
    pictures = found.light + np.einsum("kn,pnyx->pkyx", found.like.matrix, found.chroma)
    sides = pictures.reshape(2, kinds, *pictures.shape[1:])
    sides = np.where(blocks.repeat(4, 2).repeat(4, 3), sides, sides[:, :1])
    return sides.reshape(pictures.shape), np.where(blocks, found.evidence, found.evidence[:1])


def mixed(found: Drawn, shares: Tensor) -> tuple[Array, Array | None]:
    """Light (H, W) and chroma: of every picture the share that goes into every block (2K, h, w), sum 1.

    Both are this thread's until it mixes the next picture.
    """
    parts = shares.numpy()
    light = _mixed("mixed light", found.light, found.present, parts, 4, 4)[0]
    if found.chroma is None:
        return light, None
    return light, _mixed("mixed chroma", found.chroma, found.present, parts, *found.like.block)


def _mixed(name: str, pictures: Array, present: Mask, shares: Array, down: int, across: int) -> Array:
    out = ROOMS.take(name, pictures.shape[1:], np.float32)
    work = partial(_mix, pictures=pictures, present=present, shares=shares, down=down, across=across, out=out)
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
    black, span, zero, chroma_span = levels(like.format)
    whole = [(light, black, span)]
    if chroma is not None:
        whole += [(plane, zero, chroma_span) for plane in chroma]
    most, made = f32((1 << like.format.depth) - 1 + 0.5), []
    for (plane, dark, wide), size in zip(whole, like.sizes, strict=True):
        codes = torch.empty(size, dtype=like.format.dtype)
        work = partial(_write, plane=plane, zero=f32(dark), gain=f32(wide), most=most, codes=codes.numpy())
        at_once(in_bands(work, len(codes), 8 * BAND))
        made.append(codes)
    return tuple(made)


class Rows(NamedTuple):
    """The guesses that are present, block by block, and what their blocks have in common."""

    clues: Array  # (R, CLUES), see `midnet.clues`
    place: NDArray[np.int32]  # (h, w, K): which row is whose; -1 for none
    shared: Array  # (h, w, offset + SHARED_CLUES), of which the first `offset` are free


def clues(found: Drawn, seen: Tensor, t: float, count: int, common: int, offset: int) -> Rows:
    """What the judge makes of the evidence.

    Args:
        found: of `drawn`.
        seen: (3, h, w), see `midnet.carry`.
        t: the instant.
        count: of clues of each guess.
        common: of those of a block.
        offset: free entries before those of a block.
    """
    kinds, _, height, width = found.evidence.shape
    starts = np.concatenate([[0], (found.present.sum((0, 2)) * TILE).repeat(TILE).cumsum()])
    rows = ROOMS.take("clues", (int(starts[-1]), count), np.float32)
    place = ROOMS.take("place", (height, width, kinds), np.int32)
    shared = ROOMS.take("shared", (height, width, offset + common), np.float32)
    work = partial(
        _clues, evidence=found.evidence, seen=seen.contiguous().numpy(), t=f32(t), present=found.present, starts=starts,
        rows=rows, place=place, shared=shared, offset=offset,
    )  # fmt: skip
    at_once(in_bands(work, height, BAND))
    return Rows(rows, place, shared)


def add(features: Tensor, rows: Rows, values: Tensor) -> None:
    """Add values, broadcast to (h, w, K, each), to the features (R, each) of guesses in blocks, and rectify."""
    spread = np.broadcast_to(values.detach().float().numpy(), (*rows.place.shape, features.shape[1]))
    at_once(in_bands(partial(_add, rows=features.numpy(), place=rows.place, values=spread), len(rows.place), BAND))


def pool(features: Tensor, rows: Rows) -> None:
    """Mean, maximum and the first of the features (R, each) of the guesses in a block, into the free entries."""
    work = partial(_pool, rows=features.numpy(), place=rows.place, shared=rows.shared)
    at_once(in_bands(work, len(rows.place), BAND))


def decide(logits: Tensor, rows: Rows, around: Tensor, ahead: Tensor, seen: Tensor, t: float) -> Tensor:
    """Shares (2K, h, w) from logits (R, 2), the last two entries of `around`, and what is known beforehand."""
    height, width, kinds = rows.place.shape
    shares = np.empty((2 * kinds, height, width), np.float32)
    work = partial(
        _decide, rows=logits.numpy(), place=rows.place, around=around.numpy(), ahead=ahead.numpy(),
        seen=seen.contiguous().numpy(), t=f32(t), shares=shares,
    )  # fmt: skip
    at_once(in_bands(work, height, BAND))
    return torch.from_numpy(shares)
