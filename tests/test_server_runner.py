"""The runner on small real videos: what a job leaves behind, and how its marks are reckoned."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from midframe.errors import Interrupted, MediaError
from midframe.result import LowConfidence
from midframe.server import job_runner, prediction, video_inspection
from midframe.server.backend import Progress, Task
from midframe.speed import SpeedMap
from test_rife import SMALL, state_of


def video(path: Path, frames: int = 24, rate: int = 24, codec: str = "libx264", pixels: str = "yuv420p") -> Path:
    y, x = np.mgrid[:48, :64]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(frames):
            image = np.stack([x * 3, y * 4, 0 * x + 90], -1).astype(np.uint8)
            image[10:30, 2 * i % 40 : 2 * i % 40 + 16] = (250, 240, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def run(source: Path, folder: Path, cancel: threading.Event | None = None, **options: Any) -> Mapping[str, Any]:
    folder.mkdir(exist_ok=True)
    told: list[tuple[Progress, bytes | None]] = []
    task = Task("0" * 16, "full", str(source), str(folder), {"model": "blend", **options}, None, "cpu")
    outcome = job_runner.run_job(task, lambda *step: told.append(step), cancel or threading.Event())
    assert any(image and image.startswith(b"\xff\xd8") for _, image in told)  # JPEG
    assert told[-1][0].stage == "comparison"
    json.dumps(outcome)
    return outcome


def test_a_preview_is_what_a_browser_plays(tmp_path: Path) -> None:
    source = video(tmp_path / "video.mp4", frames=48)
    outcome = run(source, tmp_path / "job", fps="60", start=0.5, end=1.5)
    after, before = tmp_path / "job" / outcome["after"], tmp_path / "job" / outcome["before"]
    assert outcome["after"] == outcome["result"]
    assert times(after) == pytest.approx([i / 60 for i in range(60)], abs=1e-3)
    assert times(before) == pytest.approx([i / 24 for i in range(24)], abs=1e-3)  # at its own rate, from 0 on
    for path in (before, after):
        data = path.read_bytes()
        assert data.find(b"moov") < data.find(b"mdat")  # playing starts before the whole file is there
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


def test_what_browsers_do_not_play_gets_a_twin(tmp_path: Path) -> None:
    source = video(tmp_path / "video.mkv", codec="ffv1", pixels="yuv444p")
    outcome = run(source, tmp_path / "job", ratio="2", container="mkv")
    assert outcome["result"] == "result.mkv"
    assert outcome["after"] == "after.mp4"
    assert len(times(tmp_path / "job" / "after.mp4")) == 48
    with av.open(str(tmp_path / "job" / "after.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    source = video(tmp_path / "video.mp4")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        run(source, tmp_path / "job", stop)
    outcome = run(source, tmp_path / "job")
    assert len(times(tmp_path / "job" / outcome["result"])) == 48
    assert outcome["pixels"] == 64 * 48 * 48


def test_stills_are_what_is_shown_then_and_turned(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    source = video(tmp_path / "video.mp4")
    decoded = cv2.imdecode(
        np.frombuffer(video_inspection.make_still(str(source), 0.5, 4096, True), np.uint8), cv2.IMREAD_COLOR
    )
    assert decoded.shape == (48, 64, 3)
    row = decoded[20, :, 2] > 215  # the yellow square of frame 12 begins at column 24
    assert abs(int(np.flatnonzero(row)[0]) - 24) <= 1
    assert len(video_inspection.make_still(str(source), 99.0, 64, True)) > 100  # after the end: something, not nothing


@pytest.mark.parametrize(("rotation", "corner"), [(0, (2, 2)), (90, (2, -3)), (180, (-3, -3)), (270, (-3, 2))])
def test_stills_are_turned_clockwise_as_players_do(
    monkeypatch: pytest.MonkeyPatch, rotation: int, corner: tuple[int, int]
) -> None:
    cv2 = pytest.importorskip("cv2")
    image = torch.zeros(3, 48, 64)
    image[:, :8, :8] = 1.0  # white at the top left
    monkeypatch.setattr("midframe.colour.to_rgb", lambda planes, form: image)
    data = video_inspection.jpeg(SimpleNamespace(planes=(), format=None), 4096, rotation)  # type: ignore[arg-type]
    turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert turned.shape == ((48, 64) if rotation % 180 == 0 else (64, 48))
    assert turned[corner] > 200
    assert turned.mean() < 30


def test_probe_says_what_the_page_shows(tmp_path: Path) -> None:
    said = json.loads(json.dumps(video_inspection.probe_video(str(video(tmp_path / "video.mp4")))))
    assert (said["width"], said["height"], said["frames"], said["rate"]) == (64, 48, 24, "24")
    assert said["duration"] == pytest.approx(1.0, abs=0.05)
    (tmp_path / "text.mp4").write_text("no video " * 99)
    with pytest.raises(MediaError):
        video_inspection.probe_video(str(tmp_path / "text.mp4"))


def test_marks_are_seconds_of_the_result() -> None:
    low = (LowConfidence(11, 0.7, (0.1, 0.2, 0.3, 0.4)), LowConfidence(1, 0.9))
    result = SimpleNamespace(kinds="sisihhssdddi", rate=Fraction(10), cuts=(Fraction(6, 10),), low_confidence=low)
    found = job_runner.marks(result, Fraction(1, 10), SpeedMap.constant(Fraction(1, 2)))
    assert found["holds"] == [[0.4, 0.6]]
    assert found["duplicates"] == [[0.8, 1.1]]
    assert found["cuts"] == [1.0]  # (0.6 - 0.1) seconds of the source, twice as slow
    assert found["low_confidence"] == [[0.1, 0.9], [1.1, 0.7]]
    assert found["regions"] == [None, (0.1, 0.2, 0.3, 0.4)]


def test_size_follows_the_quality() -> None:
    for crf in (10.0, 16.0, 22.0):
        measured = 0.3 * 2 ** ((16 - crf) / 6)
        assert prediction.at_crf_16(measured, crf) == pytest.approx(0.3)
    assert prediction.at_crf_16(0.3, None) == 0.3


@pytest.mark.parametrize("options", [{"fps": "60"}, {"slowmo": "4"}, {"ratio": "2.5", "start": 1.0, "end": 3.5}, {}])
def test_results_are_named_as_by_the_command_line(options: dict[str, Any]) -> None:
    from midframe.plan import default_target

    given = prediction.parse_options(options)
    predicted = prediction.predict({"rate": "24", "duration": 9, "width": 8, "height": 8}, options, None, "nothing")
    expected = default_target(Path("my clip.mp4"), given, predicted.rate).name
    assert prediction.output_name("my clip.mp4", options, predicted.rate) == expected


@pytest.mark.parametrize(
    ("options", "frames"), [({}, 360), ({"fps": "30"}, 90), ({"vfr": "keep"}, 247), ({"vfr": "keep", "end": 1.5}, 123)]
)
def test_a_variable_rate_is_predicted_by_its_duration(options: dict[str, Any], frames: int) -> None:
    """A screen recording of 3 s has 124 frames, not the 180 of its rate."""
    info = {"rate": "60", "duration": 3, "frames": 124, "vfr": True, "width": 8, "height": 8}
    predicted = prediction.predict(info, options, None, "nothing")
    assert predicted.frames == frames and predicted.duration == Fraction(options.get("end", 3))


def test_speed_ramps_are_predicted_and_mapped_to_the_source() -> None:
    options = {"fps": "10", "speed": "1-2:0.5", "start": 0.5}
    info = {"rate": "10", "duration": 4, "frames": 40, "width": 8, "height": 8}
    assert prediction.predict(info, options, None, "nothing").frames == 45  # 0.5 s, then 1 s in two, then 2 s
    result = SimpleNamespace(kinds="s" * 45, rate=Fraction(10), cuts=(Fraction(3),), low_confidence=())
    found = job_runner.marks(result, Fraction(1, 2), prediction.pace_of(prediction.parse_options(options)))
    assert found["cuts"] == [3.5]
    pairs = {round(out, 3): source for out, source in found["source_times"]}
    assert pairs[0.0] == 0.0 and found["source_times"][-1] == [4.5, 3.5]
    assert all(b[1] >= a[1] for a, b in pairwise(found["source_times"]))


def test_a_preview_predicts_the_whole_run() -> None:
    """Loading takes 6 s here and a megapixel 0.1 s: the mean speed of a preview would be wrong by a factor of four."""
    info = {"rate": "24", "duration": 600, "width": 1000, "height": 1000}
    preview = {"seconds": 6 + 12.0, "pixels": 120e6, "bits": 24e6, "steady_seconds": 11.9, "steady_pixels": 119e6}
    learned = prediction.measured_speed(preview, None)
    predicted = prediction.predict(info, {"ratio": "2"}, learned, "this video")
    truth = 6 + 28_800 * 0.1
    assert predicted.work_seconds is not None and 1 / 1.05 < predicted.work_seconds / truth < 1.05


def test_rife_from_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in the cache make the model one of the page's; a job by it runs in the server's own subprocess."""
    pytest.importorskip("httpx2")
    import server_fakes
    from test_server_kill import Server

    monkeypatch.setenv("MIDFRAME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "rife").mkdir(parents=True)
    torch.save(state_of(SMALL["4.6"]), tmp_path / "cache" / "rife" / "flownet.pkl")
    source = video(tmp_path / "video.mp4", frames=6)

    def command(port: int, data: Path) -> list[str]:
        words = ["serve", "--port", str(port), "--data", str(data), "--model", "rife", "--device", "cpu"]
        return [sys.executable, "-m", "midframe", *words]

    with Server(command, tmp_path / "data") as server:
        assert "rife" in server.http.get("/server").json()["models"]
        sent = server.http.post(
            "/jobs",
            files={"file": ("video.mp4", source.read_bytes())},
            data={"model": "rife", "ratio": "3"},
            timeout=300.0,
        )
        assert sent.status_code == 201, sent.text
        where = f"/jobs/{sent.json()['id']}"
        job = server_fakes.wait_for(
            lambda: server.http.get(where).json(), lambda job: job["state"] in ("done", "failed"), 300.0
        )
        assert job["state"] == "done", job["error"]
        report = server.http.get(f"{where}/files/report").json()
    assert (report["plan"]["model"], report["frames_out"]) == ("rife", 18)
    assert report["kinds"].startswith("sii" * 5)
