"""Images as cameras, scanners and editors write them: orientation, colour profiles, kinds of TIFF, names of outputs."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clips import png
from commands import Call
from midframe.video.probe import probe
from midframe.video.reader import open_reader


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth image in BGR whose corners differ."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 4, columns * 3, 255 - rows * 2 - columns], axis=2).astype(np.uint8)


def exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x112, 3, 1, orientation, 0, 0)


def frame_of(path: Path) -> torch.Tensor:
    """The only frame of an image, as (H, W, 3) in RGB."""
    with open_reader(path) as reader:
        (frame,) = reader
    return torch.stack(frame.planes[:3], dim=2)


def test_jpeg_inside_tiff_is_not_black(tmp_path: Path) -> None:
    path, image = tmp_path / "scan.tif", scene()
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_TIFF_COMPRESSION, 7, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 16])
    error = frame_of(path).to(torch.int32) - torch.from_numpy(image[:, :, ::-1].astype(np.int32))
    assert error.abs().float().mean() < 4


@pytest.mark.parametrize("kind", ["tiles", "big"])
def test_tiff_of_editors_is_read(tmp_path: Path, kind: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    image = scene().astype(np.uint16) * 257
    options = {"tile": (16, 16)} if kind == "tiles" else {"bigtiff": True}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", **options)
    assert probe(tmp_path / "a.tif").format.depth == 16
    assert torch.equal(frame_of(tmp_path / "a.tif").to(torch.int32), torch.from_numpy(image.astype(np.int32)))


def test_tiff_comes_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = scene()
    assert cv2.imwrite(str(path), image)
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    table = data[at + 2 : at + 2 + 12 * count] + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    entries = sorted(bytes(table[n : n + 12]) for n in range(0, len(table), 12))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    struct.pack_into("<I", data, 4, len(data))  # the directory comes last, as many programs write it
    path.write_bytes(bytes(data) + struct.pack("<H", count + 1) + b"".join(entries) + bytes(4))
    expected = np.rot90(image[:, :, ::-1], -1)
    assert torch.equal(frame_of(path), torch.from_numpy(expected.copy()))


def test_orientation_behind_the_pixels_counts(tmp_path: Path) -> None:
    """WebP has EXIF after its pixels, here more than 256 KiB from the start."""
    noise = np.random.default_rng(3).integers(0, 256, (320, 400, 3), dtype=np.uint8)
    data = cv2.imencode(".webp", noise, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert len(data) > 300_000
    size = struct.pack("<I", 399)[:3] + struct.pack("<I", 319)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + size + data[12:]
    body += b"EXIF" + struct.pack("<I", len(exif(6))) + exif(6)
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert (probe(tmp_path / "a.webp").width, probe(tmp_path / "a.webp").height) == (320, 400)


def test_cmyk_jpeg_has_no_alpha(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(scene()[:, :, ::-1]).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert not probe(tmp_path / "a.jpg").format.alpha


def profile(size: int) -> bytes:
    """A colour profile by its header: size, and RGB as the space of its samples."""
    return struct.pack(">I", size) + bytes(12) + b"RGB XYZ " + (np.arange(size - 24) % 251).astype(np.uint8).tobytes()


def profile_in(path: Path) -> bytes | None:
    """The colour profile that Pillow finds; PyAV's side data of frames crash its process now and then."""
    pillow = pytest.importorskip("PIL.Image")
    with pillow.open(path) as image:
        return image.info.get("icc_profile")


@pytest.mark.parametrize("source", [".jpg", ".png"])
@pytest.mark.parametrize("target", [".jpg", ".png"])
@pytest.mark.parametrize("size", [500, 150_000])
def test_a_colour_profile_goes_from_images_to_images(
    tmp_path: Path, call: Call, source: str, target: str, size: int
) -> None:
    data, known = cv2.imencode(source, scene())[1].tobytes(), profile(size)
    if source == ".png":
        chunk = b"iCCPDisplay P3\0\0" + zlib.compress(known)
        data = data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    else:
        parts = [known[at : at + 65000] for at in range(0, len(known), 65000)]
        for number, part in reversed(list(enumerate(parts, start=1))):
            segment = b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
            data = data[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    for name in ("a", "b"):
        (tmp_path / (name + source)).write_bytes(data)
    a, b, out = tmp_path / f"a{source}", tmp_path / f"b{source}", tmp_path / f"out{target}"
    assert call("interpolate", a, b, "-o", out, "--model", "blend").code == 0
    assert profile_in(out) == known
    planned = call("interpolate", tmp_path, "--in-fps", "5", "-o", tmp_path / "v.mp4", "--dry-run")
    assert "ICC colour profile is lost" in planned.out + planned.err


def test_numbered_images_in_the_current_folder(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for number in range(3):
        png(work / f"in{number}.png", number)
    assert call("interpolate", "in%d.png", "-o", "out%03d.png", "--in-fps", "4", "--model", "blend").code == 0
    assert sorted(work.glob("out*.png")) == [work / f"out{n:03d}.png" for n in range(1, 7)]
    assert list(tmp_path.iterdir()) == [work]  # no report outside
    assert call("interpolate", "in0.png", "in1.png", "-o", "mid%d.png", "--ratio", "3", "--model", "blend").code == 0
    assert sorted(work.glob("mid*")) == [work / "mid1.png", work / "mid2.png"]


def test_a_pair_into_a_folder(tmp_path: Path, call: Call) -> None:
    a, b = png(tmp_path / "a.png", 0), png(tmp_path / "b.png", 4)
    assert call("interpolate", a, b, "-o", f"{tmp_path}/one/", "--model", "blend").code == 0
    assert [entry.name for entry in (tmp_path / "one").iterdir()] == ["a.b.between.png"]
    assert call("interpolate", a, b, "-o", f"{tmp_path}/more/", "--ratio", "4", "--model", "blend").code == 0
    assert len(list((tmp_path / "more").iterdir())) == 3
    refused = call("interpolate", a, b, "-o", tmp_path / "one.png", "--ratio", "4", "--model", "blend")
    assert refused.code == 2 and "%06d.png" in refused.err


@pytest.mark.parametrize("name", ["a.heic", "a.JP2", "a.dng"])
def test_images_that_are_not_read_are_refused(tmp_path: Path, call: Call, name: str) -> None:
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    png(tmp_path / "b.png")
    done = call("interpolate", tmp_path / name, tmp_path / "b.png", "-o", tmp_path / "c.png")
    assert done.code == 4 and f"{Path(name).suffix} images are not read" in done.err
    assert not (tmp_path / "c.png").exists()


def test_several_videos_do_not_go_into_one_image(tmp_path: Path, call: Call) -> None:
    for name in ("a.avif", "b.avif"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    done = call("interpolate", tmp_path / "a.avif", tmp_path / "b.avif", "-o", tmp_path / "c.png")
    assert done.code == 2 and not (tmp_path / "c.png").exists()


def test_an_image_by_another_name_is_no_video(tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.jfif").write_bytes(cv2.imencode(".jpg", scene())[1].tobytes())
    done = call("interpolate", tmp_path / "a.jfif")
    assert done.code == 3 and "is an image, not a video" in done.err


def test_a_folder_of_several_suffixes_loses_nothing_without_a_word(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for name in ("1.jpg", "2.JPG", "3.jpeg", "4.JPEG"):
        (folder / name).write_bytes(cv2.imencode(".jpg", scene())[1].tobytes())
    planned = call("interpolate", folder, "--in-fps", "4", "-o", tmp_path / "out.mp4", "--dry-run")
    assert "4 -> 8 frames" in planned.out + planned.err and "left out" not in planned.out + planned.err
    png(folder / "5.png")
    planned = call("interpolate", folder, "--in-fps", "4", "-o", tmp_path / "out.mp4", "--dry-run")
    assert "1 of 5 images" in planned.out + planned.err
