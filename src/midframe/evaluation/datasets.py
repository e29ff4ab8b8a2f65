"""Benchmark folders as cases: two pictures (or four) in, the true pictures between them to compare with.

Each set is read in the layout in which it is published; nothing is downloaded. A set that is missing or half
copied is one line: what was looked for, where, and what was found. Knows no model and no measure.

    set                       what goes in -> what is asked             protocol of
    vimeo90k-triplet          im1, im3 -> im2                           Xue et al. 2019, 3,782 cases
    vimeo90k-septuplet        im3, im5 (im1, im7 beside) -> im4         QVI's four inputs, 7,824 cases
    vimeo90k-septuplet-6x     im1, im7 -> im2 ... im6
    ucf101-dvf                frame_00, frame_02 -> frame_01_gt         DVF, 379 cases of 256x256
    ucf101-qvi                frame1, frame2 (0, 3 beside) -> framet    QVI, 100 cases
    middlebury-other          frame10, frame11 -> frame10i11            Baker et al. 2011, 12 cases
    middlebury-other-4        the same with frame09, frame12 beside
    davis                     t+2, t+4 (t, t+6 beside) -> t+3           QVI: 90 sequences, means per sequence first
    snu-film-easy ... extreme lists test-easy.txt ...                   Choi et al. 2020, 310 cases each
    xiph-2k, xiph-4k          odd frames -> even, first 100 frames      Niklaus & Liu 2020, 8 clips
    x-test                    0, 32 -> 4, 8 ... 28                      XVFI, 15 scenes
    videos:N                  every Nth frame of each film -> the rest
    frames:N                  the same for folders of numbered pictures
    triplets                  folders of three pictures: outer two -> middle
    sintel, kitti, middlebury-flow   true flow, for end-point errors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial as partial_call
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from midframe import colour, shots
from midframe.errors import InputError, MediaError
from midframe.types import Frame
from midframe.video.probe import probe
from midframe.video.reader import open_reader

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
FILMS = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".y4m", ".ts", ".mpg", ".mpeg", ".264", ".265", ".ogv"}
HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One true picture between a and b."""

    t: Fraction  # 0 < t < 1
    truth: Tensor  # (3, H, W) RGB float32, 0..1
    regions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (H, W) bool: scored on their own as well


@dataclass(frozen=True, slots=True, eq=False)
class FlowTruth:
    """The true flow from a to b."""

    flow: Tensor  # (2, H, W) float32, pixels, the convention of `ops`
    valid: Tensor | None = None  # (H, W) bool: where it is known; everywhere if None
    seen: Tensor | None = None  # (H, W) bool: pixels of a that are seen in b as well


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question to a model: what lies between a and b?"""

    name: str
    a: Tensor  # (3, H, W) RGB float32, 0..1
    b: Tensor
    targets: tuple[Target, ...] = ()  # none: the case is about flow only
    before: Tensor | None = None  # neighbours for four-frame models
    after: Tensor | None = None
    group: str = ""  # sequence or scene; some protocols take means inside a group first
    kind: str = ""  # "static logo", "thin lines": reports split by it
    motion: float | None = None  # pixels, mean length of the true motion: reports split by it
    pan: bool = False  # everything moves by one constant translation: the evenness of steps is measured
    flow: FlowTruth | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """A named, lazily read list of cases."""

    name: str
    protocol: str  # one line for the reader of a table
    count: int | None  # cases, where known before reading
    cases: Callable[[], Iterator[Case]]  # every call starts over
    grouped: bool = False  # the protocol takes means inside groups, then over groups
    note: str = ""  # what is unusual: a part of the set only


# Reading --------------------------------------------------------------------------------------------------------


def read_picture(path: Path) -> Tensor:
    """A picture file as (3, H, W) RGB float32, 0..1; 8 or 16 bits; grey is tripled, alpha dropped."""
    pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if pixels is None:
        raise MediaError(f"{path}: not a picture that OpenCV can read")
    scale = 65535.0 if pixels.dtype == np.uint16 else 255.0
    rgb = np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(rgb / np.float32(scale))


def read_flo(path: Path) -> tuple[Tensor, Tensor]:
    """A Middlebury .flo file: flow (2, H, W) float32 in pixels, and where it is known (H, W) bool."""
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
    """A KITTI 16-bit flow picture: flow (2, H, W) float32 in pixels, and where it is known (H, W) bool."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise MediaError(f"{path}: not a KITTI flow picture (16 bits, three channels)")
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


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES), key=_number)


def _folders(root: Path) -> list[Path]:
    """Root and every folder under it, in order."""
    return [root, *sorted(p for p in root.rglob("*") if p.is_dir())]


# Cases made of picture files ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one case, not yet read."""

    name: str
    a: Path
    b: Path
    targets: tuple[tuple[Fraction, Path], ...] = ()
    before: Path | None = None
    after: Path | None = None
    group: str = ""

    def missing(self) -> Path | None:
        """The first file that is not there."""
        wanted = [self.a, self.b, *(p for _, p in self.targets), self.before, self.after]
        return next((p for p in wanted if p is not None and not p.is_file()), None)


def _as_it_is(picture: Tensor) -> Tensor:
    return picture


def _read(files: _Files, view: Callable[[Tensor], Tensor]) -> Case:
    def picture(path: Path) -> Tensor:
        return view(read_picture(path))

    case = Case(
        files.name,
        picture(files.a),
        picture(files.b),
        tuple(Target(t, picture(path)) for t, path in files.targets),
        None if files.before is None else picture(files.before),
        None if files.after is None else picture(files.after),
        files.group,
    )
    for other in (case.b, *(target.truth for target in case.targets)):
        if other.shape != case.a.shape:
            raise MediaError(f"{files.a.parent}: pictures of different sizes in one case ({files.name})")
    return case


def _spread(count: int, limit: int | None) -> list[int]:
    """Indices of at most `limit` of `count` things, evenly spread."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * k + 1) * count // (2 * limit) for k in range(limit)]


def _set(
    name: str,
    protocol: str,
    root: Path,
    found: Sequence[_Files],
    looked_for: str,
    limit: int | None,
    partial: bool,
    expected: int | None = None,
    grouped: bool = False,
    view: Callable[[Tensor], Tensor] = _as_it_is,
) -> DataSet:
    """Check that what should be there is, and wrap it up."""
    if not root.is_dir():
        raise MediaError(f"{name}: no folder {root}; looked for {looked_for}")
    gaps = [(files, path) for files in found if (path := files.missing()) is not None]
    absent = {id(files) for files, _ in gaps}
    whole = [files for files in found if id(files) not in absent]
    wanted = max(expected or 0, len(found))
    if not whole or (len(whole) < wanted and not partial):
        first = f"; first missing: {gaps[0][1]}" if gaps else ""
        hint = "; --partial takes what is there" if whole else ""
        raise MediaError(
            f"{name}: looked for {looked_for} under {root}, found {len(whole)} of {wanted or 'any'} cases{first}{hint}"
        )
    chosen = [whole[i] for i in _spread(len(whole), limit)]
    note = "" if len(chosen) == wanted else f"{len(chosen)} of {wanted} cases"

    def cases() -> Iterator[Case]:
        for files in chosen:
            yield _read(files, view)

    return DataSet(name, protocol, len(chosen), cases, grouped, note)


Builder = Callable[[str, Path, int | None, int | None, bool], DataSet]  # name, root, factor, limit, partial


def _vimeo(root: Path, list_name: str, last: str) -> list[Path]:
    """Folders of Vimeo90K: those of the test list, or without a list every folder that holds the last picture."""
    listed = root / list_name
    if listed.is_file():
        base = next((root / n for n in ("sequences", "sequence", "target") if (root / n).is_dir()), root)
        return [base / line.strip() for line in listed.read_text().splitlines() if line.strip()]
    return [f for f in _folders(root) if any((f / f"{last}{s}").is_file() for s in PICTURES)] if root.is_dir() else []


def _im(folder: Path, k: int) -> Path:
    """im<k> with whatever picture ending there is."""
    return next((p for s in sorted(PICTURES) if (p := folder / f"im{k}{s}").is_file()), folder / f"im{k}.png")


def _last_two(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


def _vimeo_triplet(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    folders = _vimeo(root, "tri_testlist.txt", "im3")
    found = [_Files(_last_two(f), _im(f, 1), _im(f, 3), ((HALF, _im(f, 2)),)) for f in folders]
    looked_for = "tri_testlist.txt and sequences/*/*/im1.png, im2.png, im3.png"
    return _set(name, "im1, im3 -> im2, 448x256", root, found, looked_for, limit, partial)


def _vimeo_septuplet(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    folders = _vimeo(root, "sep_testlist.txt", "im7")
    looked_for = "sep_testlist.txt and sequences/*/*/im1.png ... im7.png"
    if name.endswith("-6x"):
        steps = [(Fraction(k - 1, 6), k) for k in range(2, 7)]
        found = [_Files(_last_two(f), _im(f, 1), _im(f, 7), tuple((t, _im(f, k)) for t, k in steps)) for f in folders]
        return _set(name, "im1, im7 -> im2 ... im6, 448x256", root, found, looked_for, limit, partial)
    found = [_Files(_last_two(f), _im(f, 3), _im(f, 5), ((HALF, _im(f, 4)),), _im(f, 1), _im(f, 7)) for f in folders]
    return _set(name, "im3, im5 with im1, im7 beside -> im4, 448x256", root, found, looked_for, limit, partial)


def _ucf101_dvf(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    base = root / "ucf101_interp_ours" if (root / "ucf101_interp_ours").is_dir() else root
    folders = sorted((p for p in base.iterdir() if p.is_dir()), key=_number) if base.is_dir() else []
    found = [_Files(f.name, f / "frame_00.png", f / "frame_02.png", ((HALF, f / "frame_01_gt.png"),)) for f in folders]
    looked_for = "379 folders with frame_00.png, frame_01_gt.png, frame_02.png"
    return _set(name, "DVF's 379 triplets of 256x256", root, found, looked_for, limit, partial, expected=379)


def _ucf101_qvi(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
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
    looked_for = "100 folders with frame0.png ... frame3.png, framet.png"
    return _set(name, "QVI's 100 sets of four inputs", root, found, looked_for, limit, partial, expected=100)


def _middlebury_other(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    inputs = next((root / n for n in ("input", "other-data", "other-color-allframes") if (root / n).is_dir()), root)
    truths = next((root / n for n in ("gt", "other-gt-interp") if (root / n).is_dir()), root)
    scenes = sorted(p.name for p in truths.iterdir() if (p / "frame10i11.png").is_file()) if truths.is_dir() else []
    four = name.endswith("-4")
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
    looked_for = f"{{input,other-data}}/<scene>/{needs} and {{gt,other-gt-interp}}/<scene>/frame10i11.png"
    protocol = f"{needs} -> frame10i11.png, PSNR per picture on RGB rounded to 8 bits, then the mean"
    return _set(name, protocol, root, found, looked_for, limit, partial, expected=None if four else 12)


def _davis(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    base = next((root / n for n in ("JPEGImages/480p", "480p", "DAVIS/JPEGImages/480p") if (root / n).is_dir()), root)
    sequences = sorted(p for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    found = []
    for folder in sequences:
        frames = _pictures(folder)
        for t in range(0, len(frames) - 6, 2):
            before, a, middle, b, after = (frames[t + k] for k in (0, 2, 3, 4, 6))
            found.append(_Files(f"{folder.name}/{middle.stem}", a, b, ((HALF, middle),), before, after, folder.name))
    if root.is_dir() and 0 < len(sequences) < 90 and not partial:
        raise MediaError(
            f"{name}: looked for 90 sequences JPEGImages/480p/<sequence>/00000.jpg ... under {root}, "
            f"found {len(sequences)}; --partial takes what is there"
        )
    looked_for = "90 sequences JPEGImages/480p/<sequence>/00000.jpg ..."
    protocol = "QVI's windows: t+2, t+4 with t, t+6 beside -> t+3; mean per sequence, then over sequences"
    return _set(name, protocol, root, found, looked_for, limit, partial, grouped=True)


def _snu_film(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    list_name = f"test-{name.removeprefix('snu-film-')}.txt"
    listed = next((p for p in (root / list_name, root / "eval_modes" / list_name) if p.is_file()), None)
    found = []
    for line in listed.read_text().splitlines() if listed else ():
        words = line.split()
        if len(words) != 3:
            continue
        # the lists were written for another root: keep the path from "test/" on
        a, middle, b = (root / "test" / w.split("/test/", 1)[-1].removeprefix("test/") for w in words)
        found.append(_Files(f"{a.parent.name}/{middle.stem}", a, b, ((HALF, middle),)))
    looked_for = f"{list_name} (or eval_modes/{list_name}) and the pictures under test/ it names"
    return _set(name, "310 triplets of SNU-FILM", root, found, looked_for, limit, partial, expected=310)


XIPH_CLIPS = (
    "BoxingPractice", "Crosswalk", "DrivingPOV", "FoodMarket",
    "FoodMarket2", "RitualDance", "SquareAndTimelapse", "Tango",
)  # fmt: skip


def _xiph_2k(picture: Tensor) -> Tensor:
    pixels = cv2.resize(picture.permute(1, 2, 0).numpy(), (2048, 1080), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.round(pixels * 255) / 255).permute(2, 0, 1).contiguous()


def _xiph_4k(picture: Tensor) -> Tensor:
    return picture[:, 540:-540, 1024:-1024].contiguous()


def _xiph(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
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
    two = name == "xiph-2k"
    protocol = "odd -> even, " + ("INTER_AREA to 2048x1080" if two else "centre 2048x1080 of 4096x2160")
    looked_for = "netflix/BoxingPractice-001.png ... -100.png and seven more clips of 4096x2160"
    return _set(name, protocol, root, found, looked_for, limit, partial, view=_xiph_2k if two else _xiph_4k)


def _x_test(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
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
    looked_for = "15 scenes test/Type*/<scene>/0000.png ... 0032.png"
    return _set(name, "0, 32 -> 4, 8 ... 28 of 4K scenes", root, found, looked_for, limit, partial, expected=15)


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


def _frames(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    step = factor or 2
    folders = _folders(root) if root.is_dir() else []
    found = [files for f in folders for files in _windows(_pictures(f), step, f.name)]
    looked_for = f"folders of at least {step + 1} numbered pictures"
    protocol = f"numbered pictures, every {step}th kept, the rest restored"
    return _set(f"frames:{step}", protocol, root, found, looked_for, limit, partial)


def _triplets(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    found = []
    for folder in _folders(root) if root.is_dir() else []:
        pictures = _pictures(folder)
        if len(pictures) == 3:
            a, middle, b = pictures
            found.append(_Files(folder.relative_to(root).as_posix(), a, b, ((HALF, middle),)))
    looked_for = "folders of three pictures"
    return _set(name, "outer two of three -> middle", root, found, looked_for, limit, partial)


# Films ----------------------------------------------------------------------------------------------------------


def film_windows(frames: Iterable[Frame], factor: int) -> Iterator[tuple[Frame | None, list[Frame], Frame | None]]:
    """Kept frame before, window of `factor + 1` frames with kept ends, kept frame after; holds two windows at most."""
    block: list[Frame] = []  # the last kept frame and what came since
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


def film_case(name: str, group: str, before: Frame | None, window: Sequence[Frame], after: Frame | None) -> Case | None:
    """One window of a film as a case; None across a cut, where there is nothing to interpolate."""
    a, b = window[0], window[-1]
    if a.shot != b.shot:
        return None

    def rgb(frame: Frame | None) -> Tensor | None:
        return None if frame is None or frame.shot != a.shot else colour.to_rgb(frame.planes, frame.format)

    span = b.pts - a.pts
    # instants are the true ones, which matters in films of variable rate
    targets = tuple(Target((f.pts - a.pts) / span, colour.to_rgb(f.planes, f.format)) for f in window[1:-1])
    first, last = (colour.to_rgb(f.planes, f.format) for f in (a, b))
    return Case(name, first, last, targets, rgb(before), rgb(after), group)


def _film(path: Path, factor: int, limit: int | None) -> Iterator[Case]:
    info = probe(str(path))
    total = None if info.header_frames is None else max(0, (info.header_frames - 1) // factor)
    chosen = None if limit is None or total is None else set(_spread(total, limit))
    given = 0
    with open_reader(str(path)) as reader:
        for index, (before, window, after) in enumerate(film_windows(shots.label(reader, shots.Thumbnails()), factor)):
            if chosen is not None and index not in chosen:
                continue
            case = film_case(f"{path.name}@{float(window[0].pts):.3f}s", path.name, before, window, after)
            if case is not None:
                yield case
                given += 1
            if limit is not None and given >= limit:
                return


def _videos(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    step = factor or 2
    films = [root] if root.is_file() else []
    if root.is_dir():
        films = sorted(p for p in root.rglob("*") if p.suffix.lower() in FILMS)
    if not films:
        raise MediaError(f"{name}: looked for films ({', '.join(sorted(FILMS))}) under {root}, found none")
    each = None if limit is None else max(1, -(-limit // len(films)))

    def cases() -> Iterator[Case]:
        given = 0
        for path in films:
            for case in _film(path, step, each):
                yield case
                given += 1
                if limit is not None and given >= limit:
                    return

    windows = "1 window" if each == 1 else f"{each} windows"
    note = "" if limit is None else f"at most {windows} of each of {len(films)} films"
    return DataSet(f"videos:{step}", f"films, every {step}th frame kept, the rest restored", None, cases, note=note)


# True flow ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _FlowFiles:
    name: str
    a: Path
    b: Path
    truth: Callable[[], FlowTruth]
    files: tuple[Path, ...]  # what `truth` reads
    before: Path | None = None
    after: Path | None = None


def _flow_set(
    name: str, protocol: str, root: Path, found: Sequence[_FlowFiles], looked_for: str, limit: int | None, partial: bool
) -> DataSet:
    if not root.is_dir():
        raise MediaError(f"{name}: no folder {root}; looked for {looked_for}")
    whole = [f for f in found if all(p.is_file() for p in (f.a, f.b, *f.files))]
    if not whole or (len(whole) < len(found) and not partial):
        hint = "; --partial takes what is there" if whole else ""
        wanted = len(found) or "any"
        raise MediaError(
            f"{name}: looked for {looked_for} under {root}, found {len(whole)} of {wanted} cases whole{hint}"
        )
    chosen = [whole[i] for i in _spread(len(whole), limit)]

    def cases() -> Iterator[Case]:
        for files in chosen:
            yield Case(
                files.name,
                read_picture(files.a),
                read_picture(files.b),
                before=read_picture(files.before) if files.before and files.before.is_file() else None,
                after=read_picture(files.after) if files.after and files.after.is_file() else None,
                flow=files.truth(),
            )

    note = "" if len(chosen) == len(found) else f"{len(chosen)} of {len(found)} cases"
    return DataSet(name, protocol, len(chosen), cases, note=note)


def _sintel_truth(flow: Path, occluded: Path, invalid: Path) -> FlowTruth:
    values, known = read_flo(flow)
    if invalid.is_file():
        known = known & ~_read_mask(invalid)
    return FlowTruth(values, known, ~_read_mask(occluded) if occluded.is_file() else None)


def _sintel(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    """The published layout (training/{clean,final,flow,occlusions,invalid}), or folders with a gt/ of their own."""
    found = []
    base = root / "training" if (root / "training").is_dir() else root
    style = "clean" if name.endswith("clean") else "final"
    for flow in sorted(root.rglob("*.flo")) if root.is_dir() else []:
        number = int(flow.stem.rsplit("_", 1)[1])
        if flow.parent.name == "gt":
            pictures = flow.parent.parent
            occluded, invalid = flow.parent / f"occlusions_{flow.stem}.png", flow.parent / f"invalid_{flow.stem}.png"
        else:
            scene = flow.parent.name
            pictures = base / style / scene
            occluded = base / "occlusions" / scene / f"{flow.stem}.png"
            invalid = base / "invalid" / scene / f"{flow.stem}.png"
        around = [pictures / f"frame_{number + k:04d}.png" for k in (-1, 0, 1, 2)]
        found.append(
            _FlowFiles(
                f"{pictures.name}/{flow.stem}",
                around[1],
                around[2],
                partial_call(_sintel_truth, flow, occluded, invalid),
                (flow,),
                around[0],
                around[3],
            )
        )
    looked_for = f"training/{style}/<scene>/frame_0001.png ... and training/flow/<scene>/frame_0001.flo"
    return _flow_set(name, "true flow of frame k to k + 1, 1024x436", root, found, looked_for, limit, partial)


def _kitti_truth(all_flow: Path, seen_flow: Path) -> FlowTruth:
    values, known = read_kitti_flow(all_flow)
    return FlowTruth(values, known, read_kitti_flow(seen_flow)[1] if seen_flow.is_file() else None)


def _kitti(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    found = []
    base = root / "training" if (root / "training").is_dir() else root
    if (root / "flow_gt.png").is_file():
        truth = root / "flow_gt.png"
        call = partial_call(_kitti_truth, truth, root / "flow_gt_noc.png")
        found.append(_FlowFiles(root.name, root / "frame1.png", root / "frame2.png", call, (truth,)))
    for truth in sorted((base / "flow_occ").glob("*_10.png")):
        scene = truth.name.removesuffix("_10.png")
        call = partial_call(_kitti_truth, truth, base / "flow_noc" / truth.name)
        pictures = base / "image_2"
        found.append(_FlowFiles(scene, pictures / f"{scene}_10.png", pictures / f"{scene}_11.png", call, (truth,)))
    looked_for = "training/image_2/000000_10.png, _11.png and training/flow_occ/000000_10.png"
    return _flow_set(name, "true flow of KITTI 2015, sparse", root, found, looked_for, limit, partial)


def _middlebury_truth(flow: Path) -> FlowTruth:
    return FlowTruth(*read_flo(flow))


def _middlebury_flow(name: str, root: Path, factor: int | None, limit: int | None, partial: bool) -> DataSet:
    found = []
    for flow in sorted(root.rglob("flow10.flo")) if root.is_dir() else []:
        folder = flow.parent
        if not (folder / "frame10.png").is_file():  # published apart: other-gt-flow/<scene>, other-data/<scene>
            folder = root / "other-data" / folder.name
        around = [folder / f"frame{k:02d}.png" for k in (9, 10, 11, 12)]
        call = partial_call(_middlebury_truth, flow)
        found.append(_FlowFiles(folder.name, around[1], around[2], call, (flow,), around[0], around[3]))
    looked_for = "flow10.flo with frame10.png, frame11.png beside it, or other-gt-flow/ and other-data/"
    return _flow_set(name, "true flow of frame10 to frame11", root, found, looked_for, limit, partial)


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
    """A data set from its folder.

    Args:
        name: one of `SETS`; "videos" and "frames" take the kept interval after a colon: "videos:4".
        root: the folder it was unpacked to.
        limit: at most so many cases, evenly spread over the set.
        partial: take what is there of a half-copied set; its `note` says so.

    Raises:
        InputError: an unknown name or a factor that cannot be meant.
        MediaError: the set is missing or half copied; the line says what was looked for and what was found.
    """
    base, _, number = name.partition(":")
    if base not in SETS:
        raise InputError(f"data set {base!r} is unknown; there are {', '.join(SETS)}")
    if number and base not in WITH_FACTOR:
        raise InputError(f"data set {base!r} takes no factor; {' and '.join(WITH_FACTOR)} do")
    if number and (not number.isdecimal() or int(number) < 2):
        raise InputError(f"{name!r}: the factor is a whole number from 2 on, as in {base}:4")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} cases leaves nothing")
    return SETS[base](base, Path(root), int(number) if number else None, limit, partial)
