"""The renderer against what it claims: flows carry one frame onto another, hidden is hidden, seeds make scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from midframe.errors import InputError, MediaError
from midframe.scenes import Mix, Rendered, Textures, compose, find_photos, held_out, render, stack
from midframe.scenes.batched import render_batch
from midframe.scenes.compose import root
from midframe.scenes.render import flow_between, lost, nodes, project, spread_out, unrippled, visible
from midframe.scenes.script import Clock, Degradation, Layer, Light, Motion, Scene, Trajectory
from midframe.scenes.sheet import contact_sheet
from midframe.training.scenes import scenes, sheet

SIZE = (96, 128)
CLEAN = Mix(overlay=0, blur=0, drift=0, shadow=0, noise=0, compressed=0, halved_chroma=0, duplicate=0, repeated=0)


@pytest.fixture(scope="module")
def textures() -> Textures:
    return Textures()


def clean(seed: int, textures: Textures, size: tuple[int, int] = SIZE, mix: Mix = CLEAN) -> Scene:
    """Smooth opaque surfaces, so that images can be warped without loss; no changes of light, no degradation."""
    scene = compose(seed, textures, size, mix=mix)
    layers = []
    for layer in scene.layers:
        patch = layer.patch.copy()
        patch[..., :3] = cv2.GaussianBlur(patch[..., :3], (0, 0), 3)
        if not layer.endless:  # edges out of focus reach far
            patch[..., 3] = cv2.GaussianBlur((patch[..., 3] > 127).astype(np.uint8) * 255, (0, 0), 0.7)
        layers.append(replace(layer, opacity=1.0, patch=patch))
    return replace(scene, layers=tuple(layers))


def warped(image: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    y, x = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
    return cv2.remap(image.astype(np.float32), x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC)


def inner(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose 5x5 neighbourhood is all of one layer: away from mixed edges, and from the border."""
    box = np.ones((5, 5), np.uint8)
    out = cv2.erode(labels, box) == cv2.dilate(labels, box)
    out[:3], out[-3:], out[:, :3], out[:, -3:] = False, False, False, False
    return out


PAIRS = [("a", "b"), ("b", "a"), ("t", "a"), ("t", "b"), ("a", "before"), ("b", "after")]


@pytest.mark.parametrize("block", range(3))
def test_flow_maps_each_frame_onto_the_other(textures: Textures, block: int) -> None:
    """Where a pixel is seen in both, the other frame at the end of its flow has its colour."""
    checked = conclusive = 0
    for seed in range(block * 6, block * 6 + 6):
        scene = clean(seed, textures, mix=replace(CLEAN, static_scene=0, medium=0.6))
        drawn = render(scene)
        times = {"a": 0.0, "b": 1.0, "t": scene.t, "before": -1.0, "after": 2.0}
        images = {"a": drawn.a, "b": drawn.b, "t": drawn.target, "before": drawn.before, "after": drawn.after}
        labels = {name: visible(scene, spread_out(scene, s)) for name, s in times.items()}
        for one, two in PAIRS:
            name = f"{one}_{two}" if len(two) > 1 else one + two
            flow, hidden = getattr(drawn, f"flow_{name}"), getattr(drawn, f"hidden_{name}")
            # away from mixed edges in both: the other's labels are looked up at the end of the flow
            good = ~hidden & inner(labels[one])
            good &= warped(inner(labels[two]).astype(np.uint8), flow) > 0.99
            if good.sum() < 200:
                continue
            error = np.abs(warped(images[two], flow) - images[one]).mean(-1)[good]
            assert error.mean() < 0.6, (seed, name)  # levels; rounding both frames costs 0.35
            assert np.percentile(error, 99) < 3.5, (seed, name)
            blind = np.abs(images[two].astype(float) - images[one]).mean(-1)[good]
            conclusive += int(blind.mean() > 1.8)
            checked += 1
    assert checked > 25 and conclusive > 4


def test_flow_is_exact_to_a_fiftieth_of_a_pixel(textures: Textures) -> None:
    """Geometry alone, every layer by itself, against the same maps solved at each pixel to the last digit."""
    for seed in range(16):
        scene = clean(seed, textures, mix=replace(CLEAN, static_scene=0))
        for number, layer in enumerate(scene.layers):
            s, e = 0.0, 1.0
            sheets = [x for x in spread_out(replace(scene, layers=(scene.layers[0], layer)), s) if x.number == 1]
            if not sheets or number == 0:
                continue
            sheet_ = sheets[0]
            label = np.ones(SIZE, np.uint8)
            flow = flow_between(scene, label, sheets, s, e)[sheet_.rows, sheet_.columns]
            y, x = np.mgrid[sheet_.rows, sheet_.columns].astype(np.float64)
            one, two = (layer.matrix(m, *SIZE) for m in (s, e))
            q, r = project(np.linalg.inv(one), x, y)
            u, v = q, r
            if layer.deformation is not None:
                for _ in range(60):  # to the last digit, at every pixel
                    dx, dy = layer.deformation(u, v, s)
                    u, v = q - dx, r - dy
                dx, dy = layer.deformation(u, v, e)
                u, v = u + dx, v + dy
            px, py = project(two, u, v)
            assert np.abs(flow - np.stack([px - x, py - y], -1)).max() < 0.02, (seed, number, layer.kind)


def test_unrippling_inverts_the_ripple(textures: Textures) -> None:
    deformed = [
        layer
        for seed in range(24)
        for layer in compose(seed, textures, SIZE, mix=replace(CLEAN, static_scene=0)).layers
        if layer.deformation is not None
    ]
    assert len(deformed) > 5
    for layer in deformed:
        assert layer.deformation is not None
        window = (0, 0, *SIZE)
        matrix = layer.matrix(0.3, *SIZE)
        q, r = unrippled(layer, matrix, 0.3, window)
        dx, dy = layer.deformation(q, r, 0.3)
        u, v = project(np.linalg.inv(matrix), *nodes(window))
        assert np.hypot(q + dx - u, r + dy - v).max() < 0.01  # texels


def test_hidden_agrees_with_forward_and_back(textures: Textures) -> None:
    """What is seen in both comes back to where it was; what is hidden does not, or leaves the frame."""
    seen_error, hidden_pixels, returned = [], 0, 0
    for seed in range(16):
        drawn = render(compose(seed, textures, SIZE, mix=CLEAN), neighbours=False)
        y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]].astype(np.float32)
        u, v = x + drawn.flow_ab[..., 0], y + drawn.flow_ab[..., 1]
        back = cv2.remap(drawn.flow_ba, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=1e4)
        apart = np.hypot(*(drawn.flow_ab + back).transpose(2, 0, 1))
        seen_error.append(np.percentile(apart[~drawn.hidden_ab], 98))
        # a hidden pixel's way back starts from another layer: it returns only where both move alike
        hidden_pixels += int(drawn.hidden_ab.sum())
        returned += int((apart[drawn.hidden_ab] < 0.3).sum())
    assert np.median(seen_error) < 0.2 and max(seen_error) < 1.5
    assert hidden_pixels > 2000
    assert returned < 0.2 * hidden_pixels


def test_occlusion_by_a_square_is_the_square(textures: Textures) -> None:
    """Counted by hand: a 20 px square that moves 8 px to the right over a resting ground."""
    scene = square(shift=(8.0, 0.0))
    drawn = render(scene)
    expected = np.zeros((64, 64), bool)
    expected[22:42, 42:50] = True  # ground that the square comes to lie upon
    assert np.array_equal(drawn.hidden_ab, expected)
    expected[:] = False
    expected[22:42, 22:30] = True  # ground that appears
    assert np.array_equal(drawn.hidden_ba, expected)
    assert np.array_equal(np.unique(drawn.flow_ab[22:42, 22:42].reshape(-1, 2), axis=0), [[8, 0]])
    assert not drawn.flow_ab[:22].any()
    # at t = 1/4 the square has gone 2 px
    assert np.array_equal(drawn.hidden_tb[22:42, 44:50], np.ones((20, 6), bool))
    assert np.allclose(drawn.flow_tb[30, 30], [6, 0]) and np.allclose(drawn.flow_ta[30, 30], [-2, 0])
    assert drawn.static.mean() > 0.5 and not drawn.static[30, 30]
    assert (
        drawn.before is not None
        and drawn.flow_a_before is not None
        and np.allclose(drawn.flow_a_before[30, 30], [-8, 0])
    )


def square(shift: tuple[float, float] = (0.0, 0.0), **more: object) -> Scene:
    rng = np.random.default_rng(0)
    ground = Layer(rng.integers(0, 255, (64, 64, 3), np.uint8), np.eye(3))
    patch = np.full((24, 24, 4), 200, np.uint8)
    patch[..., 3] = 0
    patch[2:22, 2:22, 3] = 255
    place = np.array([[1.0, 0, 20], [0, 1.0, 20], [0, 0, 1.0]])
    thing = Layer(patch, place, Motion(shift=shift, **more))  # type: ignore[arg-type]
    return Scene(64, 64, 0.25, (ground, thing))


def test_trajectories() -> None:
    """Linear, quadratic and jerky courses pass through 0 at a and 1 at b; only jerky ones lie to the neighbours."""
    assert [Trajectory().along(s) for s in (-1, 0, 0.25, 1, 2)] == [-1, 0, 0.25, 1, 2]
    bent = Trajectory(bend=0.2)
    assert bent.along(0) == 0 and bent.along(1) == 1 and bent.along(0.5) == pytest.approx(0.45)
    second = [bent.along(s) for s in (-1.0, 0.0, 1.0, 2.0)]
    assert np.allclose(np.diff(second, 2), 0.4)  # constant acceleration over all four frames
    jerky = Trajectory(jerk=(0.7, 3.0))
    assert [jerky.along(s) for s in (-1, 0, 0.5, 1, 2)] == [0.7, 0, 0.5, 1, 3.0]


def test_duplicates_repeat_the_frame_to_the_last_bit(textures: Textures) -> None:
    scene = replace(
        square((8.0, 0.0)),
        clock=Clock((-1, 0, 0, 1)),
        degradation=Degradation(noise=5, shot=3, jpeg=60),
        light=Light(gain=0.1),
    )
    drawn = render(scene)
    assert np.array_equal(drawn.a, drawn.b) and not drawn.flow_ab.any() and not drawn.hidden_ab.any()
    assert drawn.before is not None and not np.array_equal(drawn.before, drawn.a)
    running = render(replace(scene, clock=Clock()))
    assert not np.array_equal(running.a, running.b)


def test_a_scene_depends_on_its_seed_alone(textures: Textures) -> None:
    one, two = (render(compose(5, Textures(), SIZE)) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(fields(one), fields(two), strict=True))
    other = render(compose(6, textures, SIZE))
    assert not np.array_equal(one.a, other.a)


def fields(drawn: Rendered) -> list[NDArray[np.generic]]:
    return [value for name in Rendered.__slots__ if isinstance(value := getattr(drawn, name), np.ndarray)]


def test_training_and_evaluation_never_share_a_scene(textures: Textures) -> None:
    """The roots of all random numbers differ, whatever the seeds: no word of one pool is another's."""
    pools: dict[tuple[int, ...], tuple[str, int]] = {}
    for domain in ("training", "evaluation"):
        for seed in [*range(3000), 2**31, 2**40 + 7]:
            state = tuple(int(word) for word in root(domain, seed).generate_state(4, np.uint64))  # type: ignore[arg-type]
            assert state not in pools, (domain, seed, pools[state])
            pools[state] = (domain, seed)
    a, b = compose(3, textures, SIZE, "training"), compose(3, textures, SIZE, "evaluation")
    assert not np.array_equal(render(a).a, render(b).a)


def test_what_the_mix_promises(textures: Textures) -> None:
    """Shares of the design: static scenes, fast scenes, trajectories, times."""
    drawn = [compose(seed, textures, (48, 48)) for seed in range(300)]
    tags = [tag for scene in drawn for tag in scene.tags]
    assert 0.05 < tags.count("static-scene") / 300 < 0.16
    assert 0.52 < tags.count("linear") / 300 < 0.68
    assert 0.22 < tags.count("quadratic") / 300 < 0.38
    assert 0.05 < tags.count("jerky") / 300 < 0.16
    assert 0.4 < np.mean([scene.t == 0.5 for scene in drawn]) < 0.6
    counts = np.array([len([la for la in scene.layers if not la.overlay]) for scene in drawn])
    assert counts.min() == 1 and counts.max() == 7
    kinds = {layer.kind for scene in drawn for layer in scene.layers}
    assert kinds >= {"polygon", "blob", "ellipse", "cut_out", "pole", "wire", "grid", "text", "logo", "subtitle",
                     "letterbox", "mark", "ticker"}  # fmt: skip


def test_repeated_textures_move_more_than_half_a_period(textures: Textures) -> None:
    scenes_ = [compose(seed, textures, SIZE, mix=Mix(repeated=1, static_scene=0)) for seed in range(30)]
    found = [(scene, layer) for scene in scenes_ for layer in scene.layers if layer.period is not None]
    assert len(found) > 10
    ratios = []
    for scene, layer in found:
        assert layer.period is not None
        period = np.hypot(*(layer.place[:2, :2] @ np.array([layer.period[0], 0])))
        ratios.append(np.hypot(*layer.motion.shift) / period)
        assert render(scene, neighbours=False).period > 0
        columns = round(layer.period[0])
        assert np.array_equal(layer.patch[:, columns : 2 * columns, :3], layer.patch[:, :columns, :3]) or (
            layer.patch.shape[1] < 2 * columns
        )
    assert np.median(ratios) > 0.5 and max(ratios) > 1


def test_some_repeated_textures_move_by_a_whole_period(textures: Textures) -> None:
    mix = Mix(repeated=1, whole_period=1, static_scene=0, fast=0, medium=1)
    found = []
    for seed in range(16):
        layers = [layer for layer in compose(seed, textures, (192, 256), mix=mix).layers if layer.period is not None]
        for layer in layers:
            assert layer.period is not None
            along = np.hypot(*(layer.place[:2, :2] @ np.array([layer.period[0], 0.0])))
            if 7 < along < 60:  # shorter and longer periods there are not, whatever the motion
                found.append(np.hypot(*layer.motion.shift) / along)
    assert len(found) > 6
    assert all(0.8 < periods < 1.2 for periods in found)


def test_overlays_rest_to_the_last_bit(textures: Textures) -> None:
    found = 0
    for seed in range(60):
        scene = compose(seed, textures, SIZE, mix=replace(CLEAN, overlay=1.0, static_scene=0))
        if not {"logo", "letterbox"} & set(scene.tags) or {"mark", "ticker", "subtitle"} & set(scene.tags):
            continue
        if any(layer.overlay and layer.opacity < 1 for layer in scene.layers):
            continue
        drawn = render(scene, neighbours=False)
        solid = drawn.overlay & drawn.static
        for layer in scene.layers:
            if layer.overlay:
                cover = np.zeros(SIZE, np.uint8)
                for s in spread_out(replace(scene, layers=(scene.layers[0], layer)), 0.0)[1:]:
                    cover[s.rows, s.columns] = s.patch[..., 3]
                solid &= cover == 255
        assert np.array_equal(drawn.a[solid], drawn.b[solid]) and np.array_equal(drawn.a[solid], drawn.target[solid])
        found += int(solid.sum() > 0)
    assert found >= 3


def test_noise_and_compression_leave_the_truth_alone() -> None:
    scene = replace(square((3.0, 0.0)), degradation=Degradation(noise=6, shot=2))
    noisy, still = render(scene), render(replace(scene, degradation=Degradation()))
    assert np.array_equal(noisy.target, still.target)
    apart = noisy.a.astype(float) - still.a
    assert 4 < apart[20:50].std() < 9
    assert np.corrcoef(apart.ravel(), (noisy.b.astype(float) - still.b).ravel())[0, 1] < 0.05
    packed = render(replace(scene, degradation=Degradation(jpeg=40)))
    assert np.array_equal(packed.target, still.target) and not np.array_equal(packed.a, still.a)


def test_motion_blur_is_the_mean_over_the_exposure() -> None:
    scene = replace(square((12.0, 0.0)), exposure=0.5)
    drawn = render(scene, neighbours=False)
    row = drawn.a[30, :, :].astype(float).mean(-1)
    ground = render(square((0.0, 0.0))).b[30].astype(float).mean(-1)
    covered = (row - ground)[[18, 20, 21]]
    assert abs(covered[0]) < 2  # 6 px of way: the edge at 21.5 is spread over 18.5 to 24.5
    assert row[32] == pytest.approx(200, abs=1)  # always covered
    assert drawn.flow_ab[30, 30, 0] == pytest.approx(12)


def test_brightness_follows_the_light() -> None:
    scene = replace(square(), light=Light(gain=-0.2))
    drawn = render(scene)
    assert drawn.b[30, 30].mean() == pytest.approx(200 * np.exp(-0.2), abs=1)
    assert drawn.target[30, 30].mean() == pytest.approx(200 * np.exp(-0.05), abs=1)


def test_frames_are_as_sharp_as_photographs_and_do_not_alias() -> None:
    """White noise as a texture: what the renderer passes of each frequency, at any phase."""
    from midframe.scenes.script import placed
    from midframe.scenes.textures import PREFILTER

    n = 512
    x = np.mgrid[0:n, 0:n][1]
    for cycles, least, most in ((0.25, 0.9, 1.1), (0.4, 0.75, 1.1), (0.9, 0.0, 0.25)):  # per pixel of the frame
        for shift in (0.0, 0.25, 0.5):
            wave = 128 + 100 * np.sin(2 * np.pi * cycles / 2 * x)
            texture = cv2.sepFilter2D(np.repeat(wave[..., None], 3, 2).astype(np.float32), -1, PREFILTER, PREFILTER)
            layer = Layer(np.rint(texture).astype(np.uint8), placed((64 + shift, 64.3), (n, n), 2.0))
            drawn = render(Scene(128, 128, 0.5, (layer,)), neighbours=False).a[:, :, 0].astype(float)
            gain = drawn[20:-20, 20:-20].std() * np.sqrt(2) / 100
            assert least <= gain <= most, (cycles, shift, gain)


def test_hold_out_is_by_name_and_one_in_eight(tmp_path: Path) -> None:
    names = [tmp_path / f"frame_{k}.jpg" for k in range(400)]
    share = np.mean([held_out(name) for name in names])
    assert 0.07 < share < 0.18
    assert held_out(names[0]) == held_out(Path("/elsewhere") / names[0].name)
    for name in names[:40]:
        cv2.imwrite(str(name), np.full((32, 32, 3), 99, np.uint8))
    training, evaluation = find_photos([tmp_path]), find_photos([tmp_path], evaluation=True)
    assert training and evaluation and not set(training) & set(evaluation)
    assert len(training) + len(evaluation) == 40
    assert render(compose(1, Textures(training), (64, 64))).a.shape == (64, 64, 3)


def test_photographs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        find_photos([tmp_path / "absent"])
    with pytest.raises(InputError, match="none for training"):
        find_photos([tmp_path])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no frame")
    with pytest.raises(InputError, match="cannot be decoded"):
        Textures([broken]).photo(0)


def test_stack_and_stream() -> None:
    stream = scenes(Textures(), first=3, size=(64, 64), stride=2)
    drawn = [next(stream), next(stream)]
    assert np.array_equal(drawn[1].a, render(compose(5, Textures(), (64, 64))).a)
    arrays = stack(drawn)
    assert arrays["a"].shape == (2, 3, 64, 64) and arrays["flow_ab"].shape == (2, 2, 64, 64)
    assert arrays["hidden_ab"].shape == (2, 64, 64) and arrays["t"].shape == (2,)


def test_contact_sheet(tmp_path: Path) -> None:
    sheet(tmp_path / "sheet.png", seed=0, rows=2, size=64)
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image is not None and image.shape[1] == 10 * 66
    with pytest.raises(MediaError, match="cannot be written"):
        contact_sheet(tmp_path / "absent" / "sheet.png", [render(square(), neighbours=False)])


def test_lost_knows_the_border() -> None:
    label = np.zeros((4, 4), np.uint8)
    flow = np.zeros((4, 4, 2), np.float32)
    flow[..., 0] = 2
    assert np.array_equal(lost(label, label, flow)[0], [False, False, True, True])


# The batched twin


def both(scenes_: list[Scene], device: str = "cpu") -> tuple[dict[str, NDArray[np.generic]], dict[str, torch.Tensor]]:
    return stack([render(scene) for scene in scenes_]), render_batch(scenes_, device=device)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batched_twin_draws_the_same(textures: Textures, device: str) -> None:
    """All that a scene can have but noise and compression: frames to a level, flows to a fiftieth of a pixel."""
    quiet = Mix(noise=0, compressed=0, overlay=0.6, blur=0.3, drift=0.5, shadow=0.5, duplicate=0.2, repeated=0.3)
    slow, quick = both([compose(seed, textures, (64, 96), mix=quiet) for seed in range(14)], device)
    assert set(slow) == set(quick)
    for name, expected in slow.items():
        found = quick[name].cpu().numpy()
        assert found.shape == expected.shape and found.dtype == expected.dtype, name
        if expected.ndim < 3:
            assert np.allclose(found, expected, atol=1e-6)
        elif expected.dtype == np.uint8:
            apart = np.abs(found.astype(float) - expected)
            assert apart.mean() < 0.7 and np.percentile(apart, 99.5) < 12, name
        elif expected.dtype == bool:
            assert (found != expected).mean() < 0.01, name
        else:
            apart = np.abs(found - expected).max(1)
            assert np.median(apart) < 1e-3 and np.percentile(apart, 98.5) < 0.02, name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batched_damage_is_as_strong(device: str) -> None:
    scene = replace(square((3.0, 0.0)), degradation=Degradation(noise=5, shot=3), noise_seed=3)
    held = replace(scene, clock=Clock((-1, 0, 0, 1)))
    slow, quick = both([scene, held], device)
    clean = stack([render(replace(scene, degradation=Degradation()))])
    ours, theirs = (
        x["a"][0].astype(float) - clean["a"][0] for x in (slow, {k: v.cpu().numpy() for k, v in quick.items()})
    )
    assert theirs.std() == pytest.approx(ours.std(), rel=0.1)
    assert torch.equal(quick["a"][1], quick["b"][1]) and not torch.equal(quick["a"][0], quick["b"][0])
    for quality in (35, 60, 92):
        packed = replace(scene, degradation=Degradation(jpeg=quality))
        slow, quick = both([packed], device)
        lossy = np.abs(slow["a"].astype(float) - clean["a"]).mean()
        assert np.abs(slow["a"].astype(float) - quick["a"].cpu().numpy()).mean() < 0.25 * lossy + 0.6, quality


def test_batches_are_of_one_size() -> None:
    with pytest.raises(InputError, match="all of one size"):
        render_batch([square(), compose(0, Textures(), (32, 32))])
