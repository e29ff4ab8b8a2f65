"""Every layout is built small, read back, broken, and read again."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from midframe.errors import InputError, MediaError
from midframe.evaluation import datasets
from midframe.evaluation.datasets import Case, DataSet, FlowTruth, Target, open_set, video_case, video_windows
from midframe.types import Frame, PixelFormat

HALF = Fraction(1, 2)


def put(path: Path, value: int, size: tuple[int, int] = (12, 16)) -> None:
    """A flat frame; its red level says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 2] = value
    assert cv2.imwrite(str(path), pixels)


def level(image: torch.Tensor | None) -> int | None:
    return None if image is None else round(float(image[0].mean()) * 255)


def reported(case: Case) -> tuple[int | None, int | None, int | None, int | None, dict[Fraction, int | None]]:
    """before, a, b, after, truths: as levels."""
    truths = {target.t: level(target.truth) for target in case.targets}
    return level(case.before), level(case.a), level(case.b), level(case.after), truths


def vimeo_triplet(root: Path) -> None:
    for k in (1, 2, 3):
        put(root / f"sequences/00001/0389/im{k}.png", k)
    (root / "tri_testlist.txt").write_text("00001/0389\n")


def vimeo_septuplet(root: Path) -> None:
    for k in range(1, 8):
        put(root / f"sequences/00001/0001/im{k}.png", k)
    (root / "sep_testlist.txt").write_text("00001/0001\n\n")


def ucf101_dvf(root: Path) -> None:
    for k in range(379):
        for name, value in (("frame_00", 1), ("frame_01_gt", 2), ("frame_02", 3)):
            put(root / f"ucf101_interp_ours/{k + 1}/{name}.png", value, (2, 2))


def ucf101_qvi(root: Path) -> None:
    for k in range(100):
        for name, value in (("frame0", 1), ("frame1", 2), ("framet", 9), ("frame2", 3), ("frame3", 4)):
            put(root / f"ucf101/{k}/{name}.png", value, (2, 2))


def middlebury(root: Path) -> None:
    for k in range(12):
        for number in (9, 10, 11, 12):
            if k or number in (10, 11):  # one scene was published with two frames
                put(root / f"other-data/scene{k}/frame{number:02d}.png", number)
        put(root / f"other-gt-interp/scene{k}/frame10i11.png", 50)


def davis(root: Path) -> None:
    for k in range(90):
        for number in range(9 if k == 0 else 7):
            put(root / f"JPEGImages/480p/seq{k:02d}/{number:05d}.png", number, (2, 2))


def snu_film(root: Path) -> None:
    lines = []
    for k in range(310):
        for j in range(3):
            put(root / f"test/GOPRO_test/scene/{3 * k + j:06d}.png", j, (2, 2))
        lines.append(" ".join(f"data/SNU-FILM/test/GOPRO_test/scene/{3 * k + j:06d}.png" for j in range(3)))
    (root / "test-easy.txt").write_text("\n".join(lines) + "\n")


def x_test(root: Path) -> None:
    for k in range(15):
        for number in range(0, 33, 4):
            put(root / f"test/Type{k % 3 + 1}/TEST{k:02d}/{number:04d}.png", number, (2, 2))


def frames(root: Path) -> None:
    for k in range(8):
        put(root / f"film/{k:03d}.png", 10 * k)


def triplets(root: Path) -> None:
    for k in (1, 2, 3):
        put(root / f"x/y/img{k}.png", k)
    put(root / "other/only.png", 1)


@pytest.mark.parametrize(
    ("name", "build", "count", "first"),
    [
        ("vimeo90k-triplet", vimeo_triplet, 1, (None, 1, 3, None, {HALF: 2})),
        ("vimeo90k-septuplet", vimeo_septuplet, 1, (1, 3, 5, 7, {HALF: 4})),
        ("vimeo90k-septuplet-6x", vimeo_septuplet, 1, (None, 1, 7, None, {Fraction(k, 6): k + 1 for k in range(1, 6)})),
        ("ucf101-dvf", ucf101_dvf, 379, (None, 1, 3, None, {HALF: 2})),
        ("ucf101-qvi", ucf101_qvi, 100, (1, 2, 3, 4, {HALF: 9})),
        ("middlebury-other", middlebury, 12, (None, 10, 11, None, {HALF: 50})),
        ("middlebury-other-4", middlebury, 11, (9, 10, 11, 12, {HALF: 50})),
        ("davis", davis, 2 + 89, (0, 2, 4, 6, {HALF: 3})),
        ("snu-film-easy", snu_film, 310, (None, 0, 2, None, {HALF: 1})),
        ("x-test", x_test, 15, (None, 0, 32, None, {Fraction(k, 8): 4 * k for k in range(1, 8)})),
        ("frames:3", frames, 2, (None, 0, 30, 60, {Fraction(1, 3): 10, Fraction(2, 3): 20})),
        ("frames", frames, 3, (None, 0, 20, 40, {HALF: 10})),
        ("triplets", triplets, 1, (None, 1, 3, None, {HALF: 2})),
    ],
)
def test_layouts(
    tmp_path: Path, name: str, build: Callable[[Path], None], count: int, first: tuple[object, ...]
) -> None:
    build(tmp_path)
    data = open_set(name, tmp_path)
    assert data.count == count
    assert data.note == ""
    assert reported(next(data.cases())) == first
    assert reported(next(data.cases())) == first  # every call starts over


def whole(data: DataSet) -> list[Case]:
    return list(data.cases())


def test_davis_is_averaged_by_sequence(tmp_path: Path) -> None:
    davis(tmp_path)
    data = open_set("davis", tmp_path)
    assert data.grouped
    assert [c.group for c in whole(data)][:3] == ["seq00", "seq00", "seq01"]


def test_a_partial_copy_is_reported_and_can_be_used(tmp_path: Path) -> None:
    middlebury(tmp_path)
    (tmp_path / "other-data/scene3/frame11.png").unlink()
    with pytest.raises(MediaError, match=r"found 11 of 12 cases; first missing: .*scene3/frame11.png; --partial"):
        open_set("middlebury-other", tmp_path)
    data = open_set("middlebury-other", tmp_path, partial=True)
    assert (data.count, data.note) == (11, "11 of 12 cases")


def test_a_count_below_the_protocols_is_half_copied(tmp_path: Path) -> None:
    put(tmp_path / "1/frame_00.png", 1)
    put(tmp_path / "1/frame_01_gt.png", 2)
    put(tmp_path / "1/frame_02.png", 3)
    with pytest.raises(MediaError, match="found 1 of 379 cases"):
        open_set("ucf101-dvf", tmp_path)
    for k in range(7):
        put(tmp_path / f"davis/bear/{k:05d}.jpg", k)
    with pytest.raises(MediaError, match=r"90 sequences .* found 1; --partial"):
        open_set("davis", tmp_path / "davis")
    assert open_set("davis", tmp_path / "davis", partial=True).count == 1


@pytest.mark.parametrize("name", datasets.SETS)
def test_missing_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    for root in (tmp_path / "absent", tmp_path):  # not there; there and empty
        with pytest.raises(MediaError, match="expected") as raised:
            open_set(name, root)
        assert str(root) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_invalid_options(tmp_path: Path) -> None:
    for name, message in (
        ("nosuch", "unknown; there are vimeo90k-triplet"),
        ("davis:4", "takes no factor"),
        ("videos:1", "integer of at least 2"),
        ("frames:x", "integer of at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            open_set(name, tmp_path)
    with pytest.raises(InputError, match="at least 1"):
        open_set("frames", tmp_path, limit=0)


def test_limit_spreads_evenly(tmp_path: Path) -> None:
    middlebury(tmp_path)
    data = open_set("middlebury-other", tmp_path, limit=3)
    assert [c.name for c in whole(data)] == ["scene10", "scene4", "scene8"]  # sorted: scene0, 1, 10, 11, 2 ...
    assert data.note == "3 of 12 cases"


def test_scaled_down_averages_areas_and_leaves_small_frames() -> None:
    tall, low = torch.rand(3, 64, 96), torch.rand(3, 32, 40)
    data = DataSet(
        "s", "p", 2, lambda: iter([Case("tall", tall, tall, (Target(HALF, tall),), tall), Case("low", low, low)])
    )
    first, second = datasets.scaled_down(data, 32).cases()
    assert torch.allclose(first.a, F.avg_pool2d(tall, 2), atol=1e-6)
    assert first.before is not None and first.before.shape == first.targets[0].truth.shape == (3, 32, 48)
    assert second.a is low
    assert "scaled down to 32 rows" in datasets.scaled_down(data, 32).note
    flowed = DataSet("f", "p", 1, lambda: iter([Case("c", tall, tall, flow=FlowTruth(torch.zeros(2, 64, 96)))]))
    with pytest.raises(InputError, match="true flow and regions are not scaled"):
        next(datasets.scaled_down(flowed, 32).cases())
    with pytest.raises(InputError, match="at least 16"):
        datasets.scaled_down(data, 8)


def test_middle_only_keeps_the_farthest_target() -> None:
    frame = torch.zeros(3, 16, 16)
    targets = tuple(Target(Fraction(k, 6), frame) for k in range(1, 6))
    data = DataSet("s", "p", 1, lambda: iter([Case("c", frame, frame, targets)]), note="a subset")
    (case,) = datasets.middle_only(data).cases()
    assert [target.t for target in case.targets] == [HALF]
    assert datasets.middle_only(data).note == "a subset; the middle target only"


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    triplets(tmp_path)
    put(tmp_path / "x/y/img3.png", 3, (12, 18))
    with pytest.raises(MediaError, match="different sizes"):
        whole(open_set("triplets", tmp_path))


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    triplets(tmp_path)
    (tmp_path / "x/y/img2.png").write_bytes(b"not a frame")
    with pytest.raises(MediaError, match=r"img2.png: not an image"):
        whole(open_set("triplets", tmp_path))


def test_channels_depth_and_range(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint16)
    pixels[..., 0], pixels[..., 2] = 65535, 32768  # OpenCV writes B, G, R
    cv2.imwrite(str(tmp_path / "p.png"), pixels)
    image = datasets.read_image(tmp_path / "p.png")
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == pytest.approx([32768 / 65535, 0.0, 1.0])


def test_xiph_views() -> None:
    ramp = torch.arange(4096.0).expand(3, 2160, 4096) / 4095
    half = datasets.xiph_2k(ramp)
    assert half.shape == (3, 1080, 2048)
    assert float(half[0, 0, 100] * 255) == pytest.approx(round(200.5 / 4095 * 255), abs=1e-4)  # mean of two columns
    centre = datasets.xiph_4k(ramp)
    assert centre.shape == (3, 1080, 2048)
    assert float(centre[0, 0, 0]) == pytest.approx(1024 / 4095)


def test_xiph_pairs(tmp_path: Path) -> None:
    for clip in datasets.XIPH_CLIPS:
        for k in range(1, 101):
            path = tmp_path / f"netflix/{clip}-{k:03d}.png"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    data = open_set("xiph-4k", tmp_path)
    assert data.count == 8 * 49
    (tmp_path / "netflix/Tango-100.png").unlink()
    assert open_set("xiph-4k", tmp_path).count == 8 * 49  # the hundredth frame is neither input nor truth
    (tmp_path / "netflix/Tango-050.png").unlink()
    with pytest.raises(MediaError, match=r"found 391 of 392 .*Tango-050.png"):
        open_set("xiph-4k", tmp_path)


def write_flo(path: Path, flow: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PIEH" + struct.pack("<ii", flow.shape[1], flow.shape[0]) + flow.astype("<f4").tobytes())


def test_flow_files(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    flow[1, 2] = 1666666752.0
    write_flo(tmp_path / "a.flo", flow)
    values, known = datasets.read_flo(tmp_path / "a.flo")
    assert values.shape == (2, 3, 4)
    assert not known[1, 2]
    assert int(known.sum()) == 11
    assert float(values[1, 0, 3]) == float(flow[0, 3, 1])
    (tmp_path / "b.flo").write_bytes((tmp_path / "a.flo").read_bytes()[:-4])
    with pytest.raises(MediaError, match="has 108"):
        datasets.read_flo(tmp_path / "b.flo")
    (tmp_path / "c.flo").write_bytes(b"no flow at all")
    with pytest.raises(MediaError, match="PIEH"):
        datasets.read_flo(tmp_path / "c.flo")

    pixels = np.zeros((2, 3, 3), np.uint16)
    pixels[0, 1] = (1, 32768 - 64 * 2, 32768 + 64 * 5)  # valid, v = -2, u = 5 in OpenCV's order
    cv2.imwrite(str(tmp_path / "k.png"), pixels)
    values, known = datasets.read_kitti_flow(tmp_path / "k.png")
    assert values[:, 0, 1].tolist() == [5.0, -2.0]
    assert int(known.sum()) == 1
    put(tmp_path / "plain.png", 1)
    with pytest.raises(MediaError, match="not a KITTI flow"):
        datasets.read_kitti_flow(tmp_path / "plain.png")


def test_flow_sets(tmp_path: Path) -> None:
    flow = np.full((12, 16, 2), 3.0, np.float32)
    sintel = tmp_path / "sintel/training"
    for k in range(1, 4):
        put(sintel / f"final/alley/frame_{k:04d}.png", k)
        put(sintel / f"occlusions/alley/frame_{k:04d}.png", 0)
    for k in (1, 2):
        write_flo(sintel / f"flow/alley/frame_{k:04d}.flo", flow)
    cases = whole(open_set("sintel", tmp_path / "sintel"))
    assert [reported(c)[:4] for c in cases] == [(None, 1, 2, 3), (1, 2, 3, None)]
    assert cases[0].flow is not None
    assert cases[0].flow.seen is not None
    assert cases[0].flow.seen.all()
    assert cases[0].targets == ()
    (sintel / "final/alley/frame_0003.png").unlink()
    with pytest.raises(MediaError, match="found 1 of 2 complete cases"):
        open_set("sintel", tmp_path / "sintel")

    middlebury_root = tmp_path / "mb"
    for k in (10, 11):
        put(middlebury_root / f"other-data/Venus/frame{k}.png", k)
    write_flo(middlebury_root / "other-gt-flow/Venus/flow10.flo", flow)
    assert [reported(c)[:3] for c in whole(open_set("middlebury-flow", middlebury_root))] == [(None, 10, 11)]

    kitti = tmp_path / "kitti/training"
    for k in (10, 11):
        put(kitti / f"image_2/000000_{k}.png", k)
    for folder, valid in (("flow_occ", 1), ("flow_noc", 0)):
        pixels = np.full((12, 16, 3), 32768 + 64, np.uint16)
        pixels[..., 0] = 1
        pixels[:, 8:, 0] = valid
        (kitti / folder).mkdir()
        cv2.imwrite(str(kitti / folder / "000000_10.png"), pixels)
    (case,) = whole(open_set("kitti", tmp_path / "kitti"))
    assert case.flow is not None
    assert case.flow.valid is not None
    assert case.flow.seen is not None
    assert (int(case.flow.valid.sum()), int(case.flow.seen.sum())) == (192, 96)


GRAY = PixelFormat("gray", "gray", 8, full_range=True)


def video(count: int, cut: int = 1000) -> list[Frame]:
    """Gray frames of growing level at a rate of 25, with a new shot from `cut` on."""
    step = Fraction(1, 25)
    return [
        Frame((torch.full((4, 4), 10 * k, dtype=torch.uint8),), GRAY, k * step, step, k, int(k >= cut))
        for k in range(count)
    ]


def test_video_windows_drop_and_restore() -> None:
    found = [
        (b.index if b else None, [f.index for f in w], a.index if a else None) for b, w, a in video_windows(video(9), 2)
    ]
    assert found == [
        (None, [0, 1, 2], 4),
        (0, [2, 3, 4], 6),
        (2, [4, 5, 6], 8),
        (4, [6, 7, 8], None),
    ]
    assert [w[0].index for _, w, _ in video_windows(video(10), 4)] == [0, 4]
    assert list(video_windows(video(2), 2)) == []


def test_video_case_knows_cuts_and_true_instants() -> None:
    cases = [video_case("n", "g", *window) for window in video_windows(video(13, cut=5), 2)]
    assert [c is None for c in cases] == [False, False, True, False, False, False]
    assert cases[0] is not None
    assert reported(cases[0]) == (None, 0, 20, 40, {HALF: 10})
    assert cases[1] is not None
    assert cases[1].after is None  # frame 6 is of the next shot
    uneven = video(3)
    uneven[1] = Frame(uneven[1].planes, GRAY, Fraction(1, 100), Fraction(1, 25), 1)
    late = video_case("n", "g", None, uneven, None)
    assert late is not None
    assert late.targets[0].t == Fraction(1, 8)


DATA = os.environ.get("MIDFRAME_DATA")


@pytest.mark.skipif(not DATA, reason="needs the evaluation frames: MIDFRAME_DATA")
def test_real_folders() -> None:
    root = Path(DATA or "") / "eval"
    counts = {
        name: open_set(name, root / folder).count
        for name, folder in (
            ("middlebury-other", "middlebury-other"),
            ("vimeo90k-septuplet", "vimeo90k_septuplets"),
            ("frames", "middlebury_rubberwhale_8frames"),
            ("sintel", "sintel_flow"),
            ("kitti", "kitti2015_sample"),
            ("middlebury-flow", "middlebury_rubberwhale_8frames"),
        )
    }
    assert list(counts.values()) == [12, 8, 3, 3, 1, 1]
