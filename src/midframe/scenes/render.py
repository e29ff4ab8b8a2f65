"""Draw a scene with numpy and OpenCV: images, exact flows, occlusions and masks, at five instants.

The convention of flow is that of `midframe.ops`: `flow_ab[y, x]` is where pixel (x, y) of a has gone in b. A pixel's
flow is that of the front-most layer that covers more than half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from midframe.scenes.script import Array, Bytes, Layer, Light, Matrix, Scene, translation

Bools = NDArray[np.bool_]

STEP = 4  # pixels between the nodes on which a deformation is solved; cubic between them: off by less than 0.01 px
ROUNDS = 8  # of the fixed-point iteration that inverts a deformation; its slope is below 0.3, so 0.01 % is left
OUTSIDE = 255  # label outside the image

FLOW_PAIRS = (("a", "b"), ("b", "a"), ("t", "a"), ("t", "b"), ("a", "before"), ("b", "after"))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered scene. Images (H, W, 3) uint8 RGB, flows (H, W, 2) float32 pixels (dx, dy), masks (H, W) bool.

    `hidden_xy` is true where a pixel of x is not seen in y: behind something, or out of the image.
    """

    a: Bytes
    b: Bytes
    target: Bytes  # the truth at t: motion blur and light as in the others, free of noise and compression
    t: float
    flow_ab: Array
    flow_ba: Array
    flow_ta: Array
    flow_tb: Array
    hidden_ab: Bools
    hidden_ba: Bools
    hidden_ta: Bools
    hidden_tb: Bools
    overlay: Bools  # at t: drawn upon the image
    static: Bools  # at t: the same place in both a and b, seen in both
    repeated: Bools  # at t: a texture that repeats itself
    period: float  # pixels, of the shortest repetition along the motion; 0 if there is none
    before: Bytes | None = None
    after: Bytes | None = None
    flow_a_before: Array | None = None
    flow_b_after: Array | None = None
    hidden_a_before: Bools | None = None
    hidden_b_after: Bools | None = None
    tags: tuple[str, ...] = ()


def render(scene: Scene, neighbours: bool = True) -> Rendered:
    """Draw a scene.

    Args:
        scene: to render.
        neighbours: also the frames before a and after b, and the flows to them.
    """
    times = {"a": 0.0, "t": scene.t, "b": 1.0}
    if neighbours:
        times |= {"before": -1.0, "after": 2.0}
    clean: dict[str, Bytes] = {}
    labels: dict[str, Bytes] = {}
    layers: dict[str, list[Sheet]] = {}
    kept: dict[int, Sheet] = {}
    overlay = np.zeros((scene.height, scene.width), bool)
    for name, s in times.items():
        sheets = layers[name] = spread_out(scene, scene.clock(s), kept)
        clean[name] = exposed(scene, s, sheets)
        labels[name] = visible(scene, sheets)
        if name == "t":
            overlay = overlaid(scene, sheets)
    flows: dict[tuple[str, str], Array] = {}
    hidden: dict[tuple[str, str], Bools] = {}
    for one, two in FLOW_PAIRS:
        if one in times and two in times:
            start, end = scene.clock(times[one]), scene.clock(times[two])
            flow = flow_between(scene, labels[one], layers[one], start, end)
            flows[one, two] = flow
            hidden[one, two] = lost(labels[one], labels[two], flow)
    images = {
        name: degraded(scene, image, name, scene.clock(times[name])) for name, image in clean.items() if name != "t"
    }
    tags = scene.tags
    still = at_rest(flows["t", "a"]) & at_rest(flows["t", "b"])
    repeats = np.array([layer.period is not None for layer in scene.layers])
    return Rendered(
        a=images["a"],
        b=images["b"],
        target=halved_chroma(clean["t"]) if scene.degradation.halved_chroma else clean["t"],
        t=scene.t,
        flow_ab=flows["a", "b"],
        flow_ba=flows["b", "a"],
        flow_ta=flows["t", "a"],
        flow_tb=flows["t", "b"],
        hidden_ab=hidden["a", "b"],
        hidden_ba=hidden["b", "a"],
        hidden_ta=hidden["t", "a"],
        hidden_tb=hidden["t", "b"],
        overlay=overlay,
        static=still & ~hidden["t", "a"] & ~hidden["t", "b"],
        repeated=repeats[labels["t"]],
        period=shortest_period(scene),
        before=images.get("before"),
        after=images.get("after"),
        flow_a_before=flows.get(("a", "before")),
        flow_b_after=flows.get(("b", "after")),
        hidden_a_before=hidden.get(("a", "before")),
        hidden_b_after=hidden.get(("b", "after")),
        tags=tags,
    )


# Images


@dataclass(frozen=True, slots=True)
class Sheet:
    """A layer as it lies in the image at one moment."""

    number: int
    layer: Layer
    strength: float
    patch: Bytes
    rows: slice
    columns: slice
    unbent: tuple[Array, Array] | None = None  # texels (x, y) seen at the nodes of these rows and columns, if deformed


def spread_out(scene: Scene, s: float, kept: dict[int, Sheet] | None = None, quick: bool = False) -> list[Sheet]:
    """List all layers that are to be seen at the moment s, from the back to the front.

    Args:
        scene: to render.
        s: a moment of the scene.
        kept: layers that rest, from earlier calls for the same scene; new ones are added.
        quick: interpolate linearly, for the many images that motion blur averages.
    """
    out = []
    for number, layer in enumerate(scene.layers):
        if kept is not None and number in kept:
            strength = layer.visibility(s)
            sheet = replace(kept[number], strength=strength) if strength > 0 else None
        else:
            sheet = draw(number, layer, s, scene.height, scene.width, quick)
            if kept is not None and sheet is not None and layer.still:
                kept[number] = sheet
        if sheet is not None:
            out.append(sheet)
    return out


def exposed(scene: Scene, s: float, sheets: list[Sheet]) -> Bytes:
    """Render the image at s, averaged over the time the shutter is open, before noise and compression.

    Args:
        scene: to render.
        s: frame time; the shutter opens and closes evenly about it.
        sheets: the layers at s, for when the shutter is open for no time.
    """
    if scene.exposure <= 0:
        return instant(scene, scene.clock(s), sheets)
    count = blur_samples(scene)
    offsets = ((np.arange(count) + 0.5) / count - 0.5) * scene.exposure
    total = np.zeros((scene.height, scene.width, 3), np.float32)
    kept: dict[int, Sheet] = {}
    for offset in offsets:
        moment = scene.clock(s) + float(offset)
        cv2.accumulate(instant(scene, moment, spread_out(scene, moment, kept, quick=True)), total)
    return np.asarray(cv2.convertScaleAbs(total, alpha=1.0 / count), np.uint8)


def blur_samples(scene: Scene) -> int:
    """Return the number of instants averaged in a blurred image; 0 without motion blur."""
    if scene.exposure <= 0:
        return 0
    # half a pixel of the fastest thing between samples would be ideal; 2 px is where the eye begins to see them
    return int(np.clip(np.ceil(fastest(scene) * scene.exposure / 2), 1, 10))


def instant(scene: Scene, s: float, sheets: list[Sheet]) -> Bytes:
    """Render the image at the scene's moment s, the shutter open for no time."""
    canvas = np.zeros((scene.height, scene.width, 3), np.float32)
    lit = False
    for sheet in sheets:
        if sheet.layer.overlay and not lit:
            shine(canvas, scene.light, s)
            lit = True
        if sheet.layer.endless and sheet.strength >= 1:
            canvas = sheet.patch.astype(np.float32)
            continue
        under = canvas[sheet.rows, sheet.columns]
        colour = sheet.patch[..., :3].astype(np.float32)
        colour -= under
        if sheet.layer.endless:
            colour *= np.float32(sheet.strength)
        else:
            colour *= (sheet.patch[..., 3].astype(np.float32) * np.float32(sheet.strength / 255))[..., None]
        under += colour
    if not lit:
        shine(canvas, scene.light, s)
    np.clip(canvas, 0, 255, out=canvas)
    return np.rint(canvas, out=canvas).astype(np.uint8)


def draw(number: int, layer: Layer, s: float, height: int, width: int, quick: bool = False) -> Sheet | None:
    """Draw a layer as it lies in the image at s; None if it is not to be seen."""
    strength = layer.visibility(s)
    if strength <= 0:
        return None
    matrix = layer.matrix(s, height, width)
    top, left, bottom, right = 0, 0, height, width
    if not layer.endless:
        found = extent(layer, matrix)
        if found is not None:
            left, top = max(int(np.floor(found[0])), 0), max(int(np.floor(found[1])), 0)
            right, bottom = min(int(np.ceil(found[2])) + 1, width), min(int(np.ceil(found[3])) + 1, height)
        if right - left < 1 or bottom - top < 1:
            return None
    border = cv2.BORDER_REFLECT_101 if layer.endless else cv2.BORDER_CONSTANT
    here = translation(-left, -top) @ matrix
    size = (right - left, bottom - top)
    unbent, way = None, cv2.INTER_LINEAR if quick else cv2.INTER_CUBIC
    if layer.deformation is not None:
        unbent = unrippled(layer, matrix, s, (top, left, bottom, right))
        x, y = (between_nodes(v, bottom - top, right - left) for v in unbent)
        patch = cv2.remap(layer.patch, x, y, way, borderMode=border)
    elif here[2, 0] == 0 and here[2, 1] == 0:
        patch = cv2.warpAffine(layer.patch, here[:2], size, flags=way, borderMode=border)
    else:
        patch = cv2.warpPerspective(layer.patch, here, size, flags=way, borderMode=border)
    return Sheet(number, layer, strength, np.asarray(patch, np.uint8), slice(top, bottom), slice(left, right), unbent)


def extent(layer: Layer, matrix: Matrix) -> tuple[float, float, float, float] | None:
    """Return left, top, right, bottom of a patch in the image; None where it crosses the horizon of its homography."""
    rows, columns = layer.patch.shape[:2]
    reach = 1.0 if layer.deformation is None else 1.0 + float(np.abs(layer.deformation.amplitude).sum())
    x = np.array([-reach, columns - 1 + reach])
    y = np.array([-reach, rows - 1 + reach])
    corners = matrix @ np.array([[x[0], x[1], x[0], x[1]], [y[0], y[0], y[1], y[1]], [1.0, 1.0, 1.0, 1.0]])
    if corners[2].min() <= 1e-6:
        return None
    across, down = corners[0] / corners[2], corners[1] / corners[2]
    return float(across.min()), float(down.min()), float(across.max()), float(down.max())


def unrippled(layer: Layer, matrix: Matrix, s: float, window: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """Find for each node of a window the texel q of a deformed patch that is seen there: q + d(q, s) = matrix^-1 p."""
    assert layer.deformation is not None
    x, y = nodes(window)
    u, v = (np.asarray(w, np.float32) for w in project(np.linalg.inv(matrix), x, y))
    q, r = u, v
    for _ in range(ROUNDS):
        dx, dy = layer.deformation(q, r, s)
        q, r = u - dx, v - dy
    return q, r


def nodes(window: tuple[int, int, int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the nodes of a window (top, left, bottom, right), two beyond each side: a row of x and a column of y."""
    top, left, bottom, right = window
    y = top + STEP * (np.arange(-(-(bottom - top) // STEP) + 4) - 2) + (STEP - 1) / 2
    x = left + STEP * (np.arange(-(-(right - left) // STEP) + 4) - 2) + (STEP - 1) / 2
    return x[None], y[:, None]


def between_nodes(values: NDArray[np.floating], height: int, width: int) -> Array:
    """Interpolate values at the nodes to every pixel of the window by Catmull-Rom, which keeps straight lines."""
    return np.asarray(spread(height) @ values @ spread(width).T, np.float32)


_SPREAD: dict[int, Array] = {}


def spread(length: int) -> Array:
    """Return weights (length, nodes) of Catmull-Rom interpolation from the nodes to whole pixels."""
    if length not in _SPREAD:
        at = (np.arange(length) - (STEP - 1) / 2) / STEP + 2
        first = np.floor(at).astype(int) - 1
        f = at - np.floor(at)
        weights = (
            -0.5 * f + f**2 - 0.5 * f**3,
            1 - 2.5 * f**2 + 1.5 * f**3,
            0.5 * f + 2 * f**2 - 1.5 * f**3,
            -0.5 * f**2 + 0.5 * f**3,
        )
        out = np.zeros((length, -(-length // STEP) + 4), np.float32)
        for k, weight in enumerate(weights):
            out[np.arange(length), first + k] += weight
        _SPREAD[length] = out
    return _SPREAD[length]


def project(matrix: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Project points through a homography; x and y may be a row and a column, which are broadcast."""
    u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        return u / matrix[2, 2], v / matrix[2, 2]
    w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return u / w, v / w


# Light and degradation


def shine(canvas: Array, light: Light, s: float) -> None:
    """Apply shadows, gain and gamma at s, in place; the canvas is 0 to 255."""
    height, width = canvas.shape[:2]
    for shadow in light.shadows:
        x = (np.arange(width, dtype=np.float32) - (shadow.centre[0] + shadow.shift[0] * s)) / shadow.radii[0]
        y = (np.arange(height, dtype=np.float32) - (shadow.centre[1] + shadow.shift[1] * s)) / shadow.radii[1]
        spot = np.exp(-(y**2))[:, None] * np.exp(-(x**2))
        canvas *= (1 - shadow.strength * spot)[..., None]
    if light.gain:
        canvas *= np.float32(np.exp(light.gain * s))
    if light.gamma:
        np.clip(canvas, 0, 255, out=canvas)
        canvas[:] = cv2.pow(canvas / 255, float(np.exp(light.gamma * s))) * 255


def degraded(scene: Scene, image: Bytes, name: str, moment: float) -> Bytes:
    """Degrade an image as a camera and a file would: noise, halved chroma, JPEG. Duplicates take the same noise."""
    degradation = scene.degradation
    if degradation.noise or degradation.shot:
        # one noise for one moment: a repeated frame repeats its noise
        rng = np.random.default_rng([scene.noise_seed, round((moment + 4) * 64)])
        noise = rng.standard_normal(image.shape, np.float32)
        if degradation.coarse:
            noise = cv2.GaussianBlur(noise, (0, 0), degradation.coarse) * (1 + 2.5 * degradation.coarse)
        level = np.sqrt(degradation.noise**2 + degradation.shot**2 * (np.arange(256) / 255)).astype(np.float32)
        noise *= level[image]
        image = np.asarray(cv2.add(noise, image, dtype=cv2.CV_8U), np.uint8)
    if degradation.halved_chroma:
        image = halved_chroma(image)
    if degradation.jpeg is not None:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, degradation.jpeg])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB), np.uint8)
    return image


def halved_chroma(image: Bytes) -> Bytes:
    """Average chroma over 2 x 2 and interpolate it again, as 4:2:0 does."""
    height, width = image.shape[:2]
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    small = cv2.resize(ycc[..., 1:], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    ycc[..., 1:] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB), np.uint8)


# Geometry


def visible(scene: Scene, sheets: list[Sheet]) -> Bytes:
    """Return (H, W) the number of the front-most layer that covers more than half of a pixel."""
    out = np.zeros((scene.height, scene.width), np.uint8)
    for sheet in sheets:
        if sheet.strength <= 0.5:
            continue
        if sheet.layer.endless:
            out[:] = sheet.number
        else:
            out[sheet.rows, sheet.columns][sheet.patch[..., 3] > 127.5 / sheet.strength] = sheet.number
    return out


def overlaid(scene: Scene, sheets: list[Sheet]) -> Bools:
    """Find (H, W) where an overlay, half transparent ones too, lies upon the image."""
    out = np.zeros((scene.height, scene.width), bool)
    for sheet in sheets:
        if sheet.layer.overlay:
            out[sheet.rows, sheet.columns] |= sheet.patch[..., 3] > 25
    return out


def flow_between(scene: Scene, label: Bytes, sheets: list[Sheet], start: float, end: float) -> Array:
    """Compute the flow from `start` to `end` of each pixel, by its layer in `label`.

    Args:
        scene: that was drawn.
        label: (H, W) front-most layers at `start`, of `visible`.
        sheets: the layers as they lie at `start`.
        start: a moment of the scene.
        end: another one.
    """
    height, width = scene.height, scene.width
    out = np.zeros((height, width, 2), np.float32)
    if start == end:
        return out
    for sheet in sheets:
        layer = sheet.layer
        if layer.still:
            continue
        window = (sheet.rows.start, sheet.columns.start, sheet.rows.stop, sheet.columns.stop)
        one, two = layer.matrix(start, height, width), layer.matrix(end, height, width)
        mine = label[sheet.rows, sheet.columns] == sheet.number
        if sheet.unbent is None or layer.deformation is None:
            x, y = np.arange(window[1], window[3])[None], np.arange(window[0], window[2])[:, None]
            u, v = project(two @ np.linalg.inv(one), x, y)
            dx, dy = u - x, v - y
        else:
            px, py = nodes(window)
            q, r = sheet.unbent
            sx, sy = layer.deformation(q, r, end)
            u, v = project(two, q + sx, r + sy)
            size = mine.shape
            dx, dy = between_nodes(u - px, *size), between_nodes(v - py, *size)
        part = out[sheet.rows, sheet.columns]
        np.copyto(part[..., 0], dx, where=mine, casting="same_kind")
        np.copyto(part[..., 1], dy, where=mine, casting="same_kind")
    return out


def at_rest(flow: Array) -> Bools:
    """Find where a flow is zero, to a fiftieth of a pixel."""
    return (np.abs(flow[..., 0]) < 0.02) & (np.abs(flow[..., 1]) < 0.02)


def lost(label: Bytes, other: Bytes, flow: Array) -> Bools:
    """Find where a pixel of one image is not seen in another: the layer at its place there is not its own."""
    height, width = label.shape
    x = flow[..., 0] + np.arange(width, dtype=np.float32)[None]
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    seen = cv2.remap(other, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=OUTSIDE)
    return np.asarray(seen != label)


def fastest(scene: Scene) -> float:
    """Bound the pixels per frame of the fastest corner or middle of any layer about s = 0 to 1; a bound, not a mean."""
    height, width = scene.height, scene.width
    x, y = np.meshgrid(np.linspace(0, width - 1, 3), np.linspace(0, height - 1, 3))
    best = 0.0
    for layer in scene.layers:
        if layer.still:
            continue
        for start, end in ((0.0, 0.5), (0.5, 1.0)):
            step = layer.matrix(end, height, width) @ np.linalg.inv(layer.matrix(start, height, width))
            u, v = project(step, x, y)
            best = max(best, 2 * float(np.hypot(u - x, v - y).max()))
    return best


def shortest_period(scene: Scene) -> float:
    """Return the period of the first repeated layer, in pixels; 0 if there is none."""
    for layer in scene.layers:
        if layer.period is not None:
            linear = layer.place[:2, :2]
            steps = [linear @ np.array([layer.period[0], 0.0]), linear @ np.array([0.0, layer.period[1]])]
            return float(min(length for step in steps if (length := np.hypot(*step)) > 0))
    return 0.0


def stack(scenes: Sequence[Rendered]) -> dict[str, NDArray[np.generic]]:
    """Stack rendered scenes of one size: images (B, 3, H, W) uint8, flows (B, 2, H, W) float32, masks (B, H, W).

    Neighbours and their flows are there if all of them have them.
    """
    out: dict[str, NDArray[np.generic]] = {"t": np.array([scene.t for scene in scenes], np.float32)}
    out["period"] = np.array([scene.period for scene in scenes], np.float32)
    for name in Rendered.__slots__:
        values = [getattr(scene, name) for scene in scenes]
        if all(isinstance(value, np.ndarray) for value in values):
            whole = np.stack(values)
            out[name] = np.ascontiguousarray(whole.transpose(0, 3, 1, 2)) if whole.ndim == 4 else whole
    return out
