"""The API against fakes: uploads, sources, plans, jobs, events, results. Real worker processes, no network."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from fastapi.testclient import TestClient

import server_fakes
from midframe.server.app import create_app
from midframe.server.services import Services
from midframe.server.settings import Limits, Settings
from midframe.server.store import MeasuredSpeed, Store

BASE = "http://127.0.0.1"


class Api:
    """A client that knows the server's words."""

    def __init__(self, http: TestClient) -> None:
        self.http = http

    @property
    def services(self) -> Services:
        return self.http.app.state.services

    def upload(self, data: bytes, name: str = "video.mp4") -> dict[str, Any]:
        source = self.http.post("/api/v1/sources", json={"name": name, "size": len(data)}).json()
        assert self.http.put(f"/api/v1/sources/{source['id']}/content", content=data).status_code == 200
        return self.settled(source["id"])

    def settled(self, id: str) -> dict[str, Any]:
        return server_fakes.wait_for(
            lambda: self.http.get(f"/api/v1/sources/{id}").json(), lambda s: s["state"] in ("ready", "refused")
        )

    def add(self, source: str, **job: Any) -> dict[str, Any]:
        answer = self.http.post("/api/v1/jobs", json={"source": source, **job})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def job(self, id: str) -> dict[str, Any]:
        return self.http.get(f"/api/v1/jobs/{id}").json()

    def until(self, id: str, *states: str) -> dict[str, Any]:
        return server_fakes.wait_for(lambda: self.job(id), lambda job: job["state"] in states)

    def ask(self, id: str, what: str) -> int:
        return self.http.post(f"/api/v1/jobs/{id}/{what}").status_code


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server for the tests that leave nothing behind that others mind."""
    limits = Limits(probe_seconds=1.0, probe_bytes=None)
    with TestClient(
        create_app(Settings(data=tmp_path_factory.mktemp("data"), limits=limits), server_fakes.bench()), BASE
    ) as http:
        yield Api(http)


def test_upload_probe_run_fetch(api: Api) -> None:
    source = api.upload(server_fakes.video(steps=4), "../../holiday \u202evideo.mov")
    assert source["state"] == "ready"
    assert source["name"] == "holiday video.mov"
    assert source["info"]["width"] == 64
    job = api.until(api.add(source["id"], options={"fps": "59.94"})["id"], "done", "failed")
    assert job["state"] == "done"
    assert job["warnings"] == ["a warning"]
    assert job["progress"]["frames"] == 4
    result = api.http.get(f"/api/v1/jobs/{job['id']}/files/result")
    assert result.content == b"result of " + job["id"].encode()
    assert "filename*=utf-8" in result.headers["content-disposition"]
    assert "holiday%20video.59.9401fps.mp4" in result.headers["content-disposition"]
    part = api.http.get(f"/api/v1/jobs/{job['id']}/files/after", headers={"range": "bytes=7-8"})
    assert (part.status_code, part.content) == (206, b"of")
    assert api.http.get(f"/api/v1/jobs/{job['id']}/marks").json()["cuts"] == [1.5]
    report = api.http.get(f"/api/v1/jobs/{job['id']}/files/report").json()
    assert report["options"]["fps"] == "59.94"


def test_upload_in_pieces_and_after_a_break(api: Api) -> None:
    data = server_fakes.video(steps=1, filling="x" * 5000)
    source = api.http.post("/api/v1/sources", json={"name": "a.mp4", "size": len(data)}).json()
    url = f"/api/v1/sources/{source['id']}/content"
    assert api.http.put(url, content=data[:1000]).json()["received"] == 1000
    wrong = api.http.put(url, content=data)  # from the start again
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "wrong_offset")
    assert api.http.put(url, params={"offset": 2000}, content=data[2000:]).status_code == 409

    def broken() -> Iterator[bytes]:  # a body of unknown length that is larger than was announced
        yield data[1000:3000]
        yield b"y" * len(data)

    assert api.http.put(url, params={"offset": 1000}, content=broken()).status_code == 413
    received = api.http.get(f"/api/v1/sources/{source['id']}").json()["received"]
    assert received == 1000  # the piece before the surplus was not a whole one
    api.http.put(url, params={"offset": received}, content=data[received:])
    assert api.settled(source["id"])["state"] == "ready"
    assert Path(api.services.store.source(source["id"]).path).read_bytes() == data
    again = api.http.put(url, params={"offset": len(data)}, content=b"")
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"some text that somebody called video.mp4", "unreadable"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "unreadable"),
        (b"\xef\xbb\xbf \nffconcat version 1.0\nfile /etc/passwd\n", "unreadable"),
        (b"\0\0\0\0<MPD urn:mpeg:dash:profile:isoff-live:2011", "unreadable"),
        (server_fakes.video(info={"container": "hls,applehttp"}), "unreadable"),
        (server_fakes.video(info={"width": 100_000, "height": 100_000}), "too_many_pixels"),
        (server_fakes.video(info={"duration": 1e6}), "too_long"),
        (server_fakes.video(info={"duration": None}), "unreadable"),
        (server_fakes.video(probe="die"), "unreadable"),
        (server_fakes.video(probe="hang"), "too_slow"),
    ],
    ids=["text", "hls", "concat", "dash", "hls container", "pixels", "long", "no length", "probe dies", "probe hangs"],
)
def test_refused_sources(api: Api, data: bytes, code: str) -> None:
    source = api.upload(data)
    assert (source["state"], source["error"]["code"]) == ("refused", code)
    assert api.http.post("/api/v1/jobs", json={"source": source["id"]}).status_code == 409
    assert api.http.get(f"/api/v1/sources/{source['id']}/still").status_code == 409
    assert api.upload(server_fakes.video())["state"] == "ready"  # and the server goes on


def test_still_and_mask(api: Api) -> None:
    source = api.upload(server_fakes.video())
    base = f"/api/v1/sources/{source['id']}"
    still = api.http.get(f"{base}/still", params={"at": 1.5, "width": 64})
    assert still.headers["content-type"] == "image/jpeg"
    assert still.content == server_fakes.JPEG
    requested = {"source": source["id"], "options": {"use_mask": True}}
    assert api.http.post("/api/v1/jobs", json=requested).status_code == 422
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (64).to_bytes(4, "big") + (48).to_bytes(4, "big") + b"rest"
    assert api.http.put(f"{base}/mask", content=png.replace(b"\0\0\0@", b"\0\0\0A")).status_code == 422
    assert api.http.put(f"{base}/mask", content=b"<svg/>").status_code == 422
    assert api.http.put(f"{base}/mask", content=png).json()["mask"] is True
    job = api.until(api.add(**requested)["id"], "done")
    report = api.http.get(f"/api/v1/jobs/{job['id']}/files/report").json()
    assert Path(report["mask"]).read_bytes() == png
    assert api.http.delete(f"{base}/mask").status_code == 204
    assert api.http.get(base).json()["mask"] is False


def test_plan(api: Api) -> None:
    source = api.upload(server_fakes.video(), "-my video's.mp4")

    def plan(**options: Any) -> dict[str, Any]:
        answer = api.http.post("/api/v1/plans", json={"source": source["id"], "options": options})
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert plan()["frames"] == 480  # 2x
    assert plan(fps="60")["frames"] == 601  # ceil(240 * 60 * 1001 / 24000)
    assert plan(fps="59.94")["rate"] == "60000/1001"
    assert plan(slowmo="4")["frames"] == 960
    assert plan(slowmo="4")["rate"] == "24000/1001"
    assert plan(fps="60", start=1, end=3)["frames"] == 120
    said = plan(fps="60000/1001", scene="off", crf=18, audio=False)
    words = shlex.split(said["command_line"])
    assert words[:3] == ["midframe", "interpolate", "./-my video's.mp4"]
    assert words[words.index("--fps") + 1] == "60000/1001"
    assert words[words.index("--scene") + 1] == "off"
    assert words[words.index("--crf") + 1] == "18"
    assert "--no-audio" in words
    called = said["python"].splitlines()[-1]
    given = eval(called.replace("midframe.interpolate", "dict_of"), {"dict_of": lambda a, b, **k: (a, b, k)})
    assert given[0] == "-my video's.mp4"
    assert given[2] == {
        "fps": "60000/1001",
        "scene": "off",
        "crf": "18",
        "audio": False,
        "model": "dis",
    }  # as this services is set
    sizes = {"all": plan()["bytes"], "half": plan(scale="32x-2")["bytes"], "same": plan(max_size=4000)["bytes"]}
    assert (sizes["all"], sizes["half"]) == (sizes["same"], pytest.approx(sizes["all"] / 4, rel=0.05))
    assert "--scale 32:-2" in plan(scale="32x-2")["command_line"]
    assert "--max-size 40" in plan(max_size=40)["command_line"]
    for wrong in (
        {"scale": "32x-2", "max_size": 40},
        {"scale": "wide"},
        {"scale": "0x0"},
        {"max_size": 3},
        {"fps": "60", "ratio": "2"},
        {"fps": "0"},
        {"fps": "1e9"},
        {"model": "none"},
        {"start": 11},
        {"x": 1},
    ):
        assert api.http.post("/api/v1/plans", json={"source": source["id"], "options": wrong}).status_code == 422


def test_predictions_learn_from_runs(api: Api) -> None:
    source = api.upload(server_fakes.video(steps=10))["id"]
    job = api.add(source, kind="preview", preview_start=9, preview_seconds=3)
    assert (job["options"]["start"], job["options"]["end"]) == (7.0, 10.0)  # moved into the video
    api.until(job["id"], "done")
    said = api.http.post("/api/v1/plans", json={"source": source}).json()
    assert said["basis"] == "this video"
    assert said["work_seconds"] == pytest.approx(480 / 10)  # 10 frames took one second
    assert said["bytes"] == pytest.approx(1000 / (64 * 48 * 10) * 64 * 48 * 480, rel=1e-3)
    finer = api.http.post("/api/v1/plans", json={"source": source, "options": {"crf": 10}}).json()
    assert finer["bytes"] == pytest.approx(2 * said["bytes"], rel=1e-3)


def test_pause_resume_cancel_retry(api: Api) -> None:
    source = api.upload(server_fakes.video(steps=60, pause=0.02))["id"]
    job = api.add(source)["id"]
    server_fakes.wait_for(lambda: api.job(job), lambda j: j["progress"]["frames"] >= 3)
    for name in ("frame", "picture"):  # the second is its former name
        assert api.http.get(f"/api/v1/jobs/{job}/{name}").content == server_fakes.JPEG
    progress = api.job(job)["progress"]
    assert progress["latest_frame"] >= progress["picture"] > 0
    assert api.ask(job, "resume") == 409
    assert api.ask(job, "pause") == 200
    api.until(job, "paused")
    assert api.ask(job, "pause") == 409
    assert api.http.delete(f"/api/v1/jobs/{job}").status_code == 409
    done = int((api.services.job_folder(job) / "count").read_text())
    assert 3 <= done < 60
    assert api.ask(job, "resume") == 200
    api.until(job, "running")
    assert api.ask(job, "cancel") == 200
    api.until(job, "cancelled")
    assert api.ask(job, "retry") == 200
    api.until(job, "done")
    starts = [int(line.split()[1]) for line in (api.services.job_folder(job) / "log.txt").read_text().splitlines()]
    assert starts[0] == 0
    assert starts[1:] == sorted(starts[1:])
    assert starts[1] == done  # it went on where it was
    assert api.ask(job, "cancel") == 409
    assert api.http.delete(f"/api/v1/jobs/{job}").status_code == 204
    assert api.http.get(f"/api/v1/jobs/{job}").status_code == 404
    assert not api.services.job_folder(job).exists()


def test_queued_jobs_wait_and_previews_go_first(api: Api) -> None:
    slow = api.upload(server_fakes.video(steps=500, pause=0.02))["id"]
    quick = api.upload(server_fakes.video(steps=1))["id"]
    running = api.add(slow)["id"]
    api.until(running, "running")
    full, held, preview = api.add(quick)["id"], api.add(quick)["id"], api.add(quick, kind="preview")["id"]
    assert api.ask(held, "pause") == 200
    assert api.job(held)["state"] == "paused"
    assert api.ask(running, "cancel") == 200
    api.until(full, "done")
    assert api.job(preview)["finished"] < api.job(full)["started"]
    assert api.job(held)["state"] == "paused"
    assert api.ask(held, "cancel") == 200
    assert [j["id"] for j in api.http.get("/api/v1/jobs", params={"state": "cancelled", "limit": 2}).json()] == [
        held,
        running,
    ]


def test_a_failed_video_says_why(api: Api) -> None:
    source = api.upload(server_fakes.video(fail="the frame at 3 s is damaged"))["id"]
    job = api.until(api.add(source)["id"], "failed")
    assert job["error"] == {"code": "unreadable", "message": "the frame at 3 s is damaged"}
    assert api.http.get(f"/api/v1/jobs/{job['id']}/files/result").status_code == 404


def test_a_worker_that_dies_is_replaced(api: Api) -> None:
    once = api.until(api.add(api.upload(server_fakes.video(die_once=True))["id"])["id"], "done", "failed")
    assert once["state"] == "done"
    always = api.until(api.add(api.upload(server_fakes.video(die=True))["id"])["id"], "done", "failed")
    assert always["error"]["code"] == "worker_died"
    assert "exit code 9" in always["error"]["message"]
    assert api.until(api.add(api.upload(server_fakes.video())["id"])["id"], "done", "failed")["state"] == "done"


def test_a_worker_that_does_not_listen_is_killed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midframe.server.dispatcher.STOP_SECONDS", 0.3)
    job = api.add(api.upload(server_fakes.video(steps=10_000, deaf=True))["id"])["id"]
    server_fakes.wait_for(lambda: api.job(job), lambda j: j["progress"]["frames"] > 1)
    api.ask(job, "cancel")
    assert api.until(job, "cancelled", "failed")["state"] == "cancelled"


def test_a_runner_cannot_name_files_elsewhere(api: Api) -> None:
    job = api.until(api.add(api.upload(server_fakes.video(result="../../jobs.sqlite"))["id"])["id"], "failed", "done")
    assert job["error"]["code"] == "internal"


def test_events_tell_everything_once_and_then_what_changes(api: Api) -> None:
    source = api.upload(server_fakes.video(steps=3))["id"]
    job = api.until(api.add(source)["id"], "done")["id"]
    answer = api.http.get("/api/v1/events", params={"follow": False})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    kinds = [lines[0] for lines in events]
    assert kinds[-1] == "event: ready"
    told = [json.loads(lines[1].removeprefix("data: ")) for lines in events if lines[0] == "event: job"]
    assert [j["state"] for j in told if j["id"] == job] == ["done"]
    assert len(told) == len({j["id"] for j in told})


def test_limits(tmp_path: Path) -> None:
    limits = Limits(upload_bytes=1000, jobs_per_client=2, uploads_per_client=3, frames=1000, probe_bytes=None)
    with TestClient(create_app(Settings(data=tmp_path, limits=limits), server_fakes.bench()), BASE) as http:
        api = Api(http)
        assert http.post("/api/v1/sources", json={"name": "a", "size": 1001}).json()["error"]["code"] == "too_large"
        source = api.upload(server_fakes.video(steps=1000, pause=0.05))["id"]
        assert http.post("/api/v1/sources", json={"name": "a"}).status_code == 422
        for _ in range(3):
            assert http.post("/api/v1/sources", json={"name": "a", "size": 10}).status_code == 201
        assert http.post("/api/v1/sources", json={"name": "a", "size": 10}).status_code == 429
        many = {"source": source, "options": {"fps": "240"}}
        assert http.post("/api/v1/jobs", json=many).json()["error"]["code"] == "too_many_frames"
        jobs = [api.add(source)["id"] for _ in range(2)]
        assert http.post("/api/v1/jobs", json={"source": source}).json()["error"]["code"] == "too_many_jobs"
        assert http.delete(f"/api/v1/sources/{source}").status_code == 409
        for job in jobs:
            api.ask(job, "cancel")
            api.until(job, "cancelled")
        assert http.delete(f"/api/v1/sources/{source}").status_code == 204
        assert api.ask(jobs[0], "retry") == 200
        assert api.until(jobs[0], "failed")["error"]["code"] == "source_gone"


def test_one_request_uploads_and_queues(api: Api) -> None:
    video = {"file": ("clip of mine.mp4", server_fakes.video(steps=1))}
    answer = api.http.post("/api/v1/jobs", data={"fps": "59.94", "audio": "false", "crf": "20"}, files=video)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert job["output_name"] == "clip of mine.59.9401fps.mp4" and job["kind"] == "full"
    assert (job["options"]["audio"], job["options"]["crf"], job["rate"]) == (False, 20.0, "60000/1001")
    assert api.until(job["id"], "done")["state"] == "done"
    source = api.http.get(f"/api/v1/sources/{job['source']}").json()
    assert source["size"] == source["received"] == len(video["file"][1])


@pytest.mark.parametrize(
    ("fields", "file", "status", "code"),
    [
        ({"fps": "fast"}, ("a.mp4", server_fakes.video()), 422, "invalid"),
        ({"colour": "red"}, ("a.mp4", server_fakes.video()), 422, "invalid"),
        ({}, ("a.mp4", b"a letter"), 422, "unreadable"),
        ({}, ("a.mp4", b""), 422, "invalid"),
        ({"x": "y" * 70_000}, ("a.mp4", server_fakes.video()), 413, "too_large"),
    ],
)
def test_one_request_that_is_refused_leaves_nothing(
    api: Api, fields: dict[str, str], file: tuple[str, bytes], status: int, code: str
) -> None:
    before = {source["id"] for source in api.http.get("/api/v1/sources").json()}
    answer = api.http.post("/api/v1/jobs", data=fields, files={"file": file})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert {source["id"] for source in api.http.get("/api/v1/sources").json()} == before
    folders = {path.name for path in (api.services.settings.data / "sources").iterdir()}
    assert folders <= before


def test_one_request_keeps_to_the_limits(tmp_path: Path) -> None:
    limits = Limits(upload_bytes=1000, probe_bytes=None)
    with TestClient(create_app(Settings(data=tmp_path, limits=limits), server_fakes.bench()), BASE) as http:
        for body in (b"x" * 5000, server_fakes.video(filling="x" * 5000)):
            refused = http.post("/api/v1/jobs", files={"file": ("a.mp4", body)})
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
        headers = {"content-type": "multipart/form-data; boundary=x"}
        cut_off = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
        for body in (b"", b"--x\r\n", cut_off):
            assert http.post("/api/v1/jobs", content=body, headers=headers).status_code == 422
        assert not list((tmp_path / "sources").glob("*"))


def test_queued_jobs_can_be_moved(api: Api) -> None:
    slow = api.upload(server_fakes.video(steps=1000, pause=0.05))["id"]
    running = api.add(slow)["id"]
    api.until(running, "running")
    a, b, c = (api.add(slow)["id"] for _ in "abc")
    preview = api.add(slow, kind="preview")["id"]

    def order() -> list[str]:
        queued = [job for job in api.http.get("/api/v1/jobs?state=queued").json() if job["kind"] == "full"]
        return [job["id"] for job in sorted(queued, key=lambda job: job["position"])]

    assert order() == [a, b, c]
    for moved, before, after in (
        (c, a, [c, a, b]),
        (a, None, [c, b, a]),
        (a, b, [c, a, b]),
        (b, b, [c, a, b]),
        (c, b, [a, c, b]),
    ):
        assert api.http.post(f"/api/v1/jobs/{moved}/move", json={"before": before}).status_code == 200
        assert order() == after
    assert api.http.post(f"/api/v1/jobs/{running}/move", json={}).status_code == 409
    assert api.http.post(f"/api/v1/jobs/{a}/move", json={"before": running}).status_code == 409
    assert api.http.post(f"/api/v1/jobs/{a}/move", json={"before": preview}).status_code == 409
    for id in (b, c, preview, running):
        api.ask(id, "cancel")
    api.until(a, "running")
    api.ask(a, "cancel")
    api.until(a, "cancelled")


def test_a_store_of_the_first_version_is_read(tmp_path: Path) -> None:
    import sqlite3

    old = sqlite3.connect(tmp_path / "jobs.sqlite")
    old.executescript(
        "CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL,"
        " source TEXT NOT NULL, kind TEXT NOT NULL, options TEXT NOT NULL, about TEXT NOT NULL, state TEXT NOT NULL,"
        " wish TEXT, progress TEXT, outcome TEXT, error TEXT, crashes INTEGER NOT NULL DEFAULT 0, device TEXT,"
        " client TEXT NOT NULL,"
        " created REAL NOT NULL, started REAL, finished REAL);"
        "CREATE TABLE speeds (number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, source TEXT NOT NULL,"
        " pixels_per_second REAL NOT NULL, bits_per_pixel REAL NOT NULL);"
        "INSERT INTO jobs (id, source, kind, options, about, state, wish, client, created)"
        " VALUES ('a', 's', 'full', '{}', '{}', 'running', 'pause', 'c', 1), ('b', 's', 'full', '{}', '{}', 'queued',"
        " NULL, 'c', 2); INSERT INTO speeds VALUES (1, 'dis', 's', 100, 0.5); PRAGMA user_version = 1"
    )
    old.close()
    store = Store(tmp_path / "jobs.sqlite")
    store.recover()
    assert [(job.id, job.state, job.position) for job in store.jobs()] == [("b", "queued", 2.0), ("a", "paused", 1.0)]
    assert store.learned("dis", "s") == MeasuredSpeed(100.0, 0.5, 0.0)
    store.close()


def test_uploads_that_never_come_expire(tmp_path: Path) -> None:
    limits = Limits(announced_seconds=100.0, upload_seconds=1000.0, uploads_per_client=2, probe_bytes=None)
    with TestClient(create_app(Settings(data=tmp_path, limits=limits), server_fakes.bench()), BASE) as http:
        announced, begun = (http.post("/api/v1/sources", json={"name": "v.mp4", "size": 9}).json()["id"] for _ in "ab")
        assert http.put(f"/api/v1/sources/{begun}/content", content=b"some").json()["received"] == 4
        assert http.post("/api/v1/sources", json={"name": "v.mp4", "size": 9}).status_code == 429
        services: Services = http.app.state.services
        services.expire(time.time() + 99)
        assert http.get(f"/api/v1/sources/{announced}").status_code == 200
        services.expire(time.time() + 101)
        assert http.get(f"/api/v1/sources/{announced}").status_code == 404
        assert http.get(f"/api/v1/sources/{begun}").json()["received"] == 4  # it may be resumed
        assert http.post("/api/v1/sources", json={"name": "v.mp4", "size": 9}).status_code == 201
        services.expire(time.time() + 1001)
        assert http.get(f"/api/v1/sources/{begun}").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [("bytes=26-", 416, "range_not_satisfiable"), ("bytes=9-3", 400, "bad_range"), ("bytes=x", 400, "bad_range")],
)
def test_ranges_that_cannot_be_served_are_refused_as_json(api: Api, asked: str, status: int, code: str) -> None:
    job = api.until(api.add(api.upload(server_fakes.video(steps=1))["id"])["id"], "done")["id"]
    answer = api.http.get(f"/api/v1/jobs/{job}/files/result", headers={"range": asked})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("content-range") == ("bytes */26" if status == 416 else None)


def test_head_is_answered_as_get_without_a_body(api: Api) -> None:
    job = api.until(api.add(api.upload(server_fakes.video(steps=1))["id"])["id"], "done")["id"]
    for path in ("/", "/static/page.js", "/api/v1/server", f"/api/v1/jobs/{job}", f"/api/v1/jobs/{job}/files/result"):
        head, get = api.http.head(path), api.http.get(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-length"] == str(len(get.content)), path
        assert head.headers["content-type"] == get.headers["content-type"], path
    assert api.http.head("/api/v1/events").status_code == 200  # ends at once
    assert api.http.head("/api/v1/jobs/0123456789abcdef").status_code == 404
    assert api.http.head("/api/v1/plans").status_code == 405


def test_a_bug_is_answered_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(data=tmp_path, limits=Limits(probe_bytes=None)), server_fakes.bench())
    with TestClient(app, BASE, raise_server_exceptions=False) as http:
        monkeypatch.setattr(app.state.services.store, "counts", lambda: 1 / 0)
        answer = http.get("/api/v1/server")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")


def test_rates_may_be_numbers(api: Api) -> None:
    source = api.upload(server_fakes.video())["id"]
    for given, rate in ((60, "60"), ("60", "60"), (59.94, "60000/1001"), (23.5, "47/2")):
        plan = api.http.post("/api/v1/plans", json={"source": source, "options": {"fps": given}})
        assert plan.json()["rate"] == rate, given
    assert api.add(source, options={"ratio": 2.5})["options"]["ratio"] == "2.5"
    for wrong in (True, -1, 1e12, [60], {}, "sixty"):
        assert api.http.post("/api/v1/plans", json={"source": source, "options": {"fps": wrong}}).status_code == 422
    raw = f'{{"source": "{source}", "options": {{"fps": NaN}}}}'
    headers = {"content-type": "application/json"}
    assert api.http.post("/api/v1/plans", content=raw, headers=headers).status_code == 422


def test_expiry_by_age_and_by_size(tmp_path: Path) -> None:
    limits = Limits(keep_seconds=100.0, keep_bytes=12_000, probe_bytes=None)
    with TestClient(create_app(Settings(data=tmp_path, limits=limits), server_fakes.bench()), BASE) as http:
        api = Api(http)
        first = api.upload(server_fakes.video(steps=1, filling="x" * 9000))["id"]
        done = api.until(api.add(first)["id"], "done")["id"]
        second = api.upload(server_fakes.video(steps=1, filling="x" * 9000))["id"]
        waiting = api.add(api.upload(server_fakes.video(steps=1000, pause=0.05))["id"])["id"]
        api.services.expire(time.time())  # 18 kB: the oldest go until 12 kB are left
        assert [http.get(f"/api/v1/sources/{id}").status_code for id in (first, second)] == [404, 200]
        assert not api.services.source_folder(first).exists()
        assert http.get(f"/api/v1/jobs/{done}").status_code == 200  # younger than the source
        api.services.expire(time.time() + 101)
        assert http.get(f"/api/v1/jobs/{done}").status_code == 404
        assert http.get(f"/api/v1/sources/{second}").status_code == 404
        assert api.job(waiting)["state"] == "running"  # nothing unfinished goes
        stray = tmp_path / "jobs" / "0123456789abcdef"
        stray.mkdir()
        api.services.expire(time.time())
        assert stray.exists()  # perhaps just made
        import os

        os.utime(stray, (1, 1))
        api.services.expire(time.time())
        assert not stray.exists()


def test_a_restart_keeps_sources_jobs_and_uploads(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, limits=Limits(probe_bytes=None))
    data = server_fakes.video(steps=300, pause=0.02)
    with TestClient(create_app(settings, server_fakes.bench()), BASE) as http:
        api = Api(http)
        source = api.upload(data)["id"]
        running, queued = api.add(source)["id"], api.add(source)["id"]
        half = http.post("/api/v1/sources", json={"name": "b.mp4", "size": len(data)}).json()["id"]
        http.put(f"/api/v1/sources/{half}/content", content=data[:20])
        server_fakes.wait_for(lambda: api.job(running), lambda j: j["progress"]["frames"] >= 2)
    with TestClient(create_app(settings, server_fakes.bench()), BASE) as http:
        api = Api(http)
        server_fakes.wait_for(
            lambda: api.job(running), lambda j: j["state"] == "running" and j["progress"]["frames"] >= 4
        )
        log = (api.services.job_folder(running) / "log.txt").read_text().splitlines()
        assert int(log[1].split()[1]) >= 2
        assert api.job(queued)["state"] == "queued"
        assert http.get(f"/api/v1/sources/{half}").json()["received"] == 20
        http.put(f"/api/v1/sources/{half}/content", params={"offset": 20}, content=data[20:])
        assert api.settled(half)["state"] == "ready"


def test_later_answers_have_larger_revisions(api: Api) -> None:
    source = api.upload(server_fakes.video(steps=1))
    job = api.add(source["id"])
    later = [api.job(job["id"])["revision"] for _ in range(3)]
    assert [job["revision"], *later] == sorted({job["revision"], *later})
    assert api.http.get(f"/api/v1/sources/{source['id']}").json()["revision"] > source["revision"]


def test_openapi_names_every_route_and_no_other_host(api: Api) -> None:
    document = api.http.get("/api/v1/openapi.json").json()
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    assert {"/api/v1/sources", "/api/v1/plans", "/api/v1/jobs/{id}/files/{kind}"} <= set(document["paths"])
    assert (
        "application/octet-stream" in document["paths"]["/api/v1/sources/{id}/content"]["put"]["requestBody"]["content"]
    )
    page = api.http.get("/docs").text
    assert "http:" not in page and "https:" not in page  # it loads nothing from another host
    bodies = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/json", "multipart/form-data"}
    named = {part["$ref"] for part in bodies["application/json"]["schema"]["properties"].values() if "$ref" in part}
    assert {name.split("/")[-1] for name in named} <= set(document["components"]["schemas"])
