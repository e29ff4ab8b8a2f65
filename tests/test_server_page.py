"""The page in a real browser, on the real pipeline: skipped where Chromium or playwright is absent."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_fakes
from test_server_kill import Server  # skips this file too where the web extra is absent

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("page")  # each test goes on with the page and the server of the one before

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
WAIT_MS = 120_000  # waits end when the thing is there; this is for a busy machine


def make_video(path: Path, frames: int, cut: int | None = None) -> Path:
    """A square that moves over a gradient; from frame `cut` on over another."""
    av = pytest.importorskip("av")
    import numpy as np

    y, x = np.mgrid[:90, :160]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for i in range(frames):
            late = cut is not None and i >= cut
            image = np.stack([x + 60, 2 * y + 20, 200 - x] if not late else [10 + y, 10 + 0 * y, x // 2], -1)
            image[30:60, (2 * i) % 120 : (2 * i) % 120 + 30] = (250, 240, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def make_wild_video(path: Path) -> Path:
    """Its lower half is new in every frame: no neighbour bears that out."""
    av = pytest.importorskip("av")
    import numpy as np

    dice = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for _ in range(48):
            image = np.full((90, 160, 3), 90, np.uint8)
            image[45:] = dice.integers(0, 2, (9, 32, 1)).repeat(5, 0).repeat(5, 1) * 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "holiday.mp4").write_text("a letter, not a video " * 100)
    return {
        "short": make_video(folder / "short ride.mp4", 60, cut=30),
        "long": make_video(folder / "long ride.mp4", 240),
        "wild": make_wild_video(folder / "wild.mp4"),
        "broken": folder / "holiday.mp4",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    def command(port: int, data: Path) -> list[str]:
        return [sys.executable, "-m", "midframe", "serve", "--port", str(port), "--data", str(data), "--model", "blend"]

    with Server(command, tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def wrong() -> list[str]:
    """What the page's console complained of."""
    return []


@pytest.fixture
def page(browser: Any, server: Server, wrong: list[str]) -> Iterator[Any]:
    """A fresh page; nothing may go wrong in its console, a breach of the content-security policy for one."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True, locale="en-US")
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def note(line: Any) -> None:
        url = line.location["url"]
        gone = "404" in line.text and "/frame?number=" in url  # of a job that ended while the page asked
        if line.type in ("error", "warning") and not gone:
            wrong.append(f"{line.text} {url}")

    page.on("console", note)
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert not wrong


def upload(page: Any, video: Path) -> None:
    page.set_input_files("#file", str(video))
    page.wait_for_selector(f"#video h2:has-text('{video.name}')")


def newest_job(page: Any, state: str) -> Any:
    return page.wait_for_selector(f"#job-list .job:has(.badge:text-is('{state}'))")


def test_upload_preview_run_compare_download(
    page: Any, videos: dict[str, Path], server: Server, tmp_path: Path
) -> None:
    upload(page, videos["short"])
    assert page.inner_text("#video .facts").split("\n")[:4] == ["Size", "160 × 90", "Rate", "24 fps"]
    page.focus("[data-rate='ratio:2']")  # the chips by keyboard
    assert [chip.inner_text() for chip in page.query_selector_all(".chips button")] == [
        "48 · 2×", "50", "60", "96 · 4×", "120", "Slow 2×", "Slow 4×", "Slow 8×"
    ]  # fmt: skip
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.get_attribute("[data-rate='fps:60']", "aria-checked") == "true"
    page.wait_for_selector("#predict dd:text-is('150')")
    page.wait_for_function("() => [...document.querySelectorAll('.strip img')].every((i) => i.naturalWidth > 0)")
    page.select_option(".pick select", "2")
    page.focus(".pick .at")
    page.keyboard.press("End")
    page.wait_for_selector(".pick output:text-is('0.5 – 2.5 s')")

    page.click("button.preview")
    page.wait_for_selector("#viewer video")  # opens by itself
    page.wait_for_selector(".clock:has-text('of 120')")
    page.wait_for_function("() => !document.querySelector('video[data-kind=after]').paused")  # plays by itself
    assert page.evaluate("document.querySelector('video[data-kind=after]').loop")
    page.keyboard.press("Space")
    assert page.inner_text(".stage .before .tag") == "before, 24 fps"
    assert page.inner_text(".stage .after .tag") == "after, 60 fps"
    assert "Scene changes: 1" in page.inner_text(".legend")
    page.wait_for_selector("#basis:has-text('this video')")  # the preview taught the prediction

    page.focus(".handle")  # the slider by keyboard, then by mouse
    page.keyboard.press("End")
    assert page.get_attribute(".handle", "aria-valuenow") == "100"
    page.locator(".stage").scroll_into_view_if_needed()
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50, steps=3)
    page.mouse.up()
    assert page.get_attribute(".handle", "aria-valuenow") == "25"

    page.focus("#viewer-title")
    page.focus(".track")
    page.keyboard.press("Home")
    page.wait_for_selector(".clock:has-text('frame 1 of')")
    for number in range(2, 9):
        page.keyboard.press(".")
        page.wait_for_selector(f".clock:has-text('frame {number} of')")
    page.wait_for_selector(".clock:has-text('frame 8 of')")
    page.wait_for_function(
        # in step: output frame 8 lies at 7.5/60 s, where the source holds its frame of 3/24 s
        "() => { const [a, b] = ['before', 'after'].map((k) => document.querySelector(`video[data-kind=${k}]`));"
        " const apart = (x, y) => Math.abs(x - y);"
        " return !a.seeking && apart(a.currentTime, b.currentTime) < 0.005 && apart(b.currentTime, 0.125) < 0.001 }"
    )
    page.keyboard.press("]")  # to the cut
    page.keyboard.press("3")
    assert page.get_attribute("[data-view=difference]", "aria-pressed") == "true"
    page.keyboard.press("2")
    page.keyboard.press("q")
    page.keyboard.press("q")
    assert page.get_attribute("[data-speed='0.25']", "aria-pressed") == "true"
    page.keyboard.press("Space")
    page.wait_for_function("() => !document.querySelector('video[data-kind=after]').paused")
    page.keyboard.press("Space")

    page.click("button.whole")
    page.wait_for_selector("#job-list .job:has-text('whole video'):has(.badge:text-is('done'))")
    with page.expect_download() as download:
        page.click("#job-list .job:has-text('whole video') a.download")
    assert download.value.suggested_filename == "short ride.60fps.mp4"
    download.value.save_as(tmp_path / "out.mp4")
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 150


def test_frames_to_check_are_marked_and_reached(page: Any, videos: dict[str, Path]) -> None:
    upload(page, videos["wild"])
    page.click("summary:has-text('More options')")
    page.select_option("select[name=model]", "dis")
    page.select_option("select[name=scene]", "off")
    page.select_option(".pick select", "2")
    page.click("button.preview")
    page.wait_for_selector(".clock:has-text('of 96')")
    marked = page.locator(".track .low").count()
    assert 2 <= marked <= 5  # one for a half second
    assert page.inner_text(".legend .to-low") == f"Frames to check: {marked}"
    reached = []
    for _ in range(marked + 1):
        before = page.inner_text(".clock")
        page.keyboard.press("d")
        page.wait_for_function("(was) => document.querySelector('.clock').textContent !== was", arg=before)
        page.wait_for_selector(".where .sure:has-text('confidence')")
        reached.append((float(page.inner_text(".where .sure").split(" ")[1]), page.inner_text(".clock")))
    assert len(set(reached)) == marked and reached[0] == reached[-1]  # each once, then the first again
    assert reached[0][0] == min(reached)[0] < 90
    spot = page.locator(".layer.after .spot i").bounding_box()  # where to look: in the noise, the lower half
    stage = page.locator(".stage").bounding_box()
    assert stage["y"] + 0.45 * stage["height"] < spot["y"] < stage["y"] + stage["height"]
    assert "most of it in the marked box" in page.inner_text(".check-hint")
    page.keyboard.press("Shift+D")
    page.click(".legend .to-low")
    page.wait_for_selector(f".clock:text-is('{reached[0][1]}')")
    page.focus(".track")  # the timeline by keyboard
    page.keyboard.press("End")
    page.wait_for_selector(".clock:has-text('frame 96 of 96')")
    assert page.get_attribute(".track", "aria-valuenow") == "96"
    box = page.locator(".track .low").first.bounding_box()
    page.mouse.click(box["x"] - 3, box["y"])  # beside a mark is meant for it
    page.wait_for_selector(".where .sure:has-text('confidence')")


def test_copy_mask_language_and_phone(page: Any, videos: dict[str, Path], server: Server) -> None:
    upload(page, videos["short"])
    page.click("summary:has-text('More options')")
    page.click("button.mask")
    page.wait_for_selector("#mask-dialog canvas")
    page.click("#mask-dialog button:has-text('Top right')")
    page.click("#mask-dialog button.save")
    page.wait_for_selector("#video label.check:has-text('painted mask') input:checked")
    source = page.evaluate("location.hash").removeprefix("#video=")
    mask = server.data / "sources" / source / "mask.png"
    cv2 = pytest.importorskip("cv2")
    painted = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    assert painted.shape == (90, 160)
    assert (painted[8, 130], painted[60, 60]) == (255, 0)
    page.wait_for_selector("#predict dd")
    page.click("button.copy")
    said = page.inner_text("#copy-dialog pre >> nth=0")
    assert said.startswith("midframe interpolate 'short ride.mp4' -o 'short ride.48fps.mp4'")
    assert "--mask 'short ride-mask.png'" in said
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 360, "height": 740})
    page.click("#language")
    page.wait_for_selector("#rate-title:has-text('从 24')")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 20)"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((e) => e.offsetParent && "
        "!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert unnamed == []


def test_a_file_that_is_no_video_says_why_and_goes(page: Any, videos: dict[str, Path], server: Server) -> None:
    page.set_input_files("#file", str(videos["broken"]))
    page.wait_for_selector(".toast.bad:has-text('holiday.mp4')")
    page.wait_for_selector("#video", state="hidden")
    names = lambda: [source["name"] for source in server.http.get("/sources").json()]  # noqa: E731
    server_fakes.wait_for(names, lambda found: "holiday.mp4" not in found)
    page.click(".toast .close")
    page.wait_for_selector(".toast", state="detached")


def test_several_files_dropped_anywhere(page: Any, videos: dict[str, Path]) -> None:
    page.evaluate(
        """(files) => {
            const data = new DataTransfer();
            for (const [name, bytes] of files) data.items.add(new File([Uint8Array.from(bytes)], name));
            const event = (kind) => new DragEvent(kind, { dataTransfer: data, bubbles: true });
            for (const kind of ["dragenter", "dragover", "drop"])
                document.querySelector("header").dispatchEvent(event(kind));
        }""",
        [
            ["one of two.mp4", list(videos["short"].read_bytes())],
            ["two of two.mp4", list(videos["short"].read_bytes())],
        ],
    )
    page.wait_for_selector("#video h2:has-text('one of two.mp4')")
    row = page.wait_for_selector("#video-list .video-row:has-text('two of two.mp4')")
    page.wait_for_selector("#video-list .video-row:has-text('two of two.mp4') button.use")
    row = page.wait_for_selector("#video-list .video-row:has-text('two of two.mp4')")
    assert "160 × 90" in row.inner_text() and "kB" in row.inner_text()
    page.wait_for_function("() => document.querySelector('#video-list .thumb').naturalWidth > 0")
    page.click("#video-list .video-row:has-text('two of two.mp4') button.remove")
    page.wait_for_selector("#video-list .video-row:has-text('two of two.mp4')", state="detached")
    page.click(".toast .undo")  # nothing was deleted yet
    page.click("#video-list .video-row:has-text('two of two.mp4') button.use")
    page.wait_for_selector("#video h2:has-text('two of two.mp4')")


def test_rates_by_number_range_and_quality(page: Any, videos: dict[str, Path]) -> None:
    upload(page, videos["short"])
    page.fill("input.amount", "90")
    page.wait_for_selector("#predict dd:text-is('225')")
    assert page.query_selector(".chips [aria-checked=true]") is None
    page.fill("input.amount", "")
    page.select_option("select.unit", "ratio")
    page.fill("input.amount", "2,5")
    page.wait_for_selector("#predict dd:text-is('150')")
    page.fill("input.amount", "fast")
    page.wait_for_selector("#plan-error:has-text('Give a number')")
    assert page.is_disabled("button.preview")
    page.click("[data-rate='ratio:2']")
    page.wait_for_selector("#plan-error", state="hidden")
    page.click("summary:has-text('More options')")
    page.fill("input[name=from]", "0:00.5")
    page.fill("input[name=to]", "1.5")
    page.wait_for_selector("#predict dd:text-is('48')")
    assert page.inner_text("button.whole") == "Interpolate this part"
    page.fill("input[name=crf]", "23")
    page.uncheck("input[name=subtitles]")
    page.select_option("select[name=deinterlace]", "off")
    page.select_option("select[name=shutter]", "180")
    page.fill("input[name=scale]", "wide")
    page.wait_for_selector("#plan-error:has-text('Give a size')")
    page.fill("input[name=scale]", "80:-2")
    page.wait_for_selector("#plan-error", state="hidden")
    page.fill("input[name=speed]", "0-1:0.5")
    page.wait_for_selector("#predict dd:text-is('72')")  # half a second takes one, another half itself, at 48 fps
    page.click("button.copy")
    said = page.inner_text("#copy-dialog pre >> nth=0")
    words = (
        "--crf 23",
        "--no-subtitles",
        "--deinterlace off",
        "--shutter 180",
        "--speed",
        "--scale 80:-2",
        "--start",
        "--end",
    )
    for part in words:
        assert part in said
    page.keyboard.press("Escape")


def test_zoom_ab_and_loop_in_the_comparison(page: Any, videos: dict[str, Path], server: Server) -> None:
    source = server.upload(videos["short"].read_bytes(), "zoom.mp4")
    job = server.http.post("/jobs", json={"source": source, "options": {"ratio": 2}}).json()["id"]
    page.click(f"[data-job='{job}'] button.view")
    page.wait_for_selector(".clock:has-text(' of ')")
    page.wait_for_function("() => !document.querySelector('video[data-kind=after]').paused")
    page.focus("#viewer-title")
    page.keyboard.press("Space")
    stage = page.locator(".stage").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * 0.75, stage["y"] + stage["height"] * 0.5)
    for _ in range(20):
        page.mouse.wheel(0, -300)
    page.wait_for_selector(".zoom-now:text-is('8×')")  # and no further
    transforms = "[...document.querySelectorAll('.stage video')].map((video) => video.style.transform)"
    first = page.evaluate(transforms)
    assert first[0] == first[1] and "scale(8)" in first[0]
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.6, stage["y"] + stage["height"] * 0.4, steps=3)
    page.mouse.up()
    moved = page.evaluate(transforms)
    assert moved[0] == moved[1] != first[0]  # panned, both alike
    page.keyboard.press("0")
    page.wait_for_selector(".zoom-now:text-is('1×')")
    page.keyboard.press("a")
    visible = "getComputedStyle(document.querySelector('.stage .before')).visibility"
    assert page.get_attribute("[data-view=ab]", "aria-pressed") == "true" and page.evaluate(visible) == "visible"
    page.keyboard.press("a")
    assert page.evaluate(visible) == "hidden"
    page.focus(".track")
    page.keyboard.press("Home")
    page.wait_for_selector(".clock:has-text('frame 1 of')")
    page.focus("#viewer-title")
    page.keyboard.press("i")
    for number in (2, 3, 4):
        page.keyboard.press(".")
        page.wait_for_selector(f".clock:has-text('frame {number} of')")
    page.keyboard.press("o")
    page.wait_for_selector(".loop-now:has-text('loop 0:00.00')")
    assert page.locator(".track .looped").count() == 1
    page.evaluate(
        "() => { window.turns = 0; let was = 0; const video = document.querySelector('video[data-kind=after]');"
        " video.addEventListener('seeked', () => {"
        " if (video.currentTime < was) window.turns += 1; was = video.currentTime; });"
        " video.addEventListener('timeupdate', () => { was = Math.max(was, video.currentTime); }) }"
    )
    page.keyboard.press("Space")
    page.wait_for_function("() => window.turns >= 2")  # it came back to its start twice
    page.keyboard.press("Space")
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement?.className === 'theatre'")
    page.keyboard.press("f")
    page.wait_for_function("() => !document.fullscreenElement")


def test_queue_order_by_drag_and_keys(page: Any, videos: dict[str, Path], server: Server) -> None:
    source = server.upload(videos["long"].read_bytes(), "queue.mp4")
    add = lambda n: server.http.post("/jobs", json={"source": source, "options": {"slowmo": n}}).json()["id"]  # noqa: E731
    ids = [add(n) for n in (64, 63, 62, 61)]
    page.wait_for_selector(f"[data-job='{ids[3]}'] .grip")

    def order() -> list[str]:
        queued = [job for job in server.http.get("/jobs?state=queued").json()]
        return [job["id"] for job in sorted(queued, key=lambda job: job["position"])]

    page.focus(f"[data-job='{ids[3]}'] .grip")
    page.keyboard.press("ArrowUp")
    server_fakes.wait_for(order, lambda now: now == [ids[1], ids[3], ids[2]])
    page.locator(f"[data-job='{ids[2]}']").scroll_into_view_if_needed()
    grip = page.locator(f"[data-job='{ids[2]}'] .grip").bounding_box()
    top = page.locator(f"[data-job='{ids[1]}']").bounding_box()
    page.mouse.move(grip["x"] + 10, grip["y"] + 10)
    page.mouse.down()
    page.mouse.move(grip["x"] + 10, top["y"] + 4, steps=6)
    page.mouse.up()
    server_fakes.wait_for(order, lambda now: now == [ids[2], ids[1], ids[3]])
    for id in ids:
        server.http.post(f"/jobs/{id}/cancel")
    for id in ids:
        state = lambda id=id: server.http.get(f"/jobs/{id}").json()["state"]  # noqa: E731
        server_fakes.wait_for(state, lambda now: now == "cancelled", 120.0)
        server.http.delete(f"/jobs/{id}")


def test_the_api_documents_itself_without_the_internet(page: Any, server: Server) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/docs")
    page.wait_for_selector("html[data-ready]")
    page.click("summary:has(.method.post):has-text('/api/v1/jobs') >> nth=0")
    assert "curl -F file=@clip.mp4" in page.inner_text("details[open] pre")
    routes = server.http.get("/openapi.json").json()["paths"]
    assert page.locator("details.route:has(.method)").count() == sum(len(one) for one in routes.values())


def test_cancel_and_reload_in_mid_run(page: Any, videos: dict[str, Path], server: Server) -> None:
    upload(page, videos["long"])
    page.click("[data-rate='slowmo:8']")
    page.wait_for_selector("#predict dd:text-is('1,920')")
    page.click("button.whole")
    row = newest_job(page, "running")
    page.wait_for_function("(row) => row.querySelector('progress').value > 0.005", arg=row)
    page.wait_for_function("(row) => row.querySelector('img').src.includes('/frame?')", arg=row)
    page.reload()
    page.wait_for_selector("[data-rate='slowmo:8'][aria-checked=true]")  # the choice is still there
    row = newest_job(page, "running")  # still there, still going
    page.wait_for_selector(f"#video h2:has-text('{videos['long'].name}')")
    before = page.evaluate("(row) => row.querySelector('progress').value", row)
    page.wait_for_function("([row, before]) => row.querySelector('progress').value > before", arg=[row, before])
    row.query_selector("button.pause").focus()
    page.keyboard.press("Enter")
    newest_job(page, "paused")
    page.wait_for_selector("#job-list .job button.resume:focus")  # who works by keyboard stays in the row
    page.keyboard.press("Enter")
    newest_job(page, "running").query_selector("button.cancel").click()
    cancelled = newest_job(page, "cancelled")
    assert cancelled.query_selector("button.retry") is not None
    counts = server.http.get("/server").json()["counts"]
    assert (counts["cancelled"], counts["running"]) == (1, 0)


def test_the_page_comes_back_with_the_server(
    page: Any, videos: dict[str, Path], server: Server, wrong: list[str]
) -> None:
    source = server.upload(videos["short"].read_bytes(), "again.mp4")
    job = server.http.post("/jobs", json={"source": source}).json()["id"]
    row = f"#job-list .job[data-job='{job}']"  # its text changes to the name of the output at the end
    page.wait_for_selector(row)  # the page listens: what comes now is a stream that breaks
    server.kill()
    page.wait_for_selector("#link:visible")
    server.start()
    page.wait_for_selector("#link", state="hidden")
    server_fakes.wait_for(lambda: server.http.get(f"/jobs/{job}").json()["state"], lambda state: state == "done", 120.0)
    page.wait_for_selector(row)  # nothing is lost by the breach
    server.http.delete(f"/jobs/{job}").raise_for_status()
    page.wait_for_selector(row, state="detached")  # and it listens again
    assert all("Failed to load resource" in line for line in wrong)  # it could not reach the server, and no more
    wrong.clear()
