"""Windows of real clips: read from every layout, and nothing that would teach wrong things."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from midframe.errors import InputError
from midframe.scenes.textures import dead_leaves
from midframe.training.clips import (
    ClipSource,
    Limits,
    cut_windows,
    find_clips,
    most_changing_crop,
    read_run,
    window_motion,
)

Video = list[NDArray[np.uint8]]


@pytest.fixture(scope="module")
def ground() -> NDArray[np.uint8]:
    return dead_leaves(np.random.default_rng(0), 256)


def pan(ground: NDArray[np.uint8], step: float, count: int = 12, size: int = 96) -> Video:
    """A window that moves over the ground by `step` pixels a frame."""
    out = []
    for k in range(count):
        move = np.array([[1.0, 0, -20 - k * step], [0, 1.0, -30]])
        out.append(np.asarray(cv2.warpAffine(ground, move, (size, size), flags=cv2.INTER_CUBIC), np.uint8))
    return out


def video(path: Path, images: Video, codec: str = "libx264", pixels: str = "yuv420p") -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=Fraction(25), options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], pixels
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode())
    return path


def numbered(folder: Path, images: Video, pattern: str = "{:04d}.png", first: int = 0) -> None:
    folder.mkdir(parents=True)
    for k, image in enumerate(images):
        cv2.imwrite(str(folder / pattern.format(k + first)), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def test_layouts_are_found_as_they_are(tmp_path: Path, ground: NDArray[np.uint8]) -> None:
    frames = pan(ground, 2, 8)
    vimeo = tmp_path / "vimeo"
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        numbered(vimeo / "sequences" / name, frames[:7], "im{}.png", 1)
    (vimeo / "sep_trainlist.txt").write_text("00001/0001\n00002/0001\n00009/0001\n")  # not: others, absent ones
    assert [clip.path.as_posix()[-10:] for clip in find_clips([vimeo])] == ["00001/0001", "00002/0001"]
    numbered(tmp_path / "xtrain" / "002" / "occ008.320_f2881", frames)
    numbered(tmp_path / "xtrain" / "003" / "short", frames[:4])
    clips = find_clips([tmp_path / "xtrain"])
    assert [clip.length for clip in clips] == [8] and clips[0].images[0].name == "0000.png"
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    video(tmp_path / "videos" / "deep" / "one.mp4", pan(ground, 2, 30))
    (tmp_path / "videos" / "notes.txt").write_text("not a video")
    found = find_clips([tmp_path / "videos", vimeo])
    assert [clip.length for clip in found] == [30, 7, 7]


def test_what_is_no_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="is no folder"):
        find_clips([tmp_path / "absent"])
    (tmp_path / "broken.mp4").write_bytes(b"not a video at all")
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match="0 clips under"):
        find_clips([tmp_path])
    assert "broken.mp4 is left out" in caplog.text


def test_frames_come_as_the_video_shows_them(tmp_path: Path, ground: NDArray[np.uint8]) -> None:
    """Colours within what coding costs, consecutive, without wrap-around at white; repeats dropped."""
    frames = pan(np.maximum(ground, 0), 3, 30)
    frames[5][:20] = 255
    doubled = [frame for k, frame in enumerate(frames) for _ in range(2 if k in (4, 11) else 1)]
    (tmp_path / "video").mkdir()
    video(tmp_path / "video" / "one.mkv", doubled, pixels="yuv444p")
    run = read_run(find_clips([tmp_path / "video"])[0], np.random.default_rng(1), 28)
    assert 20 <= len(run) <= 28
    nearest = [int(np.argmin([np.abs(f.astype(int) - r).mean() for f in frames])) for r in run]
    assert np.array_equal(np.diff(nearest), np.ones(len(run) - 1))
    assert max(np.abs(frames[k].astype(int) - r).mean() for k, r in zip(nearest, run, strict=True)) < 6


def test_windows_keep_motion_and_drops_the_rest(ground: NDArray[np.uint8]) -> None:
    limits = Limits()
    good = np.stack(pan(ground, 3, 7))
    motion = window_motion(good, limits)
    assert motion is not None and 2.3 < motion < 4
    assert window_motion(np.stack(pan(ground, 0, 7)), limits) is None  # at rest
    assert window_motion(np.stack(pan(ground, 3, 7)), Limits(max_motion=2)) is None  # too fast
    uneven = pan(ground, 3, 9)
    assert window_motion(np.stack([*uneven[:3], *uneven[5:9]]), limits) is None  # two frames are missing
    other = np.ascontiguousarray(good[::-1, ::-1, ::-1])
    assert window_motion(np.concatenate([good[:4], other[4:]]), limits) is None  # a cut
    flash = good.copy()
    flash[3] = np.clip(flash[3].astype(int) + 90, 0, 255)
    assert window_motion(flash, limits) is None
    damaged = good.copy()
    damaged[3, 20:70, 10:90] = 128
    assert window_motion(damaged, limits) is None
    repeated = good.copy()
    repeated[4] = repeated[3]
    assert window_motion(repeated, limits) is None


def test_crops_are_where_something_moves() -> None:
    one = np.zeros((200, 400, 3), np.uint8)
    two = one.copy()
    two[20:60, 300:340] = 255
    places = [most_changing_crop(one, two, np.random.default_rng(seed), 96) for seed in range(40)]
    hits = sum(left > 210 for _, left in places)
    assert hits > 22  # a random place would hit in a third of all cases


def test_windows_are_consecutive_and_at_two_scales(ground: NDArray[np.uint8]) -> None:
    big = [np.asarray(cv2.resize(f, (200, 200), interpolation=cv2.INTER_CUBIC)) for f in pan(ground, 2, 16)]
    motions = []
    for seed in range(8):
        for window in cut_windows(big, np.random.default_rng(seed), 64, 7, Limits()):
            assert window.frames.shape == (7, 64, 64, 3)
            motions.append(window.motion)
    # 4.2 px a frame at native scale (2 px made larger), 2.1 at half
    assert any(m < 3 for m in motions) and any(m > 3.4 for m in motions)
    assert cut_windows(big, np.random.default_rng(0), 256, 7, Limits()) == []
    assert cut_windows(big[:5], np.random.default_rng(0), 64, 7, Limits()) == []


def test_a_shard_of_clips_and_its_samples(tmp_path: Path, ground: NDArray[np.uint8]) -> None:
    numbered(tmp_path / "a", pan(ground, 3, 20))
    source = ClipSource((tmp_path,), size=64)
    arrays = source.make(0, 3)
    assert arrays["frames"].shape == (3, 7, 64, 64, 3) and arrays["motion"].shape == (3,)
    again = source.make(0, 3)
    assert np.array_equal(arrays["frames"], again["frames"])
    window = arrays["frames"][1]
    seen = set()
    for seed in range(60):
        sample = source.sample(arrays, 1, np.random.default_rng(seed))
        place = {name: next(k for k in range(7) if np.array_equal(window[k], sample[name]))
                 for name in ("before", "a", "target", "b", "after") if name in sample}  # fmt: skip
        gap = place["b"] - place["a"]
        assert float(sample["t"]) == pytest.approx((place["target"] - place["a"]) / gap)
        if "before" in sample:
            assert place["before"] == place["a"] - gap and place["after"] == place["b"] + gap
        seen.add((gap, "before" in sample))
    assert {gap for gap, _ in seen} == {2, 3, 4, 6} and (2, True) in seen


def test_fast_windows_are_not_stretched(tmp_path: Path) -> None:
    arrays = {"frames": np.zeros((1, 7, 8, 8, 3), np.uint8), "motion": np.array([21.0], np.float32)}
    times = {float(ClipSource((tmp_path,)).sample(arrays, 0, np.random.default_rng(k))["t"]) for k in range(60)}
    assert times == {0.5}


def test_clips_without_motion_are_refused(tmp_path: Path, ground: NDArray[np.uint8]) -> None:
    numbered(tmp_path / "a", pan(ground, 0.01, 9))
    with pytest.raises(InputError, match="without a usable window"):
        ClipSource((tmp_path,), size=64).make(0, 1)
    with pytest.raises(InputError, match="5 or 7"):
        ClipSource((tmp_path,), length=6)
