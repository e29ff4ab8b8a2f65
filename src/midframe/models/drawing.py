"""What midnet does to pictures on a CPU, compiled by Numba: splines, flows polished, pictures drawn, judged and mixed.

The same stands in midnet.py as tensor operations, which GPUs and training use and which are the oracle of the tests.
There each operation passes whole pictures through memory; here a few rows at a time go through all of them, which takes
a fifth of the time. Rows do not depend on how they are shared among threads.

Pictures are kept as 16-bit levels, of which STEPS are 1.0 and BELOW lie under 0: a drawn picture may leave 0..1 by a
half, and rounding costs 2e-5.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
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

from midframe.models.midnet import EVIDENCE

Array = NDArray[Any]  # of float32
Number = Any  # float32, or an integer, in compiled code
Levels = NDArray[np.uint16]
Mask = NDArray[np.bool_]
Runs = NDArray[np.int64]  # (R, 4): rows first to last and columns left to right of 4x4 blocks
Function = TypeVar("Function", bound=Callable[..., Any])

f32 = np.float32
STEPS, BELOW = 32768, 16384
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


def _spline_sample(
    context: Any, source: Any, base: Any, stride: Any, x0: Any, x1: Any, x2: Any, x3: Any,
    y0: Any, y1: Any, y2: Any, y3: Any, target: Any, at: Any,
) -> Any:  # fmt: skip
    """Weighted sum of 4x4 places of four channels: what a loop vectoriser does not find by itself.

    Of the flat float32 `source` the places begin at `base`, rows are `stride` apart; x0..x3 and y0..y3 are weights;
    the four channels go to the flat float32 `target` at `at`.
    """
    signature = types.void(source, base, stride, x0, x1, x2, x3, y0, y1, y2, y3, target, at)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        four = ir.VectorType(ir.FloatType(), 4)
        nothing = ir.Constant(four, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)

        def spread(value: Any) -> Any:
            first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(first, nothing, lanes)

        def start(argument: int, offset: int) -> Any:
            kind: Any = cgutils.create_struct_proxy(signature.args[argument])  # type: ignore[no-untyped-call]
            array = kind(context, builder, values[argument])
            return builder.gep(array.data, [values[offset]])

        def plus(total: Any, value: Any, weight: Any) -> Any:
            product = builder.fmul(value, weight, flags=("fast",))
            return product if total is None else builder.fadd(total, product, flags=("fast",))

        across, down = [[spread(value) for value in values[first : first + 4]] for first in (3, 7)]
        place, total = start(0, 1), None
        for y in down:
            row = None
            for k, x in enumerate(across):
                pointer = builder.gep(place, [ir.Constant(ir.IntType(64), 4 * k)])
                loaded = builder.load(builder.bitcast(pointer, four.as_pointer()))
                loaded.align = 4
                row = plus(row, loaded, x)
            total = plus(total, row, y)
            place = builder.gep(place, [values[2]])
        stored = builder.store(total, builder.bitcast(start(11, 12), four.as_pointer()))
        stored.align = 4
        return context.get_dummy_value()

    return signature, generate


def _bits_as_float(context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda _, builder, __, values: builder.bitcast(values[0], ir.FloatType())


def _float_as_bits(context: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(32))


spline_sample: Any = intrinsic(_spline_sample)
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
def _filter_rows(first: int, last: int, image: Array, out: Array) -> None:
    """Rows first to last of (3, H, W), two places more on either side, filtered along themselves, into (H, W + 4, 4).

    One value waits for the one before, so the three colours go side by side.
    """
    width = image.shape[2]
    long = width + 4
    z, six, whole = POLE, f32(6.0), f32(1.0) / (f32(1.0) - POLE)
    end = z / (f32(1.0) - z * z)
    kept = np.empty((long, 4), np.float32)
    for y in range(first, last):
        reds, greens, blues, target = image[0, y], image[1, y], image[2, y], out[y]
        red, green, blue = reds[0] * whole, greens[0] * whole, blues[0] * whole
        for x in range(long):
            source = min(max(x - 2, 0), width - 1)
            if x > 0:
                red, green, blue = reds[source] + z * red, greens[source] + z * green, blues[source] + z * blue
            kept[x, 0], kept[x, 1], kept[x, 2] = red, green, blue
        level = reds[width - 1] * whole, greens[width - 1] * whole, blues[width - 1] * whole
        red = -z * whole * level[0] - end * (red - level[0])
        green = -z * whole * level[1] - end * (green - level[1])
        blue = -z * whole * level[2] - end * (blue - level[2])
        for back in range(long):
            x = long - 1 - back
            if back > 0:
                red, green, blue = z * (red - kept[x, 0]), z * (green - kept[x, 1]), z * (blue - kept[x, 2])
            target[x, 0], target[x, 1], target[x, 2] = six * red, six * green, six * blue
            target[x, 3] = six * (f32(0.299) * red + f32(0.587) * green + f32(0.114) * blue)


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
def _enlarge(grid: Array, y: int, factor: int, left: int, right: int, wide: Array, row: Array) -> None:
    """What columns left to right of a grid (h, w) become in row y of it enlarged 2 or 4 times; `wide` is room."""
    height, width = grid.shape
    place = max((f32(y) + f32(0.5)) / f32(factor) - f32(0.5), f32(0.0))
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
    if factor == 4:
        for x in range(count):
            a, b, c = wide[x], wide[x + 1], wide[x + 2]
            row[4 * x] = a + f32(0.625) * (b - a)
            row[4 * x + 1] = a + f32(0.875) * (b - a)
            row[4 * x + 2] = b + f32(0.125) * (c - b)
            row[4 * x + 3] = b + f32(0.375) * (c - b)
    else:
        for x in range(count):
            a, b, c = wide[x], wide[x + 1], wide[x + 2]
            row[2 * x] = a + f32(0.75) * (b - a)
            row[2 * x + 1] = b + f32(0.25) * (c - b)


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
                _enlarge(guess[k], y, 4, near // 4, (far + 3) // 4, wide, rows[k])
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
def _level(value: Number) -> Number:
    return np.uint16(np.int32(min(max(value * f32(STEPS) + f32(BELOW + 0.5), f32(0.0)), f32(65535.0))))


@compiled
def _draw(
    runs: Runs, spline: Array, flow: Array, step: Array, share: Number, out: Levels, bright: Array, tones: Array
) -> None:
    """Runs of blocks of a picture under a flow (2, h, w) and `share` of the polishing step (2, 2h, 2w).

    Its levels go to `out` (3, H, W), brightness to `bright` (H, W), mean colours of its blocks to `tones` (3, h, w).
    """
    height, width = bright.shape
    stride = np.int64((width + 4) * 4)
    wide, more = np.empty(width // 2 + 2, np.float32), np.empty(width, np.float32)
    room = np.empty((2, width), np.float32)
    lines = np.empty((2, width), np.int64)
    wx, wy = np.empty((4, width), np.float32), np.empty((4, width), np.float32)
    row, total = np.empty(4 * width, np.float32), np.empty(4 * width, np.float32)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        begin, count = 4 * left, 4 * (right - left)
        across, down, columns, rows = room[0, :count], room[1, :count], lines[0], lines[1]
        for block in range(first, last):
            _clear(total[: 4 * count])
            for y in range(4 * block, 4 * block + 4):
                _enlarge(flow[0], y, 4, left, right, wide, across)
                _enlarge(step[0], y, 2, 2 * left, 2 * right, wide, more)
                for x in range(count):
                    across[x] = f32(begin + x) + f32(4.0) * across[x] + share * more[x]
                _enlarge(flow[1], y, 4, left, right, wide, down)
                _enlarge(step[1], y, 2, 2 * left, 2 * right, wide, more)
                for x in range(count):
                    down[x] = f32(y) + f32(4.0) * down[x] + share * more[x]
                _weights(across, width, columns, wx)
                _weights(down, height, rows, wy)
                for x in range(count):
                    base = rows[x] * stride + columns[x] * 4
                    spline_sample(
                        spline, base, stride, wx[0, x], wx[1, x], wx[2, x], wx[3, x],
                        wy[0, x], wy[1, x], wy[2, x], wy[3, x], row, np.int64(4 * x),
                    )  # fmt: skip
                for c in range(3):
                    target, source = out[c, y, begin : begin + count], row[c:]
                    for x in range(count):
                        target[x] = _level(source[4 * x])
                light, source = bright[y, begin : begin + count], row[3:]
                for x in range(count):
                    light[x] = source[4 * x]
                for x in range(4 * count):
                    total[x] += row[x]
            for c in range(3):
                mean, part = tones[c, block, left:right], total[c:]
                for x in range(right - left):
                    k = 16 * x
                    mean[x] = f32(0.0625) * (part[k] + part[k + 4] + part[k + 8] + part[k + 12])


@compiled
def _means_of_four(row: Array, out: Array) -> None:
    """A sixteenth of the sums of four neighbours."""
    for x in range(out.shape[0]):
        out[x] = f32(0.0625) * (row[4 * x] + row[4 * x + 1] + row[4 * x + 2] + row[4 * x + 3])


@compiled
def _copy(runs: Runs, image: Array, out: Levels, tones: Array) -> None:
    """What `_draw` makes of no motion: runs of blocks of the picture (3, H, W) itself."""
    total = np.empty(image.shape[2], np.float32)
    for run in range(runs.shape[0]):
        first, last, left, right = runs[run]
        begin, count = 4 * left, 4 * (right - left)
        for block in range(first, last):
            for c in range(3):
                _clear(total[:count])
                for y in range(4 * block, 4 * block + 4):
                    source, target = image[c, y, begin : begin + count], out[c, y, begin : begin + count]
                    for x in range(count):
                        target[x] = _level(source[x])
                        total[x] += source[x]
                _means_of_four(total, tones[c, block, left:right])


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
            _means_of_four(total, mean)
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
                _means_of_four(sums[c], evidence[12 + c, block, left:right])
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
def _mix(first: int, last: int, pictures: Levels, present: Mask, shares: Array, out: Array) -> None:
    """Rows first to last of the mixture of pictures (2K, 3, H, W) with shares (2K, h, w) that sum to 1."""
    width = out.shape[2]
    half = pictures.shape[0] // 2
    wide, row, left_over = (
        np.empty(width // 4 + 2, np.float32),
        np.empty(width, np.float32),
        np.empty(width, np.float32),
    )
    side = 4 * TILE
    for y in range(first, last):
        for c in range(3):
            _clear(out[c, y])
        for kind in range(2 * half):
            k = half * (1 - kind // half) + half - 1 - kind % half  # the first of each side last: it takes what is left
            if k % half == half - 1:
                _clear(left_over)
            _enlarge(shares[k], y, 4, 0, width // 4, wide, row)
            if k % half == 0:
                for x in range(width):
                    row[x] += left_over[x]
            tile = 0
            while tile < width // side:
                there, begin = present[k % half, y // side, tile], tile * side
                while tile < width // side and present[k % half, y // side, tile] == there:
                    tile += 1
                part, rest = row[begin : tile * side], left_over[begin : tile * side]
                if there:
                    for c in range(3):
                        target, source = out[c, y, begin : tile * side], pictures[k, c, y, begin : tile * side]
                        for x in range(tile * side - begin):
                            target[x] += part[x] * f32(source[x])
                else:
                    for x in range(tile * side - begin):
                        rest[x] += part[x]
        for c in range(3):
            for x in range(width):
                out[c, y, x] = (out[c, y, x] - f32(BELOW)) * f32(1.0 / STEPS)


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


def spline_coefficients(image: Tensor) -> Tensor:
    """`midnet.spline_coefficients` of colours and brightness: (B, 3, H, W) to (B, 4, H + 4, W + 4), channels last."""
    count, _, height, width = image.shape
    out = np.empty((count, height + 4, width + 4, 4), np.float32)
    rows = ROOMS.take("rows", (height, width + 4, 4), np.float32)
    flat = rows.reshape(height, -1)
    for picture, made in zip(np.ascontiguousarray(image.numpy(), np.float32), out, strict=True):
        at_once(in_bands(partial(_filter_rows, image=picture, out=rows), height, 4 * BAND))
        at_once(in_bands(partial(_filter_columns, rows=flat, out=made.reshape(height + 4, -1)), flat.shape[1], 256))
    return torch.from_numpy(out).permute(0, 3, 1, 2)


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


class Side(NamedTuple):
    """One of the two pictures."""

    image: Array  # (3, H, W)
    bright: Array  # (H, W)
    spline: Array  # (H + 4, W + 4, 4), flat


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


@dataclass(frozen=True, slots=True)
class Drawn:
    """Two pictures under K guesses, until this thread draws the next ones.

    What a guess has in tiles where it is not present is not to be read.
    """

    pictures: Levels  # (2K, 3, H, W): a under each guess, then b
    present: Mask  # (K, h / TILE, w / TILE)
    evidence: Array  # (K, EVIDENCE, h, w), see `midnet.Midnet.candidates`


def side_of(image: Tensor, bright: Tensor, spline: Tensor) -> Side:
    """Of colours (3, H, W), brightness (1, H, W) and `spline_coefficients` (4, H + 4, W + 4)."""
    flat = spline.permute(1, 2, 0).contiguous().numpy().reshape(-1)
    return Side(image.contiguous().numpy(), bright[0].contiguous().numpy(), flat)


def drawn(
    a: Side, b: Side, guesses: Tensor, present: Tensor, hidden: tuple[Tensor, Tensor], rest: int, t: float, gain: float
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
    pictures = ROOMS.take("pictures", (2, kinds, 3, height, width), np.uint16)
    bright = ROOMS.take("bright", (2, kinds, height, width), np.float32)
    mean = ROOMS.take("mean", (height, width), np.float32)
    evidence = ROOMS.take("evidence", (kinds, EVIDENCE, rows, columns), np.float32)
    evidence[:, :4] = guesses.numpy()
    # a guess's runs go to one thread, for they overlap by a place; the first guess's, which do not, to all
    bands = [np.array([[y, min(y + BAND, rows), 0, columns]]) for y in range(0, rows, BAND)]
    runs = [bands if k == 0 else [runs_of(there[k])] for k in range(kinds)]

    tasks = [(part, k) for k in range(kinds) for part in runs[k]]

    def polish(part: Runs, k: int) -> None:
        _polish(part, there[k], a.bright, b.bright, evidence[k, :4], f32(gain), steps[k], evidence[k])

    def draw(part: Runs, k: int, number: int) -> None:
        side, share = (a, b)[number], f32(1.0 - t if number else -t)  # both go their part, so that t stays t
        out, tones, own = pictures[number, k], evidence[k, 6 + 3 * number : 9 + 3 * number], bright[number, k]
        if k == rest:
            own[:] = side.bright
            _copy(part, side.image, out, tones)
        else:
            _draw(part, side.spline, evidence[k, 2 * number : 2 * number + 2], steps[k], share, out, own, tones)

    def follow(k: int, number: int) -> None:
        _follow(runs_of(~there[k]), bright[number, 0], bright[number, k])

    def compare(part: Runs, k: int) -> None:
        _compare(part, bright[0, k], bright[1, k], mean, evidence[k])

    at_once([partial(polish, *task) for task in tasks if task[1] != rest])
    if rest >= 0:
        evidence[rest, 4:6] = 0.0
    at_once([partial(draw, *task, number) for task in tasks for number in (0, 1)])
    at_once([partial(follow, k, number) for k in range(1, kinds) if k != rest for number in (0, 1)])
    at_once(in_bands(partial(_mean, bright=bright, mean=mean), height, 4 * BAND))
    at_once([partial(compare, *task) for task in tasks])
    ab, ba = (x.contiguous().numpy() for x in hidden)
    at_once([partial(_hidden, 0, rows, ab, ba, evidence[k]) for k in range(kinds)])
    return Drawn(pictures.reshape(2 * kinds, 3, height, width), there, evidence)


def completed(found: Drawn) -> tuple[Array, Array]:
    """Pictures (2K, 3, H, W) in 0..1 and evidence, those of the first guess where another is not present."""
    kinds = len(found.present)
    blocks = found.present.repeat(TILE, 1).repeat(TILE, 2)[:, None]
    pictures = (found.pictures.reshape(2, kinds, 3, *found.pictures.shape[2:]).astype(np.float32) - BELOW) / STEPS
    pictures = np.where(blocks.repeat(4, 2).repeat(4, 3), pictures, pictures[:, :1])
    return pictures.reshape(found.pictures.shape), np.where(blocks, found.evidence, found.evidence[:1])


def mixed(found: Drawn, shares: Tensor) -> Tensor:
    """(3, H, W) float32: of every picture the share that goes into every block (2K, h, w), sum 1."""
    _, colours, height, width = found.pictures.shape
    out = np.empty((colours, height, width), np.float32)
    work = partial(_mix, pictures=found.pictures, present=found.present, shares=shares.numpy(), out=out)
    at_once(in_bands(work, height, 4 * BAND))
    return torch.from_numpy(out)


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
