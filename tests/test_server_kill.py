"""A server in a process of its own, killed with -9 while it works: nothing that was accepted is lost."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import server_fakes

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx2")

FAKE = [sys.executable, str(Path(__file__).with_name("server_fakes.py"))]
DONE = ("done", "failed", "cancelled")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """A server process that can be killed and started again on the same port and folder."""

    def __init__(self, command: Callable[[int, Path], list[str]], data: Path) -> None:
        self.port, self.data, self._command = free_port(), data, command
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=30.0)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command(self.port, self.data))
        server_fakes.wait_for(self._answers, bool, 60.0)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended by itself"
        try:
            return self.http.get("/server").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)

    def upload(self, data: bytes, name: str = "video.mp4") -> str:
        source = self.http.post("/sources", json={"name": name, "size": len(data)}).json()["id"]
        self.http.put(f"/sources/{source}/content", content=data).raise_for_status()
        state = server_fakes.wait_for(
            lambda: self.http.get(f"/sources/{source}").json(), lambda s: s["state"] in ("ready", "refused")
        )
        assert state["state"] == "ready", state
        return source

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        self.http.close()
        self.process.kill()
        self.process.wait(30)


def fake(port: int, data: Path) -> list[str]:
    return [*FAKE, str(port), str(data)]


def worker_of(data: Path, job: str) -> int:
    """Process id of the worker that started a job last, from the fake's log."""
    return int((data / "jobs" / job / "log.txt").read_text().splitlines()[-1].split()[2])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_kill_9_loses_nothing_and_leaves_no_worker_behind(tmp_path: Path) -> None:
    with Server(fake, tmp_path) as server:
        source = server.upload(server_fakes.video(steps=40, pause=0.02))
        jobs = [server.http.post("/jobs", json={"source": source}).json()["id"] for _ in range(3)]
        held = server.http.post("/jobs", json={"source": source}).json()["id"]
        server.http.post(f"/jobs/{held}/pause").raise_for_status()
        count = tmp_path / "jobs" / jobs[0] / "count"
        server_fakes.wait_for(lambda: count.exists() and int(count.read_text()), lambda n: n >= 5)
        worker = worker_of(tmp_path, jobs[0])
        server.kill()
        server_fakes.wait_for(lambda: alive(worker), lambda found: not found, 5.0)
        done = int(count.read_text())
        server.start()
        states = server_fakes.wait_for(
            lambda: {job: server.http.get(f"/jobs/{job}").json()["state"] for job in jobs},
            lambda states: all(state in DONE for state in states.values()),
        )
        assert set(states.values()) == {"done"}
        log = (tmp_path / "jobs" / jobs[0] / "log.txt").read_text().splitlines()
        assert int(log[1].split()[1]) == done  # it went on, it did not begin again
        assert server.http.get(f"/jobs/{held}").json()["state"] == "paused"
        answer = server.http.get(f"/jobs/{jobs[2]}/files/result")
        assert answer.content == b"result of " + jobs[2].encode()
        worker = worker_of(tmp_path, jobs[2])
        server.kill(signal.SIGTERM)  # and a polite end leaves nobody either
        assert not alive(worker)


def test_events_follow_a_job(tmp_path: Path) -> None:
    with Server(fake, tmp_path) as server:
        source = server.upload(server_fakes.video(steps=20, pause=0.05))
        seen = []
        with server.http.stream("GET", "/events") as stream:
            job = None
            for line in stream.iter_lines():
                if line == "event: ready":
                    job = server.http.post("/jobs", json={"source": source}).json()["id"]
                if line.startswith("data: ") and job is not None and job in line:
                    state = httpx.Response(200, content=line[6:].encode()).json()
                    seen.append((state["state"], state["progress"]["frames"]))
                    if state["state"] in DONE:
                        break
        assert seen[-1][0] == "done"
        frames = [n for _, n in seen]
        assert frames == sorted(frames)
        assert len({n for state, n in seen if state == "running"}) >= 2


def test_the_example_client(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(server_fakes.video(steps=2))
    script = Path(__file__).parents[1] / "examples" / "client.py"
    with Server(fake, tmp_path / "data") as server:
        environment = {**os.environ, "MIDFRAME_SERVER": f"http://127.0.0.1:{server.port}"}
        command = [sys.executable, str(script), "video.mp4", "60"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "video.60fps.mp4").read_bytes().startswith(b"result of ")


def video_of_noise(path: Path) -> bytes:
    """A small real video."""
    av = pytest.importorskip("av")
    import numpy as np

    random_numbers = np.random.default_rng(0)
    image = random_numbers.integers(0, 255, (72, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.roll(image, 2 * i, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


class Clients:
    """Twenty people at once: each asks for the queue, a job or the page, and queues jobs until all are there."""

    def __init__(self, server: Server, sources: list[str], jobs: int, people: int = 20) -> None:
        self.server, self.sources, self.wanted = server, sources, jobs
        self.accepted: list[str] = []
        self.slowest: list[tuple[float, str]] = []  # seconds and what was asked, since `measure`
        self.stills = False  # one of them also asks for frames, which are decoded
        self.wrong: list[str] = []
        self.requests = 0
        self.up = threading.Event()
        self.up.set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(n,)) for n in range(people)]
        for thread in self._threads:
            thread.start()

    def measure(self) -> None:
        with self._lock:
            self.slowest.clear()
        self.stills = True

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _live(self, number: int) -> None:
        choice = random.Random(number)
        base = f"http://127.0.0.1:{self.server.port}"
        with httpx.Client(base_url=base, timeout=30.0) as http:
            while not self._stop.wait(choice.uniform(0.1, 0.6)):
                if not self.up.wait(0.5):
                    continue
                with self._lock:
                    add = len(self.accepted) < self.wanted
                    job = choice.choice(self.accepted) if self.accepted else None
                kinds = ["/api/v1/jobs?limit=50", "/api/v1/server", "/", "/static/page.js"]
                kinds += [f"/api/v1/jobs/{job}"] if job else []
                kinds += (
                    [f"/api/v1/sources/{choice.choice(self.sources)}/still?at=0.5"]
                    if self.stills and number == 0
                    else []
                )
                what = "POST" if add else choice.choice(kinds)
                began = time.monotonic()
                try:
                    if add:
                        answer = http.post("/api/v1/jobs", json={"source": choice.choice(self.sources)})
                        if answer.status_code == 201:
                            with self._lock:
                                self.accepted.append(answer.json()["id"])
                    else:
                        answer = http.get(what)
                except httpx.TransportError:
                    continue  # the server was killed under it
                with self._lock:
                    self.requests += 1
                    if self.up.is_set():
                        self.slowest.append((time.monotonic() - began, what))
                    if answer.status_code >= 500:
                        self.wrong.append(f"{answer.status_code} {what}")


@pytest.mark.slow
def test_twenty_clients_two_hundred_jobs_ten_kills(tmp_path: Path) -> None:
    """Real videos, real runs with the model blend; prints the figures that docs/web.md quotes."""

    def command(port: int, data: Path) -> list[str]:
        return [sys.executable, "-m", "midframe", "serve", "--port", str(port), "--data", str(data), "--model", "blend",
                "--max-jobs", "1000"]  # fmt: skip

    choice = random.Random(int(os.environ.get("MIDFRAME_SEED", "0")))
    with Server(command, tmp_path / "data") as server:
        sources = [server.upload(video_of_noise(tmp_path / "video.mp4")) for _ in range(3)]
        clients = Clients(server, sources, jobs=200)
        server_fakes.wait_for(lambda: len(clients.accepted), lambda n: n >= 200, 120.0)
        for _ in range(10):
            time.sleep(choice.uniform(1.0, 4.0))
            clients.up.clear()
            server.kill()
            server.start()
            clients.up.set()
        during_kills = sorted(clients.slowest)
        warm = server.http.get(
            f"/sources/{sources[0]}/still", params={"at": 0.5}
        )  # decoder imported after the last kill
        assert warm.status_code == 200
        clients.measure()

        def counts() -> dict[str, Any]:
            return dict(server.http.get("/server").json()["counts"])

        found = server_fakes.wait_for(counts, lambda c: c["queued"] + c["running"] == 0, 900.0)
        clients.stop()
        states = {server.http.get(f"/jobs/{job}").json()["state"] for job in clients.accepted}
        print(f"\n{clients.requests} requests, {len(clients.accepted)} jobs; {found}")
        for name, times in (("between kills", during_kills), ("after them", sorted(clients.slowest))):
            seconds = [time for time, _ in times]
            print(f"{name}: {len(times)}, median {seconds[len(times) // 2]:.3f} s, slowest {times[-3:]}")
            assert seconds[-1] < 1.0
        assert not clients.wrong
        assert states == {"done"}
        assert found["done"] >= 200
        for job in clients.accepted:
            assert server.http.get(f"/jobs/{job}/files/result").headers["content-type"] == "video/mp4"


def test_serve_opens_the_page_with_its_token(tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    port, token = free_port(), "a secret of more than 16"
    data = str(tmp_path / "data")
    given = ["--open", "--port", str(port), "--data", data, "--model", "blend"]
    command = [sys.executable, "-m", "midframe", "serve", *given]
    environment = {**os.environ, "BROWSER": f"{browser} %s", "MIDFRAME_TOKEN": token}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        server_fakes.wait_for(opened.exists, bool, 180.0)
        assert opened.read_text().strip() == f"http://127.0.0.1:{port}/#token=a%20secret%20of%20more%20than%2016"
    finally:
        server.terminate()
        server.wait(60)
