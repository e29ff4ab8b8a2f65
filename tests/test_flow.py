"""Bidirectional flow: large displacements, small objects, extrapolation; parts against slow twins."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from midframe import kernels
from midframe.models.flow import bidirectional, extrapolation, large_displacement, patches, small_objects
from midframe.models.flow.bidirectional import estimate_bidirectional
from midframe.models.flow.extrapolation import active_area, background_motion, out_of_frame_distance
from midframe.models.flow.frame import FlowFrame
from midframe.models.flow.patches import PATCH, PATCH_STRIDE, SUPPRESSION_RADIUS
from midframe.models.flow.sampling import pixel_grid, resize_flow
from midframe.models.flow.types import ActiveArea, DisConfig, FlowPair, Gray, largest_downscale, select_by_area
from midframe.models.midnet import occlusion

CONFIG = DisConfig(1, 4, 12, 5)


def both(pair: FlowPair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return pair.forward, pair.backward


def estimated(one: Gray, two: Gray, grid: int, small_objects: bool = False) -> FlowPair:
    frames = FlowFrame.of(one), FlowFrame.of(two)
    return estimate_bidirectional(*frames, CONFIG, grid, small_objects, kernels.workspace(1))


def texture(seed: int, height: int, width: int, cells: int = 6) -> Gray:
    """Smooth blots of all levels, about `cells` pixels wide."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height // cells + 2, width // cells + 2)).astype(np.float32)
    wide = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 50 * wide, 0, 255).astype(np.uint8)


def flying(dx: int, dy: int) -> tuple[Gray, Gray, NDArray[np.bool_]]:
    """A textured square of 64 px that flies over a resting texture; where it is in the first frame."""
    ground, square = texture(1, 192, 320), texture(2, 64, 64, 5)
    images = [ground.copy(), ground.copy()]
    top, left = 20, 30
    for image, (y, x) in zip(images, ((top, left), (top + dy, left + dx)), strict=True):
        image[y : y + 64, x : x + 64] = square
    inside = np.zeros(ground.shape, bool)
    inside[top + 16 : top + 48, left + 16 : left + 48] = True
    return images[0], images[1], inside


@pytest.mark.parametrize(("dx", "dy"), [(150, 60), (200, 0), (120, 100)])
def test_what_flies_farther_than_dis_sees_is_found(dx: int, dy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, inside = flying(dx, dy)
    flow, back = both(estimated(one, two, 4))
    miss = np.linalg.norm(flow - (dx, dy), axis=2)
    assert np.median(miss[inside]) < 0.5
    there = np.roll(inside, (dy, dx), (0, 1))
    assert np.median(np.linalg.norm(back - (-dx, -dy), axis=2)[there]) < 0.5
    assert np.linalg.norm(flow[150:, 20:100], axis=2).max() < 1  # the ground, away from it, rests
    monkeypatch.setattr(bidirectional, "MAX_RESTARTS", 0)
    alone = estimated(one, two, 4).forward
    assert np.median(np.linalg.norm(alone - (dx, dy), axis=2)[inside]) > 20, "DIS finds it by itself: no test"


def test_a_pan_by_a_third_of_the_width() -> None:
    wide = texture(3, 160, 400, 8)
    one, two = np.ascontiguousarray(wide[:, :280]), np.ascontiguousarray(wide[:, 96:376])
    flow = estimated(one, two, 4).forward
    seen = flow[10:-10, 106:270]
    assert np.median(np.linalg.norm(seen - (-96, 0), axis=2)) < 0.5


def test_faint_grain_is_sought_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = (200 + 0.12 * (texture(9, 160, 400, 5).astype(np.float32) - 128)).astype(np.uint8)
    one, two = np.ascontiguousarray(wide[:, :280]), np.ascontiguousarray(wide[:, 90:370])
    flow = estimated(one, two, 4).forward
    assert np.median(np.linalg.norm(flow[10:-10, 100:270] - (-90, 0), axis=2)) < 0.5
    monkeypatch.setattr(large_displacement, "ABUNDANT", -1.0)
    alone = estimated(one, two, 4).forward
    assert np.median(np.linalg.norm(alone[10:-10, 100:270] - (-90, 0), axis=2)) > 20, "it is not faint: no test"


def test_where_all_is_found_dis_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = texture(4, 200, 330)
    one, two = np.ascontiguousarray(wide[8:, :320]), np.ascontiguousarray(wide[:192, 6:326])
    found = estimated(one, two, 4)
    monkeypatch.setattr(bidirectional, "MAX_RESTARTS", 0)
    for own, alone in zip(both(found), both(estimated(one, two, 4)), strict=True):
        np.testing.assert_array_equal(own, alone)


def test_what_repeats_does_not_jump() -> None:
    """Every patch of a repeated texture fits elsewhere as well: none is plainly elsewhere."""
    tile = texture(5, 32, 32, 5)
    wide = np.tile(tile, (7, 12))
    one, two = np.ascontiguousarray(wide[:192, :320]), np.ascontiguousarray(wide[:192, 5:325])
    moves = np.zeros((*patches.matching_frame(one).shape, 2), np.float32)
    other = patches.matching_frame(np.roll(one, 16, 1))
    assert large_displacement.patch_vectors(patches.matching_frame(one), other, moves) is None
    flow = estimated(one, two, 4).forward
    assert np.median(np.abs(flow[20:-20, 20:-20] - (-5, 0))) < 0.5


def test_best_matches_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "TEXTURE_NOISE", 0.0)
    frame = texture(6, 70, 90).astype(np.float32)
    cut = np.stack([frame[y : y + PATCH, x : x + PATCH] for y, x in ((0, 0), (31, 17), (58, 78))])
    cut[1] += np.random.default_rng(7).normal(scale=20.0, size=cut[1].shape)
    templates = (cut - cut.mean((1, 2), keepdims=True)).reshape(3, -1)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    found = patches.best_matches(templates.astype(np.float32), frame)
    near = SUPPRESSION_RADIUS
    for patch, score, margin, position in zip(cut, *found, strict=True):
        plain = cv2.matchTemplate(frame, patch.astype(np.float32), cv2.TM_CCOEFF_NORMED)
        y, x = np.unravel_index(plain.argmax(), plain.shape)
        assert tuple(position) == (x, y)
        assert score == pytest.approx(plain.max(), abs=1e-3)
        plain[max(y - near, 0) : y + near + 1, max(x - near, 0) : x + near + 1] = -1
        assert margin == pytest.approx(score - plain.max(), abs=1e-3)


def test_half_precision_around_it_changes_nothing() -> None:
    one, two, _ = flying(150, 60)
    with torch.autocast("cpu", torch.bfloat16):
        half = estimated(one, two, 4)
    for own, plain in zip(both(half), both(estimated(one, two, 4)), strict=True):
        np.testing.assert_array_equal(own, plain)


def test_moved_patches_are_cut_where_their_middles_go() -> None:
    image = texture(8, 64, 80).astype(np.float32)
    flow = np.zeros((64, 80, 2), np.float32)
    flow[..., 0], flow[..., 1] = 7, -3
    moves = patches.patch_centres(flow)
    cut = large_displacement.displaced_patches(image, moves)
    assert cut.shape[:2] == moves.shape[:2] == patches.patches(image)[::PATCH_STRIDE, ::PATCH_STRIDE].shape[:2]
    side = PATCH
    for row, column in ((2, 3), (5, 8)):
        y, x = PATCH_STRIDE * row - 3, PATCH_STRIDE * column + 7
        np.testing.assert_array_equal(cut[row, column].reshape(side, side), image[y : y + side, x : x + side])


def test_patches_spread_back_to_where_they_are() -> None:
    """A vector field that is linear in the place is met exactly, whatever the sizes."""
    height, width = 180, 320
    rows, columns = 90, 160
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    field = np.dstack([0.1 * x, 0.2 * y])
    spread = large_displacement.dense_flow(patches.patch_centres(field), (height, width), (rows, columns))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    truth = 2 * np.dstack([0.1 * ((x + 0.5) / 2 - 0.5), 0.2 * ((y + 0.5) / 2 - 0.5)])
    # a patch's middle lies between two pixels: half a pixel of the small frame
    assert np.abs(spread - truth)[20:-20, 20:-20].max() < 0.25


@pytest.mark.parametrize("shape", [(16, 16), (17, 200), (24, 24), (16, 1000)])
def test_small_and_narrow_frames(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    one, two = (rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2))
    for flow in both(estimated(one, two, 4)):
        assert flow.shape == (*shape, 2)
        assert flow.dtype == np.float32
        assert np.isfinite(flow).all()


def test_nothing_to_see_stays_where_it_is() -> None:
    flat = np.full((96, 128), 90, np.uint8)
    for flow in both(estimated(flat, flat.copy(), 4)):
        np.testing.assert_array_equal(flow, np.zeros((96, 128, 2), np.float32))


def test_sizes() -> None:
    flow = np.full((10, 20, 2), (2.0, 4.0), np.float32)
    np.testing.assert_allclose(resize_flow(flow, 5, 40), np.full((5, 40, 2), (4.0, 2.0)), rtol=1e-6)
    assert [select_by_area(n, "abc") for n in (330_000, 330_001, 700_000, 700_001)] == ["a", "b", "b", "c"]
    assert [largest_downscale(4, side, 500) for side in (15, 16, 31, 32, 63, 64, 500)] == [1, 1, 1, 2, 2, 4, 4]
    assert largest_downscale(1, 500, 500) == 1


def test_neighbours_that_agree_are_believed_sooner() -> None:
    """2x2 patches that go the same way are elsewhere; one alone, or without gain, is not."""
    place = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [5, 5], [9, 9], [7, 0]])
    moves = np.array([[20, 3], [20, 3], [21, 3], [20, 4], [20, 3], [-9, 0], [4, 4]], np.float32)
    best = np.array([0.65, 0.65, 0.65, 0.65, 0.65, 0.75, 0.95], np.float32)
    lead = np.array([0.03, 0.03, 0.03, 0.03, 0.03, 0.2, 0.2], np.float32)
    fit = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.85], np.float32)
    expected = [True, True, True, True, False, True, False]
    assert large_displacement.accepted_matches(best, lead, fit, moves, place).tolist() == expected
    moves[0] = -20, 3
    assert large_displacement.accepted_matches(best, lead, fit, moves, place).tolist()[:4] == [False] * 4
    assert not len(large_displacement.accepted_matches(best[:0], lead[:0], fit[:0], moves[:0], place[:0]))


def turning(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of a pan that zooms and turns."""
    return np.stack([7 + 0.04 * x - 0.02 * y, -3 + 0.02 * x + 0.04 * y], -1).astype(np.float32)


def test_affine_motion_is_continued_from_a_part_of_it_and_heeds_no_stranger() -> None:
    at = pixel_grid(60, 100)
    truth = turning(at[..., 0], at[..., 1])
    flow, known = truth.copy(), np.ones((60, 100), np.float32)
    flow[:, 70:] += 30
    known[:, 70:] = 0
    flow[20:34, 20:34] = 0  # one thing that does not move so
    found = background_motion(flow, known)
    assert np.abs(found - truth).max() < 0.2
    assert np.abs(found - truth).mean() < 0.02


def test_affine_motion_is_that_of_plain_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("IRLS_ITERATIONS", 1), ("PRIOR_WEIGHT", 0.0), ("TIKHONOV", 0.0)):
        monkeypatch.setattr(extrapolation, name, value)
    rng = np.random.default_rng(8)
    known = rng.uniform(size=(30, extrapolation.CELLS)).astype(np.float32)
    flow = cv2.GaussianBlur(rng.normal(size=(*known.shape, 2)), (0, 0), 2).astype(np.float32) * 20
    found = background_motion(flow, known)
    y, x = np.mgrid[: known.shape[0], : known.shape[1]]
    for row, column in ((0, 0), (15, 20), (29, 30)):
        near = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * extrapolation.GAUSSIAN_SIGMA**2))
        root = np.sqrt(near * known).reshape(-1, 1)
        sides = np.stack([np.ones_like(x), x - column, y - row], -1).reshape(-1, 3), flow.reshape(-1, 2)
        plain = np.linalg.lstsq(*(root * side for side in sides), rcond=None)[0][0]
        np.testing.assert_allclose(found[row, column], plain, atol=0.01)


@pytest.mark.parametrize("bars", [0, 24])
def test_what_leaves_the_view_goes_on(bars: int) -> None:
    wide = texture(6, 192, 420)
    one, two = (np.ascontiguousarray(wide[:, start : start + 300]) for start in (0, 60))
    for image in (one, two):
        image[:, :bars] = image[:, 300 - bars :] = 16
    found = estimated(one, two, 4)
    inside = slice(bars + 4, 296 - bars)
    for flow, truth in zip(both(found), (-60, 60), strict=True):
        miss = np.linalg.norm(flow - (truth, 0), axis=2)[:, inside]
        assert np.percentile(miss, 99) < 1
    if bars:
        assert found.active_area == ActiveArea((bars + 4) / 300, 0, (296 - bars) / 300, 1)
        assert not found.forward[:, : bars - 8].any()


def test_what_is_plainly_seen_to_move_otherwise_does() -> None:
    wide, thing = texture(6, 192, 420), texture(7, 80, 80, 5)
    one, two = (np.ascontiguousarray(wide[:, start : start + 300]) for start in (0, 30))
    for image, left in ((one, 120), (two, 128)):
        image[60:140, left : left + 80] = thing
    flow = estimated(one, two, 4).forward
    assert np.abs(flow[70:130, 130:190] - (8, 0)).max() < 1
    assert np.percentile(np.abs(flow[:40, 8:-8] - (-30, 0)).max(2), 95) < 1


def test_views() -> None:
    day, night = np.full((40, 60), 120, np.float32), np.zeros((40, 60), np.float32)
    assert active_area(day, day) == ActiveArea()
    wide = day.copy()
    wide[:5] = wide[-5:] = 10
    assert active_area(wide, wide) == ActiveArea(0, 6 / 40, 1, 34 / 40)
    assert active_area(wide, day) == ActiveArea()  # what only one has is no bar
    assert active_area(night, night) == ActiveArea()
    night[10:14, 10:14] = 200
    assert active_area(night, night) == ActiveArea()


def test_how_far_beyond_the_edge() -> None:
    view = ActiveArea(0.25, 0, 1, 1)
    found = out_of_frame_distance(pixel_grid(4, 8) + np.array([3, 0], np.float32), view)
    np.testing.assert_array_equal(found[1], [-1, -1, -1, -1, 0, 1, 2, 3])
    assert out_of_frame_distance(pixel_grid(4, 8), view)[1, 0] == 2


def test_both_measures_of_what_is_beyond_the_view_agree() -> None:
    """midnet's, of tensors, in pixels of the full size and 0 inside, is that of arrays."""
    rng = np.random.default_rng(3)
    flow = rng.normal(size=(12, 20, 2)).astype(np.float32) * 8
    for view in (ActiveArea(), ActiveArea(0.1, 0.2, 0.85, 1.0)):
        plain = 4 * out_of_frame_distance(pixel_grid(12, 20) + flow, view).clip(0)
        tensor = occlusion.out_of_frame_distance(torch.from_numpy(flow).permute(2, 0, 1)[None], torch.tensor([view]))
        np.testing.assert_allclose(tensor[0, 0], plain, atol=1e-4)


def waving() -> tuple[Gray, Gray, tuple[NDArray[np.bool_], ...]]:
    """A textured bar, narrower than a patch, that leaps by four times its width; where it is in either frame."""
    ground, bar = texture(1, 192, 320, 12), texture(2, 50, 16, 8)
    images, masks = [], []
    for top, left in ((60, 100), (80, 172)):
        image = ground.copy()
        image[top : top + 50, left : left + 16] = bar
        mask = np.zeros(ground.shape, bool)
        mask[top + 5 : top + 45, left + 3 : left + 13] = True
        images.append(image)
        masks.append(mask)
    return images[0], images[1], tuple(masks)


def test_a_small_thing_that_leaps_is_found_beside_what_was_found_before() -> None:
    one, two, (here, there) = waving()
    found = estimated(one, two, 1, small_objects=True)
    assert found.alternative is not None
    truths = (72, 20), (-72, -20)
    for flow, old, inside, true in zip(found.alternative, both(found), (here, there), truths, strict=True):
        miss, before = (np.linalg.norm(x - true, axis=2)[inside] for x in (flow, old))
        assert (miss < 3).mean() > 0.4  # half of it
        assert before.min() > 20, "it was not lost: no test"
        away = ~cv2.dilate((here | there).astype(np.uint8), np.ones((41, 41), np.uint8)).astype(bool)
        assert np.array_equal(flow[away], old[away])
    plain = estimated(one, two, 1)
    assert plain.alternative is None
    for own, other in zip(both(plain), both(found), strict=True):
        assert np.array_equal(own, other)
    assert estimated(one, one, 1, small_objects=True).alternative is None


def test_parts_of_patches_are_found_where_a_slow_search_finds_them() -> None:
    rng = np.random.default_rng(0)
    image = texture(3, 60, 80, 5).astype(np.float32)
    other = (rng.random(image.shape) < 0.7).astype(np.float32)
    corners = rng.integers(0, 20, (6, 2)) * 2
    side = PATCH
    parts = (rng.random((6, side, side)) < 0.6).astype(np.float32)
    cut = np.stack([image[y : y + side, x : x + side] for y, x in corners]) + rng.normal(0, 2, parts.shape)
    size = parts.sum((1, 2), keepdims=True)
    templates = parts * (cut - (parts * cut).sum((1, 2), keepdims=True) / size)
    templates = (templates / np.linalg.norm(templates, axis=(1, 2), keepdims=True)).astype(np.float32)
    best, lead, place = small_objects.best_partial_matches(templates, parts, image, other)
    for k in range(6):
        fits = {}
        for y in range(0, 60 - side + 1, 2):
            for x in range(0, 80 - side + 1, 2):
                inside = parts[k] > 0
                values = image[y : y + side, x : x + side][inside].astype(np.float64)
                held = other[y : y + side, x : x + side][inside].mean() > small_objects.MIN_OVERLAP
                strength = np.linalg.norm(values - values.mean()) + patches.TEXTURE_NOISE
                fits[y, x] = float((templates[k][inside] * values).sum() / strength) if held else -1.0
        top = max(fits, key=lambda at: fits[at])
        far = [fit for (y, x), fit in fits.items() if max(abs(y - top[0]), abs(x - top[1])) > SUPPRESSION_RADIUS + 1]
        assert tuple(place[k]) == top == tuple(corners[k])
        assert best[k] == pytest.approx(fits[top], abs=1e-3)
        assert lead[k] == pytest.approx(fits[top] - max(far), abs=1e-3)
