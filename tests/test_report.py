"""The report as Markdown and as a page: what it says, that it needs no network, and that a real browser likes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation_fakes import Mover, case, moving_set
from midframe.engine import Engine
from midframe.errors import InputError, MediaError
from midframe.evaluation import report as reports
from midframe.evaluation.datasets import Case, DataSet
from midframe.evaluation.evaluate import Report, evaluate
from midframe.evaluation.methods import Hold, ModelMethod
from midframe.models.blend import Blend

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report() -> Report:
    def tricky() -> list[Case]:
        return [replace(case(0, [Fraction(1, 2)]), name="<b>&\"'.png", pan=False)]

    def flows() -> list[Case]:
        return [replace(case(0), targets=())]

    sets = [
        moving_set(10),
        DataSet("odd <names>", "a & b", 1, lambda: iter(tricky()), note="1 of 3 cases"),
        DataSet("flow only", "flow", 1, lambda: iter(flows())),
    ]
    methods = [Hold(), ModelMethod(Engine(Blend())), Mover(0.5, "half"), Mover(1.0, "good")]
    return evaluate(methods, sets, focus="good", exhibits=1)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return reports.html(report, "A title")


class Outline(HTMLParser):
    """Checks that tags close in order, and collects them."""

    VOID = ("meta", "link", "img", "br")
    SVG_VOID = ("line", "rect", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.SVG_VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def test_page_is_well_formed_and_complete(outline: Outline, report: Report) -> None:
    assert outline.open == []
    text = " ".join(outline.text)
    for name in (*report.methods, "moving", "odd <names>", "flow only", "A title", "1 of 3 cases"):
        assert name in text
    for name in report.methods:
        result = report.result("moving", name)
        assert result is not None
        assert f"{result.summary['psnr']:.2f}" in text
    assert "no LPIPS" in text
    assert "LPIPS (absent)" in text


def test_page_asks_nothing_of_the_network(page: str, outline: Outline) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|https?://", page)
    assert not any(tag == "script" and "src" in attrs for tag, attrs in outline.tags)


def test_exhibits_have_slider_strip_and_frames_that_decode(outline: Outline, report: Report) -> None:
    sliders = [attrs for tag, attrs in outline.tags if attrs.get("class") == "slider"]
    assert len(sliders) == len(report.exhibits) == 2
    named = [str(attrs["data-name"]) for tag, attrs in outline.tags if tag == "img" and "data-name" in attrs]
    assert named == ["truth", *report.methods, "frame a", "frame b"] * 2
    sources = [str(attrs["src"]) for tag, attrs in outline.tags if tag == "img" and attrs.get("src")]
    # per exhibit: truth, four methods, a, b; four errors; true flow and the flow of two
    assert len(sources) == 2 * (7 + 4 + 3)
    import base64

    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/webp;base64"
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (48, 64, 3)


def test_best_is_marked_and_failures_are_reported(report: Report) -> None:
    failed = replace(
        report,
        results=tuple(
            replace(r, rows=(), cases=(), summary={}, failure="ran <out>") if r.method == "half" else r
            for r in report.results
        ),
    )
    page = reports.html(failed)
    assert "ran &lt;out&gt;" in page
    good = report.result("moving", "good")
    assert good is not None
    assert f"<td class=best>{good.summary['psnr']:.2f}</td>" in page
    text = reports.markdown(failed)
    assert f"**{good.summary['psnr']:.2f}**" in text
    assert "- half: ran <out>" in text


def test_a_gain_over_blend_is_promised_only_where_it_was_run(report: Report) -> None:
    assert "gain over blend" in reports.html(report)
    without = replace(report, methods=tuple(name for name in report.methods if name != "blend"))
    assert "gain over blend" not in reports.html(without)


def test_markdown_tables_are_regular(report: Report) -> None:
    lines = reports.markdown(report).splitlines()
    widths = {}
    for k, line in enumerate(lines):
        if line.startswith("|---"):
            widths[k] = line.count("|")
            assert lines[k - 1].count("|") == line.count("|")
            row = k + 1
            while lines[row].startswith("|"):
                assert lines[row].count("|") == line.count("|")
                row += 1
            assert row > k + 1
    assert len(widths) >= 6


def test_wide_tables_are_turned(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "WIDEST_TABLE", 1)
    good = report.result("moving", "good")
    assert good is not None
    value = f"{good.summary['regions']['pan']:.2f}"
    lines = reports.markdown(report).splitlines()
    row = next(line for line in lines if line.startswith("| pan, dB |"))
    assert row.rstrip(" |").endswith(value)
    assert lines[lines.index(row) - 3].count("|") == row.count("|")
    assert f"<td class=best>{value}</td></tr>" in reports.html(report)


def test_write_and_load(report: Report, tmp_path: Path) -> None:
    paths = reports.write(report, tmp_path / "new/out")
    assert sorted(p.name for p in (tmp_path / "new/out").iterdir()) == ["report.html", "report.json", "report.md"]
    again = reports.load(paths["json"])
    assert json.dumps(again.as_json()) == json.dumps(report.as_json())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        reports.load(tmp_path / "bad.json")
    with pytest.raises(MediaError, match="No such file"):
        reports.load(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot be written"):
        reports.write(report, tmp_path / "file/out")


def test_flow_colours_tell_direction_and_length() -> None:
    flow = np.zeros((1, 4, 2), np.float32)
    flow[0, 1] = (5, 0)
    flow[0, 2] = (-5, 0)
    flow[0, 3] = (50, 0)
    still, right, left, far = reports.flow_image(flow, 5.0)[0].tolist()
    assert still == [255, 255, 255]
    assert right == [255, 0, 0]
    assert left == [0, 255, 255]
    assert far == right


def test_error_image_is_dark_where_right() -> None:
    truth = np.full((2, 2, 3), 100, np.uint8)
    made = truth.copy()
    made[0, 0] = 160
    shown = reports.error_image(made, truth).astype(int).sum(-1)
    assert shown[0, 0] > 300
    assert shown[1, 1] < 20


@pytest.mark.parametrize(("low", "high"), [(20.0, 41.3), (0.0, 1.0), (33.0, 33.4)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = reports.round_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
def test_a_real_browser_opens_it(report: Report, tmp_path: Path) -> None:
    """The script ran to its end, the sliders show frames, nothing was logged to the console."""
    path = reports.write(report, tmp_path)["html"]
    common = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000",
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    run = subprocess.run(
        [*common, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert "CONSOLE" not in run.stderr, run.stderr
    assert 'data-ready="yes"' in run.stdout, run.stderr[-2000:]
    assert run.stdout.count('class="tag left">good, ') == 2
    assert run.stdout.count("clip-path: inset(0px 50% 0px 0px)") == 2

    shot = tmp_path / "shot.png"
    subprocess.run(
        [*common, "--hide-scrollbars", "--window-size=1200,2600", f"--screenshot={shot}", path.as_uri()],
        capture_output=True, timeout=120, check=True, env=environment,
    )  # fmt: skip
    image = cv2.imread(str(shot))
    assert image is not None
    assert image.shape == (2600, 1200, 3)
    # the slider shows the wave frame: many colours in the middle of the page, not a blank card
    assert max(float(image[y : y + 100, 300:900].std()) for y in range(600, 2500, 100)) > 20
