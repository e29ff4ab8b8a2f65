"""A contact sheet of rendered scenes, to look at: one scene a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from midframe.errors import MediaError
from midframe.scenes.render import Rendered
from midframe.scenes.script import Array, Bytes

COLUMNS = ("before", "a", "t", "b", "after", "flow a-b", "flow t-b", "hidden ab/ba", "masks", "a on b")


def flow_colours(flow: Array, full: float | None = None) -> Bytes:
    """Colour a flow (H, W, 2): hue is direction, saturation length, full at `full` pixels or the 99th percentile."""
    length = np.hypot(flow[..., 0], flow[..., 1])
    full = full or max(float(np.percentile(length, 99)), 0.5)
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    hsv = np.empty((*length.shape, 3), np.uint8)
    hsv[..., 0] = ((angle / (2 * np.pi)) % 1.0 * 180).astype(np.uint8)
    hsv[..., 1] = np.clip(length / full * 255, 0, 255).astype(np.uint8)
    hsv[..., 2] = 255
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def tiles(scene: Rendered) -> list[Bytes]:
    """Return the images of one row, in the order of `COLUMNS`."""
    blank = np.zeros_like(scene.a)
    hidden, masks = blank.copy(), (scene.target // 3).astype(np.uint8)
    hidden[..., 0], hidden[..., 1] = scene.hidden_ab * 255, scene.hidden_ba * 255
    masks[scene.overlay, 0] = 255
    masks[scene.static, 1] = 200
    masks[scene.repeated, 2] = 255
    height, width = scene.a.shape[:2]
    x = scene.flow_ab[..., 0] + np.arange(width, dtype=np.float32)[None]
    y = scene.flow_ab[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    warped = cv2.remap(scene.b, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    error = np.abs(warped.astype(np.int16) - scene.a) * (~scene.hidden_ab)[..., None] * 4
    before = blank if scene.before is None else scene.before
    after = blank if scene.after is None else scene.after
    flows = (flow_colours(scene.flow_ab), flow_colours(scene.flow_tb))
    last = np.clip(error, 0, 255).astype(np.uint8)
    return [before, scene.a, scene.target, scene.b, after, *flows, hidden, masks, last]


def contact_sheet(path: Path, scenes: Sequence[Rendered]) -> None:
    """Write a PNG with one scene a row: five images, flows, occlusions (red: a in b, green: b in a), masks over
    a dim t (red: overlay, green: static, blue: repeated), and four times the error of b warped to a where it is seen.

    Raises:
        MediaError: the file cannot be written.
    """
    rows = []
    for scene in scenes:
        row = np.hstack([cv2.copyMakeBorder(tile, 0, 2, 0, 2, cv2.BORDER_CONSTANT) for tile in tiles(scene)])
        fastest = np.percentile(np.hypot(scene.flow_ab[..., 0], scene.flow_ab[..., 1]), 95)
        note = f"t {scene.t:.2f}  p95 {fastest:.1f} px  " + " ".join(scene.tags)
        bar = np.zeros((14, row.shape[1], 3), np.uint8)
        cv2.putText(bar, note, (4, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
        rows += [bar, row]
    head = np.zeros((16, rows[0].shape[1], 3), np.uint8)
    for i, name in enumerate(COLUMNS):
        where = (i * (scenes[0].a.shape[1] + 2) + 4, 12)
        cv2.putText(head, name, where, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 0), 1, cv2.LINE_AA)
    if not cv2.imwrite(str(path), cv2.cvtColor(np.vstack([head, *rows]), cv2.COLOR_RGB2BGR)):
        raise MediaError(f"contact sheet: {path} cannot be written; is its folder there?")
