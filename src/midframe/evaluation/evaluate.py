"""Evaluate methods on data sets: score every interpolated frame, summarise every set and keep the worst cases.

Each case is read once and given to all methods in turn; only the scores and the worst cases stay in memory. The
protocol decides how a set is averaged (`DataSet.grouped`). PSNR of identical frames counts as `PSNR_CAP`. PSNR of a
region is computed over all its pixels in a set because its area differs from frame to frame.
"""

from __future__ import annotations

import heapq
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from midframe import metrics
from midframe.errors import InputError, MidframeError
from midframe.evaluation.cvvdp import Cvvdp
from midframe.evaluation.datasets import Case, DataSet, Target
from midframe.evaluation.methods import Frames, Method
from midframe.metrics import Lpips

FILE_FORMAT = "midframe evaluation 2"
_READ_FORMATS = ("midframe evaluation 1", FILE_FORMAT)
PSNR_CAP = 100.0  # dB; PSNR of identical frames, which keeps means finite
EXHIBIT_WIDTH, EXHIBIT_HEIGHT = 960, 720  # pixels; larger frames are cropped around the largest error
WORST_SHARE = 0.05
PAIRED_SCORES = ("psnr", "psnr_luma", "cvvdp")  # compared with the focus frame by frame
FLOW_KEYS = ("all", "masked", "outliers_percent", "outliers_masked_percent", "zero", "short", "medium", "long")


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one interpolated frame."""

    case: str
    t: str  # exact fraction
    group: str
    kind: str
    motion: float | None  # pixels
    psnr: float  # dB, at most PSNR_CAP
    ssim: float | None  # None for frames smaller than its window
    ie: float  # levels
    psnr_modelscope: float
    ssim_modelscope: float
    lpips: float | None
    lpips_modelscope: float | None
    regions: Mapping[str, tuple[int, float]]  # name -> (pixels, mean square error in levels)
    static: Mapping[str, float] | None  # `metrics.StaticStability`, if part of the frame is static
    psnr_luma: float | None = None  # dB, 8-bit BT.709
    gmsd: float | None = None
    gradient_energy: float | None = None  # relative to the ground truth
    psnr_div: float | None = None  # dB; None where the interpolated motion has no divergence
    cvvdp: float | None = None  # JOD, of the middle target of a case


@dataclass(frozen=True, slots=True)
class CaseRow:
    """The scores of one case as a whole."""

    case: str
    kind: str
    seconds: float | None  # wall time for all frames of the case; None without targets
    flicker: Mapping[str, float] | None  # `metrics.Flicker`
    steps: Mapping[str, float] | None  # `metrics.StepUniformity`, in pans
    flow: Mapping[str, float | None] | None  # `metrics.FlowError`, if the true flow is known and the method has flow


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one set."""

    set: str
    method: str
    rows: tuple[Row, ...]
    cases: tuple[CaseRow, ...]
    summary: Mapping[str, Any]  # see `summarise`
    failure: str = ""  # why the method failed, or ""


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """One case to show: 8-bit RGB frames (H, W, 3); large frames are cropped around the largest error."""

    set: str
    case: str
    t: str
    where: str  # the crop shown, or ""
    a: np.ndarray[Any, Any]
    b: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]
    interpolated: Mapping[str, np.ndarray[Any, Any]]  # by method
    psnr: Mapping[str, float]
    flow: Mapping[str, np.ndarray[Any, Any]]  # by method, (H, W, 2) float32, if it has flow
    true_flow: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of several methods on several data sets."""

    environment: Mapping[str, Any]  # versions, machine, date
    focus: str  # the method whose worst cases are shown
    sets: tuple[Mapping[str, Any], ...]  # name, protocol, cases, note
    methods: tuple[str, ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()  # remarks, such as the reason for an empty column
    exhibits: tuple[Exhibit, ...] = field(default=(), repr=False)

    def result(self, set_name: str, method: str) -> Result | None:
        """Return the result of a method on a set, or None."""
        return next((r for r in self.results if r.set == set_name and r.method == method), None)

    def as_json(self) -> dict[str, Any]:
        """Convert to plain values for `json.dump(..., allow_nan=False)`, without the exhibits."""
        return {
            "format": FILE_FORMAT,
            "environment": dict(self.environment),
            "focus": self.focus,
            "notes": list(self.notes),
            "sets": [dict(s) for s in self.sets],
            "methods": list(self.methods),
            "results": [_plain(asdict(r)) for r in self.results],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Read the result of `as_json`, of this or the previous format.

        Raises:
            InputError: not an evaluation report.
        """
        if data.get("format") not in _READ_FORMATS:
            raise InputError(f"not an evaluation report: format {data.get('format')!r}, expected {FILE_FORMAT!r}")
        results = tuple(
            Result(
                r["set"],
                r["method"] if "method" in r else r["contestant"],  # format 1
                tuple(Row(**{**row, "regions": {k: tuple(v) for k, v in row["regions"].items()}}) for row in r["rows"]),
                tuple(CaseRow(**row) for row in r["cases"]),
                _renamed(r["summary"], {"pictures": "frames"}),
                r["failure"],
            )
            for r in data["results"]
        )
        notes = tuple(data["notes"])
        names = tuple(data["methods"] if "methods" in data else data["contestants"])
        environment = data["environment"] if "environment" in data else data["made"]
        return cls(environment, data["focus"], tuple(data["sets"]), names, results, notes)


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Replace keys of format 1."""
    return {names.get(key, key): value for key, value in values.items()}


Progress = Callable[[str, str, int, int | None], None]  # set, case, cases done, number of cases if known


def evaluate(
    methods: Sequence[Method],
    sets: Iterable[DataSet],
    focus: str = "",
    lpips: Lpips | None = None,
    exhibits: int = 4,
    on_progress: Progress | None = None,
    cvvdp: Cvvdp | None = None,
) -> Report:
    """Evaluate every method on every case of every set.

    Args:
        methods: in the order of the tables; a method that fails on a set has no scores there, only the reason.
        sets: read lazily, one case at a time.
        focus: name of the method whose worst cases are kept; default: the last one.
        lpips: from `metrics.load_lpips`; None omits LPIPS.
        exhibits: number of worst cases to keep per set.
        on_progress: called before each case.
        cvvdp: scores the middle target of every case; None omits it.

    Raises:
        InputError: no methods, duplicate names, or an unknown focus.
        MidframeError: a set cannot be read.
    """
    names = [c.name for c in methods]
    if not names or len(set(names)) != len(names):
        raise InputError(f"methods {', '.join(names) or '(none)'}: give at least one, each name once")
    if focus and focus not in names:
        raise InputError(f"focus {focus!r} must be one of {', '.join(names)}")
    focus = focus or names[-1]
    described, results, shown = [], [], []
    for data in sets:
        found, kept, count = _one_set(methods, data, focus, _Perceptual(lpips, cvvdp), exhibits, on_progress)
        results += found
        shown += kept
        described.append({"name": data.name, "protocol": data.protocol, "cases": count, "note": data.note})
    notes = []
    if lpips is None:
        notes.append(metrics.lpips_absence() or "LPIPS was not requested")
    return Report(_environment(), focus, tuple(described), tuple(names), tuple(results), tuple(notes), tuple(shown))


@dataclass(frozen=True, slots=True)
class _Perceptual:
    """Perceptual metrics, where they are installed."""

    lpips: Lpips | None
    cvvdp: Cvvdp | None


def _one_set(
    methods: Sequence[Method],
    data: DataSet,
    focus: str,
    perceptual: _Perceptual,
    exhibits: int,
    on_progress: Progress | None,
) -> tuple[list[Result], list[Exhibit], int]:
    rows: dict[str, list[Row]] = {c.name: [] for c in methods}
    cases: dict[str, list[CaseRow]] = {c.name: [] for c in methods}
    failed: dict[str, str] = {}
    worst: list[tuple[float, int, Exhibit]] = []  # heap; its root is the best of the kept cases
    count = 0
    for case in data.cases():
        if on_progress is not None:
            on_progress(data.name, case.name, count, data.count)
        count += 1
        interpolated: dict[str, Tensor] = {}
        for method in methods:
            if method.name in failed:
                continue
            try:
                frames, case_row = _run(method, case)
            except MidframeError as error:
                failed[method.name] = str(error)
                rows[method.name].clear()
                cases[method.name].clear()
                continue
            interpolated[method.name] = frames
            cases[method.name].append(case_row)
            rows[method.name] += [_score(case, k, frames, perceptual) for k in range(len(case.targets))]
        if focus in interpolated and case.targets and exhibits > 0:
            scores = {n: [r.psnr for r in rows[n][-len(case.targets) :]] for n in interpolated}
            k = min(range(len(case.targets)), key=lambda i: scores[focus][i])
            psnr = scores[focus][k]
            if len(worst) < exhibits or psnr < -worst[0][0]:
                shown = _exhibit(methods, data.name, case, k, interpolated, {n: s[k] for n, s in scores.items()}, focus)
                heapq.heappush(worst, (-psnr, count, shown))
                if len(worst) > exhibits:
                    heapq.heappop(worst)
    results = [
        Result(
            data.name,
            c.name,
            tuple(rows[c.name]),
            tuple(cases[c.name]),
            {}
            if c.name in failed
            else {
                **summarise(rows[c.name], cases[c.name], data.grouped),
                "paired": paired_differences(rows[c.name], rows[focus]) if c.name != focus else {},
            },
            failed.get(c.name, ""),
        )
        for c in methods
    ]
    return results, [e for _, _, e in sorted(worst, key=lambda w: -w[0])], count


def _run(method: Method, case: Case) -> tuple[Tensor, CaseRow]:
    """Interpolate one case and compute the scores of the case as a whole."""
    times = [target.t for target in case.targets]
    seconds = flicker = steps = flow = None
    frames = torch.empty(0)
    if times:
        start = time.perf_counter()
        if isinstance(method, Frames):
            frames = method.of(case)
        else:
            frames = method.between(case.a, case.b, times, case.before, case.after).cpu()
        seconds = time.perf_counter() - start
        flicker = asdict(metrics.flicker(case.a, list(frames), [float(t) for t in times], case.b))
        if case.pan:
            steps = _steps(case, times, frames)
    if case.flow is not None:
        found = method.flow(case.a, case.b)
        if found is not None:
            flow = asdict(metrics.flow_error(found, case.flow.flow, case.flow.valid, case.flow.seen))
    return frames, CaseRow(case.name, case.kind, seconds, flicker, steps, flow)


def _steps(case: Case, times: Sequence[Fraction], frames: Tensor) -> dict[str, float] | None:
    """Measure the uniformity of the steps of a pan from a to b; None for uneven instants."""
    instants = [Fraction(0), *times, Fraction(1)]
    if len({b - a for a, b in pairwise(instants)}) != 1:
        return None
    try:
        return asdict(metrics.step_uniformity([case.a, *frames, case.b]))
    except ValueError:
        return None  # no measurable motion


def _score(case: Case, k: int, frames: Tensor, perceptual: _Perceptual) -> Row:
    target: Target = case.targets[k]
    frame, truth, lpips = frames[k], target.truth, perceptual.lpips
    following = frames[k + 1] if k + 1 < len(frames) else case.b
    divergent = metrics.psnr_div(frame, truth, following)
    middle = k == len(case.targets) // 2
    square = (metrics.to_levels(frame) - metrics.to_levels(truth)).double().square().mean(0)  # (H, W)
    regions = {
        name: (int(mask.sum()), float(square[mask].mean())) for name, mask in target.regions.items() if mask.any()
    }
    static = metrics.static_stability(case.a, frame, case.b, truth)
    large = min(truth.shape[-2:]) >= metrics.SSIM_TAPS
    return Row(
        case=case.name,
        t=str(target.t),
        group=case.group,
        kind=case.kind,
        motion=case.motion,
        psnr=_capped(metrics.psnr(frame, truth)),
        ssim=metrics.ssim(frame, truth) if large else None,
        ie=metrics.interpolation_error(frame, truth),
        psnr_modelscope=_capped(metrics.psnr_modelscope(frame, truth)),
        ssim_modelscope=metrics.ssim_modelscope(frame, truth),
        lpips=None if lpips is None else lpips.usual(frame, truth),
        lpips_modelscope=None if lpips is None else lpips.modelscope(frame, truth),
        regions=regions,
        static=None if static is None else {**asdict(static), "psnr": _capped(static.psnr)},
        psnr_luma=_capped(metrics.psnr_luma(frame, truth)),
        gmsd=metrics.gmsd(frame, truth),
        gradient_energy=metrics.gradient_energy_ratio(frame, truth),
        psnr_div=None if math.isnan(divergent) else _capped(divergent),
        cvvdp=perceptual.cvvdp.score(frame, truth) if middle and perceptual.cvvdp is not None else None,
    )


def _capped(value: float) -> float:
    return min(value, PSNR_CAP)


def region_psnr(parts: Sequence[tuple[int, float]]) -> float:
    """Return the PSNR in dB over all pixels of several regions: (pixels, mean square error in levels) each."""
    pixels = sum(count for count, _ in parts)
    error = sum(count * square for count, square in parts) / pixels
    return PSNR_CAP if error == 0 else _capped(10 * math.log10(metrics.LEVELS**2 / error))


def summarise(rows: Sequence[Row], cases: Sequence[CaseRow], grouped: bool) -> dict[str, Any]:
    """Summarise the scores of one method on one set.

    Keys: `frames` (count); means `psnr`, `ssim`, `ie`, `psnr_modelscope`, `ssim_modelscope`, `lpips`,
    `lpips_modelscope`, `psnr_luma`, `gmsd`, `gradient_energy`, `psnr_div`, `cvvdp`; `interval` and `cvvdp_interval`
    ({low, high, clips} of the mean PSNR and cvvdp: 95 %); `worst` and `cvvdp_worst` (mean of the worst 5 %);
    `regions`, `kinds`, `instants` (name -> PSNR); `motion` (list of {low, high, psnr}, up to ten equal parts);
    `flicker` (sharpness_percent, luma_levels, colour_levels); `static` (share, mean_levels, moved_percent); `steps`
    (deviation_percent, worst_percent); `flow` (`FLOW_KEYS`); `seconds` per frame, median. Values that do not apply
    are None. `evaluate` adds `paired`: `paired_differences` from the focus.
    """

    def mean(values: Iterable[float | None]) -> float | None:
        known = [v for v in values if v is not None and not math.isnan(v)]
        return statistics.fmean(known) if known else None

    def by_protocol(pick: Callable[[Row], float | None]) -> float | None:
        if not grouped:
            return mean(pick(r) for r in rows)
        groups: dict[str, list[float | None]] = {}
        for r in rows:
            groups.setdefault(r.group, []).append(pick(r))
        return mean(mean(values) for values in groups.values())

    def split(pick: Callable[[Row], str]) -> dict[str, float]:
        parts: dict[str, list[float]] = {}
        for r in rows:
            if pick(r):
                parts.setdefault(pick(r), []).append(r.psnr)
        return {name: statistics.fmean(values) for name, values in sorted(parts.items())}

    def means(
        dicts: Iterable[Mapping[str, float | None] | None], keys: Sequence[str]
    ) -> dict[str, float | None] | None:
        known = [d for d in dicts if d is not None]
        return {key: mean(d.get(key) for d in known) for key in keys} if known else None

    regions: dict[str, list[tuple[int, float]]] = {}
    for r in rows:
        for name, part in r.regions.items():
            regions.setdefault(name, []).append(part)
    scored = [r.cvvdp for r in rows if r.cvvdp is not None]
    # the first case of a set includes the time to compile
    timed = [c.seconds for c in cases if c.seconds is not None][1:]
    per_case = len(rows) / len(cases) if cases else 0
    return {
        "frames": len(rows),
        "psnr": by_protocol(lambda r: r.psnr),
        "ssim": by_protocol(lambda r: r.ssim),
        "ie": by_protocol(lambda r: r.ie),
        "psnr_modelscope": by_protocol(lambda r: r.psnr_modelscope),
        "ssim_modelscope": by_protocol(lambda r: r.ssim_modelscope),
        "lpips": by_protocol(lambda r: r.lpips),
        "lpips_modelscope": by_protocol(lambda r: r.lpips_modelscope),
        "psnr_luma": by_protocol(lambda r: r.psnr_luma),
        "gmsd": by_protocol(lambda r: r.gmsd),
        "gradient_energy": by_protocol(lambda r: r.gradient_energy),
        "psnr_div": by_protocol(lambda r: r.psnr_div),
        "cvvdp": by_protocol(lambda r: r.cvvdp),
        "cvvdp_frames": len(scored),
        "cvvdp_worst": metrics.worst_mean(scored, WORST_SHARE) if scored else None,
        "cvvdp_interval": _interval(rows, lambda r: r.cvvdp),
        "interval": _interval(rows, lambda r: r.psnr),
        "worst": metrics.worst_mean([r.psnr for r in rows], WORST_SHARE) if rows else None,
        "regions": {name: region_psnr(parts) for name, parts in regions.items()},
        "kinds": split(lambda r: r.kind),
        # only if all cases share the same instants: otherwise the means are over different cases
        "instants": split(lambda r: r.t) if len({r.t for r in rows}) * len(cases) == len(rows) else {},
        "motion": _by_motion(rows),
        "flicker": means((c.flicker for c in cases), ("sharpness_percent", "luma_levels", "colour_levels")),
        "static": means((r.static for r in rows), ("share", "mean_levels", "moved_percent", "psnr")),
        "steps": means((c.steps for c in cases), ("deviation_percent", "worst_percent")),
        "flow": means((c.flow for c in cases), FLOW_KEYS),
        "seconds": statistics.median(timed) / per_case if timed and per_case else None,
    }


def paired_differences(rows: Sequence[Row], reference: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Compare two methods frame by frame: mean differences of `PAIRED_SCORES`, 95 % bootstrap intervals over clips.

    Clips differ more than methods do, so two intervals of means overlap even where every clip prefers one method.

    Returns:
        {mean, low, high, clips} by score: `rows` less `reference`. A score with fewer than three clips is left out.
    """
    known = {(r.case, r.t): r for r in reference}
    found = {}
    for score in PAIRED_SCORES:
        clips: dict[str, list[float]] = {}
        for r in rows:
            other = known.get((r.case, r.t))
            ours, theirs = getattr(r, score), getattr(other, score, None)
            if ours is not None and theirs is not None:
                clips.setdefault(r.group or r.case, []).append(ours - theirs)
        interval = metrics.confidence_interval(list(clips.values()))
        if interval is not None:
            mean = statistics.fmean(value for values in clips.values() for value in values)
            found[score] = {"mean": mean, "low": interval[0], "high": interval[1], "clips": len(clips)}
    return found


def _interval(rows: Sequence[Row], pick: Callable[[Row], float | None]) -> dict[str, float] | None:
    """Return the 95 % bootstrap interval of a mean score, resampling clips, or cases without a clip."""
    clips: dict[str, list[float]] = {}
    for r in rows:
        if (value := pick(r)) is not None:
            clips.setdefault(r.group or r.case, []).append(value)
    found = metrics.confidence_interval(list(clips.values()))
    return None if found is None else {"low": found[0], "high": found[1], "clips": len(clips)}


def _by_motion(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Return PSNR in up to ten equally populated bins of motion, in ascending order."""
    known = sorted((r.motion, r.psnr) for r in rows if r.motion is not None)
    classes = min(10, len(known) // 5)
    parts = [known[len(known) * k // classes : len(known) * (k + 1) // classes] for k in range(classes)]
    return [{"low": p[0][0], "high": p[-1][0], "psnr": statistics.fmean(v for _, v in p)} for p in parts]


def _exhibit(
    methods: Sequence[Method],
    set_name: str,
    case: Case,
    k: int,
    interpolated: Mapping[str, Tensor],
    psnr: Mapping[str, float],
    focus: str,
) -> Exhibit:
    truth = case.targets[k].truth
    height, width = truth.shape[-2:]
    error = (interpolated[focus][k].clamp(0, 1) - truth).abs().mean(0).numpy()
    tall, wide = min(height, EXHIBIT_HEIGHT), min(width, EXHIBIT_WIDTH)
    total = cv2.blur(error, (wide // 2 * 2 + 1, tall // 2 * 2 + 1), borderType=cv2.BORDER_CONSTANT)
    y, x = (float(where.mean()) for where in np.nonzero(total >= total.max() * 0.999))  # the centre of a plateau
    top, left = min(max(int(y) - tall // 2, 0), height - tall), min(max(int(x) - wide // 2, 0), width - wide)
    crop = (slice(top, top + tall), slice(left, left + wide))

    def shown(frame: Tensor) -> np.ndarray[Any, Any]:
        return metrics.to_levels(frame).to(torch.uint8).permute(1, 2, 0).numpy()[crop].copy()

    def arrows(flow: Tensor) -> np.ndarray[Any, Any]:
        return flow.permute(1, 2, 0).numpy()[crop].copy()

    whole = (tall, wide) == (height, width)
    flows = {c.name: c.flow(case.a, case.b) for c in methods if c.name in interpolated}
    return Exhibit(
        set_name,
        case.name,
        str(case.targets[k].t),
        "" if whole else f"{wide}x{tall} of {width}x{height}, from column {left}, row {top}",
        shown(case.a),
        shown(case.b),
        shown(truth),
        {name: shown(frames[k]) for name, frames in interpolated.items()},
        psnr,
        {name: arrows(flow) for name, flow in flows.items() if flow is not None},
        None if case.flow is None else arrows(case.flow.flow),
    )


def _environment() -> dict[str, Any]:
    return {
        "midframe": version("midframe"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def processor() -> str:
    """Return the processor's name, or its architecture if the system gives no name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    """Convert to JSON values: seven digits, null for NaN and infinity, lists for tuples."""
    if isinstance(value, float):
        return None if math.isnan(value) or math.isinf(value) else float(f"{value:.7g}")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
