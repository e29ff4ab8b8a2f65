"""Who may speak to the server, what it opens, and what a hostile page, path or file gets."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from fastapi.testclient import TestClient

import server_fakes
from midframe.errors import InputError, MediaError
from midframe.server import paths, security
from midframe.server.app import create_app
from midframe.server.event_broker import MAX_SUBSCRIBERS
from midframe.server.responses import EventStreamResponse
from midframe.server.services import Services
from midframe.server.settings import Limits, Settings
from midframe.server.store import Store

BASE = "http://127.0.0.1:8642"
TOKEN = "correct horse battery"


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An allowed folder with a video, beside a folder with a secret, and links between them."""
    root = tmp_path_factory.mktemp("videos")
    inside, outside = root / "inside", root / "outside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (inside / "deep" / "video ünï.mp4").write_bytes(server_fakes.video(steps=1))
    (outside / "secret.mp4").write_bytes(server_fakes.video(steps=1))
    (inside / "link.mp4").symlink_to(outside / "secret.mp4")
    (inside / "link").symlink_to(outside)
    (inside / "good-link.mp4").symlink_to(inside / "deep" / "video ünï.mp4")
    (root / "inside-but-not.mp4").write_bytes(server_fakes.video())  # shares the folder's name as a prefix
    os.mkfifo(inside / "pipe.mp4")
    return inside


@pytest.fixture(scope="module")
def http(allowed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(tmp_path_factory.mktemp("data"), folders=(allowed,), limits=Limits(probe_bytes=None))
    with TestClient(create_app(settings, server_fakes.bench()), BASE) as client:
        yield client


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with a token."""
    settings = Settings(tmp_path_factory.mktemp("data"), token=TOKEN, limits=Limits(probe_bytes=None))
    with TestClient(create_app(settings, server_fakes.bench()), BASE) as client:
        yield client


@pytest.mark.parametrize(
    "wanted", ["deep/video ünï.mp4", "good-link.mp4", "./deep//video ünï.mp4", "{inside}/good-link.mp4"]
)
def test_paths_inside(allowed: Path, http: TestClient, wanted: str) -> None:
    given = wanted.format(inside=allowed)
    assert paths.allowed(given, [allowed]) == Path(os.path.realpath(allowed / "deep" / "video ünï.mp4"))
    assert http.post("/api/v1/sources", json={"path": given}).status_code == 201


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "/etc/passwd",
        "../outside/secret.mp4",
        "deep/../../outside/secret.mp4",
        "deep/../deep/video ünï.mp4",  # harmless, but nothing honest needs it
        "{inside}/../outside/secret.mp4",
        "{inside}-but-not.mp4",
        "link.mp4",
        "link/secret.mp4",
        "link/../outside/secret.mp4",
        "deep/video ünï.mp4\0.txt",
        "deep/video\nünï.mp4",
        "..\\outside\\secret.mp4",
        "\uff0e\uff0e/outside/secret.mp4",  # full-width dots
        "deep\u2215video ünï.mp4",  # a slash that is none
        "%2e%2e/outside/secret.mp4",
        "file:///etc/passwd",
        "concat:/etc/passwd|/etc/hosts",
        "http://127.0.0.1/video.mp4",
        "~/video.mp4",
        "deep",
        ".",
        "pipe.mp4",
        "missing.mp4",
        "a/" * 2000,
        "deep/" + "n" * 300,
    ],
)
def test_paths_outside(allowed: Path, http: TestClient, wanted: str) -> None:
    given = wanted.format(inside=allowed)
    with pytest.raises(paths.ForbiddenError):
        paths.allowed(given, [allowed])
    answer = http.post("/api/v1/sources", json={"path": given})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "secret" not in answer.text


def test_a_lone_surrogate_in_a_path_is_an_answer_not_a_crash(http: TestClient) -> None:
    body = rb'{"path": "deep/\ud800.mp4"}'
    answer = http.post("/api/v1/sources", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_no_folder_is_allowed_unless_named(locked: TestClient) -> None:
    answer = locked.post("/api/v1/sources", json={"path": "/etc/passwd"}, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 403


def test_a_file_that_becomes_a_link_is_not_followed(allowed: Path, http: TestClient) -> None:
    swapped = allowed / "swapped.mp4"
    swapped.write_bytes(server_fakes.video(steps=1))
    source = http.post("/api/v1/sources", json={"path": "swapped.mp4"}).json()["id"]
    server_fakes.wait_for(lambda: http.get(f"/api/v1/sources/{source}").json()["state"], lambda state: state == "ready")
    swapped.unlink()
    swapped.symlink_to(allowed.parent / "outside" / "secret.mp4")
    job = http.post("/api/v1/jobs", json={"source": source}).json()["id"]
    found = server_fakes.wait_for(
        lambda: http.get(f"/api/v1/jobs/{job}").json(), lambda found: found["state"] in ("failed", "done")
    )
    assert found["error"]["code"] == "forbidden"
    still = http.get(f"/api/v1/sources/{source}/still?at=1")  # nor to look at it once more
    assert still.status_code == 422
    assert "link" in still.json()["error"]["message"]


def test_what_went_wrong_does_not_tell_where_the_server_keeps_things(http: TestClient) -> None:
    def sent(data: bytes) -> str:
        source = http.post("/api/v1/sources", json={"name": "my video.mp4", "size": len(data)}).json()["id"]
        http.put(f"/api/v1/sources/{source}/content", content=data)
        return str(source)

    refused = sent(b"no video " * 20)
    found = server_fakes.wait_for(lambda: http.get(f"/api/v1/sources/{refused}").json(), lambda s: s["error"])
    assert found["error"]["message"] == "my video.mp4 is no video: nothing in it can be decoded"
    bad = sent(server_fakes.video(fail="{source} broke off, {folder}/00000.part.mkv too"))
    server_fakes.wait_for(lambda: http.get(f"/api/v1/sources/{bad}").json()["state"], lambda state: state == "ready")
    job = http.post("/api/v1/jobs", json={"source": bad}).json()["id"]
    failed = server_fakes.wait_for(lambda: http.get(f"/api/v1/jobs/{job}").json(), lambda j: j["state"] == "failed")
    assert failed["error"]["message"] == "my video.mp4 broke off, 00000.part.mkv too"


def test_nesting_and_ranges_cost_nothing(http: TestClient) -> None:
    deep = b"[" * 100_000
    headers = {"content-type": "application/json"}
    assert http.post("/api/v1/jobs", content=deep, headers=headers).status_code in (400, 422)
    deep_name = b'{"name": ' + b"[" * 50_000 + b"]" * 50_000 + b', "size": 1}'
    assert http.post("/api/v1/sources", content=deep_name, headers=headers).status_code in (400, 422)
    many = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 4000, 2))
    answer = http.get("/static/style.css", headers={"range": many})
    assert len(answer.content) < 1_000_000


def test_event_streams_take_their_place_when_they_are_sent(http: TestClient) -> None:
    services: Services = http.app.state.services  # type: ignore[attr-defined]
    for _ in range(MAX_SUBSCRIBERS + 1):
        EventStreamResponse(services.events, list, follow=True)  # a response that nobody sends
    for _ in range(3):
        assert "event: ready" in http.get("/api/v1/events?follow=false").text
    assert services.events.subscribers == 0
    taken = [services.events.subscribe() for _ in range(MAX_SUBSCRIBERS)]
    refused = http.get("/api/v1/events")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_listeners")
    for subscriber in taken:
        services.events.unsubscribe(subscriber)
    assert http.get("/api/v1/events?follow=false").status_code == 200


def test_a_client_that_leaves_while_a_frame_waits_stops_nothing(http: TestClient) -> None:
    source = http.post("/api/v1/sources", json={"path": "good-link.mp4"}).json()["id"]
    server_fakes.wait_for(lambda: http.get(f"/api/v1/sources/{source}").json()["state"], lambda state: state == "ready")
    services: Services = http.app.state.services  # type: ignore[attr-defined]
    path = services.store.source(source).path
    waiting = [services.probe_worker.still(path, 0.0, 64, True) for _ in range(6)]
    for future in waiting:
        assert future is not None
        future.cancel()
    assert http.get(f"/api/v1/sources/{source}/still?at=1").status_code == 200


def test_looks_that_wait_are_limited(tmp_path: Path, allowed: Path) -> None:
    settings = Settings(
        tmp_path, folders=(allowed,), limits=Limits(uploads_per_client=2, probe_seconds=5, probe_bytes=None)
    )
    (allowed / "hang.mp4").write_bytes(server_fakes.video(probe="hang"))
    with TestClient(create_app(settings, server_fakes.bench()), BASE) as client:
        codes = [client.post("/api/v1/sources", json={"path": "hang.mp4"}).status_code for _ in range(4)]
    assert codes == [201, 201, 429, 429]
    store = Store(tmp_path / "jobs.sqlite")
    assert [source.state for source in store.sources()] == ["probing"] * 2  # closing the server judges nobody
    store.close()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\videos\\a.mov", "a.mov"),
        ("a\0b\r\nc.mp4", "abc.mp4"),
        ("evil\u202egpj.mp4", "evilgpj.mp4"),
        ("...", "video"),
        ("", "video"),
        ("n" * 500, "n" * 200),
        ("电影.mp4", "电影.mp4"),
    ],
)
def test_names_are_only_names(name: str, kept: str) -> None:
    assert paths.safe_name(name) == kept


@pytest.mark.parametrize(
    "head",
    [b"#EXTM3U", b"  \r\n#EXTM3U", b"\xef\xbb\xbfffconcat version 1.0", b"v=0\r\no=- 0", b"<?xml version", b"#!/bin/sh",
     b"\0" * 99 + b"#EXTM3U", b"x" * 60000 + b"dash:profile:isoff"],
)  # fmt: skip
def test_playlists_never_reach_the_decoder(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "video.mp4").write_bytes(head + b"\nfile /etc/passwd\n")
    with pytest.raises(MediaError, match="playlist"):
        paths.refuse_playlist(str(tmp_path / "video.mp4"))


def test_other_machines_need_a_token() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        security.check_address(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "videos.example"):
        with pytest.raises(InputError, match="token"):
            security.check_address(host, None)
        security.check_address(host, TOKEN)
    with pytest.raises(InputError, match="16"):
        security.check_address("0.0.0.0", "short")


def test_serve_refuses_the_network_without_a_token() -> None:
    from click.testing import CliRunner

    from midframe.cli.serve import command

    result = CliRunner().invoke(command, ["--host", "0.0.0.0"], env={"MIDFRAME_TOKEN": None})
    assert isinstance(result.exception, InputError)
    assert "--token" in str(result.exception)


def test_token(locked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "GUESS_SECONDS", 0.0)
    assert locked.get("/").status_code == 200  # the page itself holds no secret, and asks
    for path in ("/api/v1/server", "/api/v1/openapi.json", "/api/v1/jobs", "/api/v1/events?follow=false"):
        assert locked.get(path).status_code == 401
        assert locked.get(path, headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
        assert locked.get(path, headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
        assert locked.get(path, headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
        assert locked.get(path, headers={"cookie": f"{security.COOKIE}={TOKEN}"}).status_code == 401
    assert locked.post("/api/v1/session", json={"token": "wrong"}).status_code == 401
    opened = locked.post("/api/v1/session", json={"token": TOKEN})
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert locked.get("/api/v1/server").status_code == 200  # by the cookie
    locked.cookies.clear()
    assert locked.get("/api/v1/server").status_code == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, locked: TestClient) -> None:
    compared = []
    real = security.hmac.compare_digest
    monkeypatch.setattr(security.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    locked.get("/api/v1/server", headers={"authorization": "Bearer guess"})
    assert compared == [(b"guess", TOKEN.encode())]


def test_wrong_tokens_are_answered_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(security, "asyncio", SimpleNamespace(Lock=asyncio.Lock, sleep=sleep))
    settings = Settings(tmp_path, token=TOKEN, limits=Limits(probe_bytes=None))
    with TestClient(create_app(settings, server_fakes.bench()), BASE) as client:
        for path in ("/api/v1/server", "/api/v1/jobs"):
            assert client.get(path, headers={"authorization": "Bearer guess"}).status_code == 401
        assert client.post("/api/v1/session", json={"token": "guess"}).status_code == 401
        assert client.get("/api/v1/server", headers={"cookie": f"{security.COOKIE}=guess"}).status_code == 401
        assert slept == [security.GUESS_SECONDS] * 4
        assert client.get("/api/v1/server").status_code == 401  # no token is no guess
        assert client.get("/api/v1/server", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert len(slept) == 4
        monkeypatch.setattr(security, "MAX_GUESSES_WAITING", 0)
        refused = client.get("/api/v1/server", headers={"authorization": "Bearer guess"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_guesses")
        assert client.post("/api/v1/session", json={"token": "guess"}).status_code == 429


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "", "[::", "192.168.1.5"]
)
def test_another_name_for_this_address_is_refused(http: TestClient, host: str) -> None:
    assert http.get("/api/v1/server", headers={"host": host}).status_code == 421
    assert http.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
def test_other_sites_pages_may_not_use_the_server(http: TestClient, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/api/v1/jobs"), ("POST", "/api/v1/jobs"), ("OPTIONS", "/api/v1/jobs")):
        answer = http.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_own_page_may(http: TestClient) -> None:
    headers = {"sec-fetch-site": "same-origin", "origin": BASE}
    assert http.get("/api/v1/jobs", headers=headers).status_code == 200


def test_policy_headers_on_every_kind_of_answer(http: TestClient) -> None:
    for path in ("/", "/static/page.js", "/api/v1/server", "/api/v1/jobs/none", "/nothing"):
        headers = http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_the_page_keeps_to_its_policy() -> None:
    static = Path(paths.__file__).with_name("static")
    total = 0
    for file in static.iterdir():
        text = file.read_text()
        total += len(text.encode())
        assert "//cdn" not in text
        assert "https://" not in text
        if file.suffix == ".html":
            assert "style=" not in text
            assert "onclick" not in text
            assert text.count("<script") == 1
        if file.suffix == ".js":
            assert "innerHTML" not in text
            assert "eval(" not in text
    assert total < 150_000


def test_large_bodies_are_refused(http: TestClient) -> None:
    big = b"[" + b" " * security.BODY_BYTES + b"]"
    headers = {"content-type": "application/json"}
    assert http.post("/api/v1/jobs", content=big, headers=headers).status_code == 413

    def pieces() -> Iterator[bytes]:  # no length announced
        for _ in range(400):
            yield b" " * 1000

    assert http.post("/api/v1/jobs", content=pieces(), headers=headers).status_code == 413
    assert http.post("/api/v1/jobs/content", content=pieces(), headers=headers).status_code in (405, 413)


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_static_files_are_only_the_page(http: TestClient, path: str) -> None:
    assert http.get(path).status_code == 404


def test_uploads_are_not_readable_by_other_users(http: TestClient, allowed: Path) -> None:
    data = server_fakes.video(steps=1)
    source = http.post("/api/v1/sources", json={"name": "a", "size": len(data)}).json()["id"]
    http.put(f"/api/v1/sources/{source}/content", content=data)
    path = Path(http.app.state.services.store.source(source).path)  # type: ignore[attr-defined]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    from midframe.errors import JobError

    settings = Settings(tmp_path, limits=Limits(probe_bytes=None))
    with (
        TestClient(create_app(settings, server_fakes.bench()), BASE),
        pytest.raises(JobError, match="another midframe server"),
    ):
        TestClient(create_app(settings, server_fakes.bench()), BASE).__enter__()


def test_no_token_means_loopback_socket_only() -> None:
    """The default of the command is an address that other machines cannot reach."""
    from midframe.cli.serve import command

    default = next(option for option in command.params if option.name == "host").default
    assert socket.gethostbyname(default).startswith("127.")


def test_the_page_stays_small() -> None:
    """All files of the page and of the API's documentation, uncompressed."""
    from midframe.server.app import STATIC

    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 170_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_of_text_have_enough_contrast(theme: str) -> None:
    """WCAG 2 AA: 4.5 to 1 for text on every background that it is written on."""
    import re

    from midframe.server.app import STATIC

    style = (STATIC / "style.css").read_text()
    block = style[style.index(":root {") :] if theme == "light" else style[style.index(':root[data-theme="dark"]') :]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block[: block.index("}")]))

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    pairs = [(text, under) for text in ("ink", "soft", "accent", "bad") for under in ("bg", "card", "field")]
    pairs += [("accent-ink", "accent"), ("accent", "tint"), ("bad", "bad-tint"), ("warn", "warn-tint"), ("ink", "tint")]
    pairs += [("low", "card"), ("soft", "tint")]
    for text, under in pairs:
        light, dark = sorted((luminance(colours[text]), luminance(colours[under])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {under}"
