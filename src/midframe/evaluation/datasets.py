"""Read benchmark folders as cases: two (or four) input frames and the ground-truth frames between them.

Each set is read in its published layout; nothing is downloaded. A missing or incomplete set raises one line with the
expected files, the folder and the number of cases found. This module depends on no model and no metric.

    set                       inputs -> targets                         protocol of
    vimeo90k-triplet          im1, im3 -> im2                           Xue et al. 2019, 3,782 cases
    vimeo90k-septuplet        im3, im5 (+ im1, im7) -> im4               QVI's four inputs, 7,824 cases
    vimeo90k-septuplet-6x     im1, im7 -> im2 ... im6
    ucf101-dvf                frame_00, frame_02 -> frame_01_gt         DVF, 379 cases of 256x256
    ucf101-qvi                frame1, frame2 (+ 0, 3) -> framet         QVI, 100 cases
    middlebury-other          frame10, frame11 -> frame10i11            Baker et al. 2011, 12 cases
    middlebury-other-4        the same, + frame09, frame12
    davis                     t+2, t+4 (+ t, t+6) -> t+3                QVI: 90 sequences, means per sequence first
    snu-film-easy ... extreme lists test-easy.txt ...                   Choi et al. 2020, 310 cases each
    xiph-2k, xiph-4k          odd frames -> even, first 100 frames      Niklaus & Liu 2020, 8 clips
    x-test                    0, 32 -> 4, 8 ... 28                      XVFI, 15 scenes
    videos:N                  every Nth frame of each video -> the rest
    frames:N                  the same for folders of numbered images
    triplets                  folders of three images: outer two -> middle
    sintel, kitti, middlebury-flow   true flow, for end-point errors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial as partial_call
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from midframe import colour, shots
from midframe.errors import InputError, MediaError
from midframe.types import Frame
from midframe.video.probe import probe
from midframe.video.reader import open_reader

READABLE_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
READABLE_VIDEOS = {
    ".mp4",
    ".mkv",
    ".mov",
    ".webm",
    ".avi",
    ".m4v",
    ".y4m",
    ".ts",
    ".mpg",
    ".mpeg",
    ".264",
    ".265",
    ".ogv",
}
HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One ground-truth frame between a and b."""

    t: Fraction  # 0 < t < 1
    truth: Tensor  # (3, H, W) RGB float32, 0..1
    regions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (H, W) bool: also scored separately


@dataclass(frozen=True, slots=True, eq=False)
class FlowTruth:
    """The true flow from a to b."""

    flow: Tensor  # (2, H, W) float32, pixels, the convention of `ops`
    valid: Tensor | None = None  # (H, W) bool: pixels with known flow; all if None
    seen: Tensor | None = None  # (H, W) bool: pixels of a that are visible in b


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One interpolation problem: two input frames and the targets between them."""

    name: str
    a: Tensor  # (3, H, W) RGB float32, 0..1
    b: Tensor
    targets: tuple[Target, ...] = ()  # empty: only flow is evaluated
    before: Tensor | None = None  # neighbours for four-frame models
    after: Tensor | None = None
    group: str = ""  # sequence or scene; some protocols average within a group first
    kind: str = ""  # "static logo", "thin lines": reports are split by it
    motion: float | None = None  # pixels, mean length of the true motion: reports are split by it
    pan: bool = False  # one constant translation: step uniformity is measured
    flow: FlowTruth | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """A named list of cases, read lazily."""

    name: str
    protocol: str  # one line, shown above its tables
    count: int | None  # cases, where known before reading
    cases: Callable[[], Iterator[Case]]  # each call starts from the first case
    grouped: bool = False  # average within groups, then over groups
    note: str = ""  # deviations from the protocol, such as a subset


# Reading --------------------------------------------------------------------------------------------------------


def read_image(path: Path) -> Tensor:
    """Read an 8- or 16-bit image as (3, H, W) RGB float32, 0..1; gray is replicated, alpha dropped."""
    pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if pixels is None:
        raise MediaError(f"{path}: not an image that OpenCV can read")
    scale = 65535.0 if pixels.dtype == np.uint16 else 255.0
    rgb = np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(rgb / np.float32(scale))


def read_flo(path: Path) -> tuple[Tensor, Tensor]:
    """Read a Middlebury .flo file: flow (2, H, W) float32 in pixels and a validity mask (H, W) bool."""
    raw = path.read_bytes()
    if len(raw) < 12 or raw[:4] != b"PIEH":
        raise MediaError(f"{path}: not a .flo file (it does not begin with PIEH)")
    width, height = (int(v) for v in np.frombuffer(raw, "<i4", 2, 4))
    if len(raw) != 12 + 8 * width * height:
        raise MediaError(f"{path}: {len(raw)} bytes, a flow of {width}x{height} has {12 + 8 * width * height}")
    flow = torch.from_numpy(np.frombuffer(raw, "<f4", 2 * width * height, 12).reshape(height, width, 2).copy())
    known = (flow.abs() < 1e9).all(-1)  # Middlebury marks unknown flow with 1666666752
    return torch.where(known[..., None], flow, torch.zeros(())).permute(2, 0, 1).contiguous(), known


def read_kitti_flow(path: Path) -> tuple[Tensor, Tensor]:
    """Read a KITTI 16-bit flow image: flow (2, H, W) float32 in pixels and a validity mask (H, W) bool."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise MediaError(f"{path}: not a KITTI flow image (16 bits, three channels)")
    known = torch.from_numpy(pixels[:, :, 0] > 0)  # OpenCV reads B, G, R = valid, v, u
    flow = torch.from_numpy((pixels[:, :, :0:-1].astype(np.float32) - 32768) / 64).permute(2, 0, 1)
    return torch.where(known, flow, torch.zeros(())).contiguous(), known


def _read_mask(path: Path) -> Tensor:
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise MediaError(f"{path}: not a mask that OpenCV can read")
    return torch.from_numpy(pixels > 127)


def _number(path: Path) -> tuple[tuple[int, ...], str]:
    return tuple(int(digits) for digits in re.findall(r"\d+", path.stem)), path.name


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in READABLE_IMAGES), key=_number)


def _folders(root: Path) -> list[Path]:
    """List root and every folder below it, sorted."""
    return [root, *sorted(p for p in root.rglob("*") if p.is_dir())]


# Cases from image files --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Files:
    """The paths of one case."""

    name: str
    a: Path
    b: Path
    targets: tuple[tuple[Fraction, Path], ...] = ()
    before: Path | None = None
    after: Path | None = None
    group: str = ""

    def missing(self) -> Path | None:
        """Return the first missing file, or None."""
        wanted = [self.a, self.b, *(p for _, p in self.targets), self.before, self.after]
        return next((p for p in wanted if p is not None and not p.is_file()), None)


def _identity(image: Tensor) -> Tensor:
    return image


def _read(files: _Files, view: Callable[[Tensor], Tensor]) -> Case:
    def image(path: Path) -> Tensor:
        return view(read_image(path))

    case = Case(
        files.name,
        image(files.a),
        image(files.b),
        tuple(Target(t, image(path)) for t, path in files.targets),
        None if files.before is None else image(files.before),
        None if files.after is None else image(files.after),
        files.group,
    )
    for other in (case.b, *(target.truth for target in case.targets)):
        if other.shape != case.a.shape:
            raise MediaError(f"{files.a.parent}: images of different sizes in one case ({files.name})")
    return case


def _spread(count: int, limit: int | None) -> list[int]:
    """Return at most `limit` evenly spaced indices below `count`."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * k + 1) * count // (2 * limit) for k in range(limit)]


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `open_set`."""

    name: str  # without the factor
    root: Path
    factor: int | None
    limit: int | None
    partial: bool


def _set(
    request: _Request,
    protocol: str,
    found: Sequence[_Files],
    expected_files: str,
    expected: int | None = None,
    grouped: bool = False,
    view: Callable[[Tensor], Tensor] = _identity,
) -> DataSet:
    """Check that all expected files exist and build the set."""
    if not request.root.is_dir():
        raise MediaError(f"{request.name}: no folder {request.root}; expected {expected_files}")
    gaps = [(files, path) for files in found if (path := files.missing()) is not None]
    absent = {id(files) for files, _ in gaps}
    whole = [files for files in found if id(files) not in absent]
    wanted = max(expected or 0, len(found))
    if not whole or (len(whole) < wanted and not request.partial):
        first = f"; first missing: {gaps[0][1]}" if gaps else ""
        hint = "; --partial evaluates the available cases" if whole else ""
        raise MediaError(
            f"{request.name}: expected {expected_files} under {request.root}, "
            f"found {len(whole)} of {wanted or 'any'} cases{first}{hint}"
        )
    chosen = [whole[i] for i in _spread(len(whole), request.limit)]
    note = "" if len(chosen) == wanted else f"{len(chosen)} of {wanted} cases"

    def cases() -> Iterator[Case]:
        for files in chosen:
            yield _read(files, view)

    return DataSet(request.name, protocol, len(chosen), cases, grouped, note)


Builder = Callable[[_Request], DataSet]


def _vimeo(root: Path, list_name: str, last: str) -> list[Path]:
    """List folders of Vimeo90K: those of the test list or, without one, every folder with the last image."""
    listed = root / list_name
    if listed.is_file():
        base = next((root / n for n in ("sequences", "sequence", "target") if (root / n).is_dir()), root)
        return [base / line.strip() for line in listed.read_text().splitlines() if line.strip()]
    return (
        [f for f in _folders(root) if any((f / f"{last}{s}").is_file() for s in READABLE_IMAGES)]
        if root.is_dir()
        else []
    )


def _im(folder: Path, k: int) -> Path:
    """Return im<k> with the image suffix that exists."""
    return next((p for s in sorted(READABLE_IMAGES) if (p := folder / f"im{k}{s}").is_file()), folder / f"im{k}.png")


def _last_two(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


def _vimeo_triplet(request: _Request) -> DataSet:
    root = request.root
    folders = _vimeo(root, "tri_testlist.txt", "im3")
    found = [_Files(_last_two(f), _im(f, 1), _im(f, 3), ((HALF, _im(f, 2)),)) for f in folders]
    expected_files = "tri_testlist.txt and sequences/*/*/im1.png, im2.png, im3.png"
    return _set(request, "im1, im3 -> im2, 448x256", found, expected_files)


def _vimeo_septuplet(request: _Request) -> DataSet:
    root = request.root
    folders = _vimeo(root, "sep_testlist.txt", "im7")
    expected_files = "sep_testlist.txt and sequences/*/*/im1.png ... im7.png"
    if request.name.endswith("-6x"):
        steps = [(Fraction(k - 1, 6), k) for k in range(2, 7)]
        found = [_Files(_last_two(f), _im(f, 1), _im(f, 7), tuple((t, _im(f, k)) for t, k in steps)) for f in folders]
        return _set(request, "im1, im7 -> im2 ... im6, 448x256", found, expected_files)
    found = [_Files(_last_two(f), _im(f, 3), _im(f, 5), ((HALF, _im(f, 4)),), _im(f, 1), _im(f, 7)) for f in folders]
    return _set(request, "im3, im5 (+ im1, im7) -> im4, 448x256", found, expected_files)


def _ucf101_dvf(request: _Request) -> DataSet:
    root = request.root
    base = root / "ucf101_interp_ours" if (root / "ucf101_interp_ours").is_dir() else root
    folders = sorted((p for p in base.iterdir() if p.is_dir()), key=_number) if base.is_dir() else []
    found = [_Files(f.name, f / "frame_00.png", f / "frame_02.png", ((HALF, f / "frame_01_gt.png"),)) for f in folders]
    expected_files = "379 folders with frame_00.png, frame_01_gt.png, frame_02.png"
    return _set(request, "DVF's 379 triplets of 256x256", found, expected_files, expected=379)


def _ucf101_qvi(request: _Request) -> DataSet:
    root = request.root
    base = root / "ucf101" if (root / "ucf101").is_dir() else root
    folders = sorted((p for p in base.iterdir() if p.is_dir()), key=_number) if base.is_dir() else []
    found = [
        _Files(
            f.name,
            f / "frame1.png",
            f / "frame2.png",
            ((HALF, f / "framet.png"),),
            f / "frame0.png",
            f / "frame3.png",
        )
        for f in folders
    ]
    expected_files = "100 folders with frame0.png ... frame3.png, framet.png"
    return _set(request, "QVI's 100 sets of four inputs", found, expected_files, expected=100)


def _middlebury_other(request: _Request) -> DataSet:
    root = request.root
    inputs = next((root / n for n in ("input", "other-data", "other-color-allframes") if (root / n).is_dir()), root)
    truths = next((root / n for n in ("gt", "other-gt-interp") if (root / n).is_dir()), root)
    scenes = sorted(p.name for p in truths.iterdir() if (p / "frame10i11.png").is_file()) if truths.is_dir() else []
    four = request.name.endswith("-4")
    if four:  # some scenes were published with two frames only
        scenes = [
            s for s in scenes if (inputs / s / "frame09.png").is_file() and (inputs / s / "frame12.png").is_file()
        ]
    found = [
        _Files(
            s,
            inputs / s / "frame10.png",
            inputs / s / "frame11.png",
            ((HALF, truths / s / "frame10i11.png"),),
            inputs / s / "frame09.png" if four else None,
            inputs / s / "frame12.png" if four else None,
        )
        for s in scenes
    ]
    needs = "frame09.png ... frame12.png" if four else "frame10.png, frame11.png"
    expected_files = f"{{input,other-data}}/<scene>/{needs} and {{gt,other-gt-interp}}/<scene>/frame10i11.png"
    protocol = f"{needs} -> frame10i11.png, mean of per-frame PSNR on RGB rounded to 8 bits"
    return _set(request, protocol, found, expected_files, expected=None if four else 12)


def _davis(request: _Request) -> DataSet:
    root = request.root
    base = next((root / n for n in ("JPEGImages/480p", "480p", "DAVIS/JPEGImages/480p") if (root / n).is_dir()), root)
    sequences = sorted(p for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    found = []
    for folder in sequences:
        frames = _images(folder)
        for t in range(0, len(frames) - 6, 2):
            before, a, middle, b, after = (frames[t + k] for k in (0, 2, 3, 4, 6))
            found.append(_Files(f"{folder.name}/{middle.stem}", a, b, ((HALF, middle),), before, after, folder.name))
    if root.is_dir() and 0 < len(sequences) < 90 and not request.partial:
        raise MediaError(
            f"{request.name}: expected 90 sequences JPEGImages/480p/<sequence>/00000.jpg ... under {root}, "
            f"found {len(sequences)}; --partial evaluates the available cases"
        )
    expected_files = "90 sequences JPEGImages/480p/<sequence>/00000.jpg ..."
    protocol = "QVI's windows: t+2, t+4 (+ t, t+6) -> t+3; mean per sequence, then over sequences"
    return _set(request, protocol, found, expected_files, grouped=True)


def _snu_film(request: _Request) -> DataSet:
    root = request.root
    list_name = f"test-{request.name.removeprefix('snu-film-')}.txt"
    listed = next((p for p in (root / list_name, root / "eval_modes" / list_name) if p.is_file()), None)
    found = []
    for line in listed.read_text().splitlines() if listed else ():
        words = line.split()
        if len(words) != 3:
            continue
        # the lists were written for another root: keep the path from "test/" on
        a, middle, b = (root / "test" / w.split("/test/", 1)[-1].removeprefix("test/") for w in words)
        found.append(_Files(f"{a.parent.name}/{middle.stem}", a, b, ((HALF, middle),)))
    expected_files = f"{list_name} (or eval_modes/{list_name}) and the images under test/ that it lists"
    return _set(request, "310 triplets of SNU-FILM", found, expected_files, expected=310)


XIPH_CLIPS = (
    "BoxingPractice", "Crosswalk", "DrivingPOV", "FoodMarket",
    "FoodMarket2", "RitualDance", "SquareAndTimelapse", "Tango",
)  # fmt: skip


def xiph_2k(image: Tensor) -> Tensor:
    """Halve a 4096x2160 image by area averaging, rounded to 8 bits."""
    pixels = cv2.resize(image.permute(1, 2, 0).numpy(), (2048, 1080), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.round(pixels * 255) / 255).permute(2, 0, 1).contiguous()


def xiph_4k(image: Tensor) -> Tensor:
    """Crop the centre 2048x1080 of a 4096x2160 image."""
    return image[:, 540:-540, 1024:-1024].contiguous()


def _xiph(request: _Request) -> DataSet:
    root = request.root
    base = root / "netflix" if (root / "netflix").is_dir() else root
    found = [
        _Files(
            f"{clip}-{k:03d}",
            base / f"{clip}-{k - 1:03d}.png",
            base / f"{clip}-{k + 1:03d}.png",
            ((HALF, base / f"{clip}-{k:03d}.png"),),
            base / f"{clip}-{k - 3:03d}.png" if k > 2 else None,
            base / f"{clip}-{k + 3:03d}.png" if k < 98 else None,
            clip,
        )
        for clip in XIPH_CLIPS
        for k in range(2, 99, 2)
    ]
    two = request.name == "xiph-2k"
    protocol = "odd -> even, " + ("INTER_AREA to 2048x1080" if two else "centre 2048x1080 of 4096x2160")
    expected_files = "netflix/BoxingPractice-001.png ... -100.png and seven more clips of 4096x2160"
    return _set(request, protocol, found, expected_files, view=xiph_2k if two else xiph_4k)


def _x_test(request: _Request) -> DataSet:
    root = request.root
    base = root / "test" if (root / "test").is_dir() else root
    scenes = sorted(f for f in _folders(base) if (f / "0000.png").is_file()) if base.is_dir() else []
    found = [
        _Files(
            f.name,
            f / "0000.png",
            f / "0032.png",
            tuple((Fraction(k, 32), f / f"{k:04d}.png") for k in range(4, 32, 4)),
            group=f.name,
        )
        for f in scenes
    ]
    expected_files = "15 scenes test/Type*/<scene>/0000.png ... 0032.png"
    return _set(request, "0, 32 -> 4, 8 ... 28 of 4K scenes", found, expected_files, expected=15)


def _windows(frames: Sequence[Path], factor: int, folder: str) -> Iterator[_Files]:
    kept = range(0, len(frames), factor)
    for i, (a, b) in enumerate(pairwise(kept)):
        yield _Files(
            f"{folder}/{frames[a].stem}",
            frames[a],
            frames[b],
            tuple((Fraction(k, factor), frames[a + k]) for k in range(1, factor)),
            frames[a - factor] if i else None,
            frames[b + factor] if b + factor < len(frames) else None,
            folder,
        )


def _frames(request: _Request) -> DataSet:
    root = request.root
    step = request.factor or 2
    folders = _folders(root) if root.is_dir() else []
    found = [files for f in folders for files in _windows(_images(f), step, f.name)]
    expected_files = f"folders of at least {step + 1} numbered images"
    protocol = f"numbered images, every {step}th kept, the others interpolated"
    return _set(replace(request, name=f"frames:{step}"), protocol, found, expected_files)


def _triplets(request: _Request) -> DataSet:
    root = request.root
    found = []
    for folder in _folders(root) if root.is_dir() else []:
        images = _images(folder)
        if len(images) == 3:
            a, middle, b = images
            found.append(_Files(folder.relative_to(root).as_posix(), a, b, ((HALF, middle),)))
    expected_files = "folders of three images"
    return _set(request, "outer two of three -> middle", found, expected_files)


def scaled_down(data: DataSet, rows: int) -> DataSet:
    """Scale the frames of a set down to at most `rows` rows by area averaging; even sides, the aspect kept.

    Raises:
        InputError: `rows` is below 16; on reading, the set has true flow or regions, which are not scaled.
    """
    if rows < 16:
        raise InputError(f"frames cannot be scaled to {rows} rows; give at least 16")

    def smaller(frame: Tensor) -> Tensor:
        height, width = frame.shape[-2:]
        if height <= rows:
            return frame
        size = (rows // 2 * 2, max(2, round(width * rows / height / 2) * 2))
        return F.interpolate(frame[None], size=size, mode="area")[0]

    def scaled(case: Case) -> Case:
        if case.flow is not None or any(target.regions for target in case.targets):
            raise InputError(f"{data.name}: true flow and regions are not scaled; leave the row limit out for this set")
        return replace(
            case,
            a=smaller(case.a),
            b=smaller(case.b),
            targets=tuple(Target(target.t, smaller(target.truth)) for target in case.targets),
            before=None if case.before is None else smaller(case.before),
            after=None if case.after is None else smaller(case.after),
        )

    note = f"taller frames scaled down to {rows} rows (area average)"
    note = f"{data.note}; {note}" if data.note else note
    return replace(data, cases=lambda: map(scaled, data.cases()), note=note)


def middle_only(data: DataSet) -> DataSet:
    """Keep the middle target of every case: the frame farthest from both inputs, the hardest of them."""

    def kept(case: Case) -> Case:
        middle = len(case.targets) // 2
        return replace(case, targets=case.targets[middle : middle + 1])

    note = f"{data.note}; the middle target only" if data.note else "the middle target only"
    return replace(data, cases=lambda: map(kept, data.cases()), note=note)


# Videos ----------------------------------------------------------------------------------------------------------


def video_windows(frames: Iterable[Frame], factor: int) -> Iterator[tuple[Frame | None, list[Frame], Frame | None]]:
    """Yield (previous kept frame, window of `factor + 1` frames, next kept frame); buffers two windows."""
    block: list[Frame] = []  # the last kept frame and the frames after it
    waiting: tuple[Frame | None, list[Frame]] | None = None  # until the kept frame after it is known
    before: Frame | None = None
    for frame in frames:
        block.append(frame)
        if len(block) == factor + 1:
            if waiting is not None:
                yield (*waiting, frame)
            waiting, before, block = (before, block), block[0], [frame]
    if waiting is not None:
        yield (*waiting, None)


def video_case(
    name: str, group: str, before: Frame | None, window: Sequence[Frame], after: Frame | None
) -> Case | None:
    """Convert one window of a video to a case; None if it contains a scene change."""
    a, b = window[0], window[-1]
    if a.shot != b.shot:
        return None

    def rgb(frame: Frame | None) -> Tensor | None:
        return None if frame is None or frame.shot != a.shot else colour.to_rgb(frame.planes, frame.format)

    span = b.pts - a.pts
    # instants come from the timestamps, for videos of variable frame rate
    targets = tuple(Target((f.pts - a.pts) / span, colour.to_rgb(f.planes, f.format)) for f in window[1:-1])
    first, last = (colour.to_rgb(f.planes, f.format) for f in (a, b))
    return Case(name, first, last, targets, rgb(before), rgb(after), group)


def _video_cases(path: Path, factor: int, limit: int | None) -> Iterator[Case]:
    info = probe(str(path))
    total = None if info.header_frames is None else max(0, (info.header_frames - 1) // factor)
    chosen = None if limit is None or total is None else set(_spread(total, limit))
    given = 0
    with open_reader(str(path)) as reader:
        for index, (before, window, after) in enumerate(video_windows(shots.label(reader, shots.Thumbnails()), factor)):
            if chosen is not None and index not in chosen:
                continue
            case = video_case(f"{path.name}@{float(window[0].pts):.3f}s", path.name, before, window, after)
            if case is not None:
                yield case
                given += 1
            if limit is not None and given >= limit:
                return


def _videos(request: _Request) -> DataSet:
    root = request.root
    step = request.factor or 2
    videos = [root] if root.is_file() else []
    if root.is_dir():
        videos = sorted(p for p in root.rglob("*") if p.suffix.lower() in READABLE_VIDEOS)
    if not videos:
        raise MediaError(
            f"{request.name}: expected videos ({', '.join(sorted(READABLE_VIDEOS))}) under {root}, found none"
        )
    each = None if request.limit is None else max(1, -(-request.limit // len(videos)))

    def cases() -> Iterator[Case]:
        given = 0
        for path in videos:
            for case in _video_cases(path, step, each):
                yield case
                given += 1
                if request.limit is not None and given >= request.limit:
                    return

    windows = "1 window" if each == 1 else f"{each} windows"
    note = "" if request.limit is None else f"at most {windows} of each of {len(videos)} videos"
    return DataSet(
        f"videos:{step}", f"videos, every {step}th frame kept, the others interpolated", None, cases, note=note
    )


# True flow ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _FlowFiles:
    name: str
    a: Path
    b: Path
    truth: Callable[[], FlowTruth]
    files: tuple[Path, ...]  # read by `truth`
    before: Path | None = None
    after: Path | None = None


def _flow_set(request: _Request, protocol: str, found: Sequence[_FlowFiles], expected_files: str) -> DataSet:
    if not request.root.is_dir():
        raise MediaError(f"{request.name}: no folder {request.root}; expected {expected_files}")
    whole = [f for f in found if all(p.is_file() for p in (f.a, f.b, *f.files))]
    if not whole or (len(whole) < len(found) and not request.partial):
        hint = "; --partial evaluates the available cases" if whole else ""
        wanted = len(found) or "any"
        raise MediaError(
            f"{request.name}: expected {expected_files} under {request.root}, "
            f"found {len(whole)} of {wanted} complete cases{hint}"
        )
    chosen = [whole[i] for i in _spread(len(whole), request.limit)]

    def cases() -> Iterator[Case]:
        for files in chosen:
            yield Case(
                files.name,
                read_image(files.a),
                read_image(files.b),
                before=read_image(files.before) if files.before and files.before.is_file() else None,
                after=read_image(files.after) if files.after and files.after.is_file() else None,
                flow=files.truth(),
            )

    note = "" if len(chosen) == len(found) else f"{len(chosen)} of {len(found)} cases"
    return DataSet(request.name, protocol, len(chosen), cases, note=note)


def _sintel_truth(flow: Path, occluded: Path, invalid: Path) -> FlowTruth:
    values, known = read_flo(flow)
    if invalid.is_file():
        known = known & ~_read_mask(invalid)
    return FlowTruth(values, known, ~_read_mask(occluded) if occluded.is_file() else None)


def _sintel(request: _Request) -> DataSet:
    """Read the published layout (training/{clean,final,flow,occlusions,invalid}) or folders with their own gt/."""
    root = request.root
    found = []
    base = root / "training" if (root / "training").is_dir() else root
    style = "clean" if request.name.endswith("clean") else "final"
    for flow in sorted(root.rglob("*.flo")) if root.is_dir() else []:
        number = int(flow.stem.rsplit("_", 1)[1])
        if flow.parent.name == "gt":
            images = flow.parent.parent
            occluded, invalid = flow.parent / f"occlusions_{flow.stem}.png", flow.parent / f"invalid_{flow.stem}.png"
        else:
            scene = flow.parent.name
            images = base / style / scene
            occluded = base / "occlusions" / scene / f"{flow.stem}.png"
            invalid = base / "invalid" / scene / f"{flow.stem}.png"
        around = [images / f"frame_{number + k:04d}.png" for k in (-1, 0, 1, 2)]
        found.append(
            _FlowFiles(
                f"{images.name}/{flow.stem}",
                around[1],
                around[2],
                partial_call(_sintel_truth, flow, occluded, invalid),
                (flow,),
                around[0],
                around[3],
            )
        )
    expected_files = f"training/{style}/<scene>/frame_0001.png ... and training/flow/<scene>/frame_0001.flo"
    return _flow_set(request, "true flow of frame k to k + 1, 1024x436", found, expected_files)


def _kitti_truth(all_flow: Path, seen_flow: Path) -> FlowTruth:
    values, known = read_kitti_flow(all_flow)
    return FlowTruth(values, known, read_kitti_flow(seen_flow)[1] if seen_flow.is_file() else None)


def _kitti(request: _Request) -> DataSet:
    root = request.root
    found = []
    base = root / "training" if (root / "training").is_dir() else root
    if (root / "flow_gt.png").is_file():
        truth = root / "flow_gt.png"
        call = partial_call(_kitti_truth, truth, root / "flow_gt_noc.png")
        found.append(_FlowFiles(root.name, root / "frame1.png", root / "frame2.png", call, (truth,)))
    for truth in sorted((base / "flow_occ").glob("*_10.png")):
        scene = truth.name.removesuffix("_10.png")
        call = partial_call(_kitti_truth, truth, base / "flow_noc" / truth.name)
        images = base / "image_2"
        found.append(_FlowFiles(scene, images / f"{scene}_10.png", images / f"{scene}_11.png", call, (truth,)))
    expected_files = "training/image_2/000000_10.png, _11.png and training/flow_occ/000000_10.png"
    return _flow_set(request, "true flow of KITTI 2015, sparse", found, expected_files)


def _middlebury_truth(flow: Path) -> FlowTruth:
    return FlowTruth(*read_flo(flow))


def _middlebury_flow(request: _Request) -> DataSet:
    root = request.root
    found = []
    for flow in sorted(root.rglob("flow10.flo")) if root.is_dir() else []:
        folder = flow.parent
        if not (folder / "frame10.png").is_file():  # published separately: other-gt-flow/<scene>, other-data/<scene>
            folder = root / "other-data" / folder.name
        around = [folder / f"frame{k:02d}.png" for k in (9, 10, 11, 12)]
        call = partial_call(_middlebury_truth, flow)
        found.append(_FlowFiles(folder.name, around[1], around[2], call, (flow,), around[0], around[3]))
    expected_files = "flow10.flo with frame10.png, frame11.png beside it, or other-gt-flow/ and other-data/"
    return _flow_set(request, "true flow of frame10 to frame11", found, expected_files)


# The list -------------------------------------------------------------------------------------------------------

SETS: dict[str, Builder] = {
    "vimeo90k-triplet": _vimeo_triplet,
    "vimeo90k-septuplet": _vimeo_septuplet,
    "vimeo90k-septuplet-6x": _vimeo_septuplet,
    "ucf101-dvf": _ucf101_dvf,
    "ucf101-qvi": _ucf101_qvi,
    "middlebury-other": _middlebury_other,
    "middlebury-other-4": _middlebury_other,
    "davis": _davis,
    "snu-film-easy": _snu_film,
    "snu-film-medium": _snu_film,
    "snu-film-hard": _snu_film,
    "snu-film-extreme": _snu_film,
    "xiph-2k": _xiph,
    "xiph-4k": _xiph,
    "x-test": _x_test,
    "videos": _videos,
    "frames": _frames,
    "triplets": _triplets,
    "sintel": _sintel,
    "sintel-clean": _sintel,
    "kitti": _kitti,
    "middlebury-flow": _middlebury_flow,
}
WITH_FACTOR = ("videos", "frames")


def open_set(name: str, root: Path | str, limit: int | None = None, partial: bool = False) -> DataSet:
    """Open a data set in a folder.

    Args:
        name: one of `SETS`; for "videos" and "frames" with the interval of kept frames: "videos:4".
        root: the folder of the unpacked set.
        limit: maximum number of cases, evenly spread over the set.
        partial: accept an incomplete set; its `note` gives the number of cases.

    Raises:
        InputError: unknown name, invalid factor or limit.
        MediaError: the set is missing or incomplete; the message lists expected and available files.
    """
    base, _, number = name.partition(":")
    if base not in SETS:
        raise InputError(f"data set {base!r} is unknown; there are {', '.join(SETS)}")
    if number and base not in WITH_FACTOR:
        raise InputError(f"data set {base!r} takes no factor; {' and '.join(WITH_FACTOR)} do")
    if number and (not number.isdecimal() or int(number) < 2):
        raise InputError(f"{name!r}: the factor must be an integer of at least 2, as in {base}:4")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1, not {limit}")
    return SETS[base](_Request(base, Path(root), int(number) if number else None, limit, partial))
