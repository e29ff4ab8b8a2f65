"""Write frames as numbered image files in a folder, or as one image."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import torch

from midframe import colour
from midframe.errors import InputError, MediaError
from midframe.types import Frame, PixelFormat, VideoInfo
from midframe.video import formats
from midframe.video.files import named, write_error
from midframe.video.images import COUNTER, SUFFIXES, natural_order

_PNG_HEADER = 8 + 25  # bytes of the signature and of IHDR, after which iCCP may come
_JPEG_PART = 65519  # bytes of a profile in one segment (ICC.1:2022, B.4)


class ImageWriter:
    """Write frames as numbered images in a folder, or as one image; a context manager.

    A folder or a pattern gets `000001.png`, `000002.png` ...; a single name such as `between.png` takes one frame.
    Images are written to a temporary folder beside the target, which is renamed when all are complete.
    """

    def __init__(self, path: str | os.PathLike[str], info: VideoInfo, encoding: Any, first: int = 1) -> None:
        text = os.fspath(path)
        self.info = info
        self.encoding = encoding
        self.frames = 0
        self._first = first
        target = Path(text)
        self._suffix = {"png": ".png", "tiff": ".tif", "mjpeg": ".jpg", "libwebp": ".webp"}[encoding.codec]
        self._pattern = "%06d" + self._suffix
        self._single = False
        if target.suffix.lower() in SUFFIXES and not target.is_dir():
            self._suffix = target.suffix
            if COUNTER.search(target.name):
                self._pattern, target = target.name, target.parent
            else:
                self._single = True
        self.path = target
        whole = target.absolute()  # "." has no name
        self._part = whole.with_name(f"{whole.name}.{os.getpid()}.part")

    def __enter__(self) -> ImageWriter:
        try:
            if not self.path.parent.exists():
                raise MediaError(f"the folder {named(self.path.parent)} does not exist; make it, or give another -o")
            if not self._single:
                self._part.mkdir()
        except OSError as error:
            raise write_error(self.path, error) from error
        return self

    def write(self, frame: Frame) -> None:
        """Encode one frame and write its file.

        Raises:
            MediaError: it cannot be written; or a second frame for a single image.
        """
        if self._single and self.frames:
            raise InputError(f"{named(self.path)} is one image; for several give a folder or a pattern like %04d.png")
        data = encode_image(frame, self.encoding, self.info.rotation, self.info.colour_profile)
        path = self._part if self._single else self._part / (self._pattern % (self._first + self.frames))
        try:
            path.write_bytes(data)
        except OSError as error:
            raise write_error(self.path, error) from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if self._single and self.frames:
                    os.replace(self._part, self.path)
                elif not self._single:
                    self._deliver()
        except OSError as problem:
            raise write_error(self.path, problem) from problem
        finally:
            with contextlib.suppress(OSError):
                if self._part.is_dir():
                    shutil.rmtree(self._part)
                else:
                    self._part.unlink(missing_ok=True)

    def _deliver(self) -> None:
        """Rename the folder to the target; into an existing one move the images, replacing those of equal names."""
        if not self.path.exists():
            os.replace(self._part, self.path)
            return
        for image in sorted(self._part.iterdir()):
            os.replace(image, self.path / image.name)


def encode_image(frame: Frame, encoding: Any, rotation: int = 0, profile: bytes | None = None) -> bytes:
    """Encode one frame as an image file.

    Args:
        frame: any format.
        encoding: of `choose_encoder` for a folder of images.
        rotation: degrees clockwise, a multiple of 90; applied to the pixels, because images have no display matrix.
        profile: ICC profile of the source; kept in PNG and JPEG, if it is one for this kind of pixels.
    """
    made: PixelFormat = encoding.format
    planes = colour.convert(frame.planes, frame.format, made)
    if rotation:
        planes = tuple(torch.rot90(plane, -rotation // 90, (0, 1)).contiguous() for plane in planes)
    height, width = planes[0].shape
    names = {
        ("png", "gbrp"): "rgb24", ("png", "gbrap"): "rgba", ("png", "gbrp16le"): "rgb48be",
        ("png", "gbrap16le"): "rgba64be", ("png", "gray16le"): "gray16be", ("tiff", "gbrp"): "rgb24",
        ("tiff", "gbrap"): "rgba", ("tiff", "gbrp16le"): "rgb48le", ("tiff", "gbrap16le"): "rgba64le",
        ("libwebp", "gbrp"): "bgra", ("libwebp", "gbrap"): "bgra", ("mjpeg", "yuv444p"): "yuvj444p",
    }  # fmt: skip
    pixel_name = names.get((encoding.codec, made.name), made.name)
    context = av.CodecContext.create(encoding.codec, "w")
    context.width, context.height = width, height
    context.pix_fmt = pixel_name
    context.time_base = Fraction(1, 25)
    context.sample_aspect_ratio = Fraction(1)
    context.options = dict(encoding.options)
    image = formats.video_frame(planes, made, pixel_name)
    image.pts = 0
    packets = [*context.encode(image), *context.encode(None)]
    data = b"".join(bytes(packet) for packet in packets)
    if profile is None or profile[16:20] != (b"GRAY" if made.layout == "gray" else b"RGB "):
        return data
    return _with_profile(data, encoding.codec, profile)


def _with_profile(data: bytes, codec: str, profile: bytes) -> bytes:
    """Return an image file with an ICC profile: libav's encoders take it from side data, which PyAV cannot set."""
    if codec == "png":
        content = b"iCCPICC profile\0\0" + zlib.compress(profile)
        chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        return data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]
    if codec == "mjpeg":
        parts = [profile[at : at + _JPEG_PART] for at in range(0, len(profile), _JPEG_PART)]
        if len(parts) > 255:
            return data
        segments = (b"ICC_PROFILE\0" + bytes([n, len(parts)]) + part for n, part in enumerate(parts, start=1))
        marked = b"".join(b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment for segment in segments)
        after = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2  # JFIF comes first
        return data[:after] + marked + data[after:]
    return data


def join_folders(parts: Sequence[Path], target: Path) -> None:
    """Move the images of several folders, in order, into one folder, renumbered from 1.

    The target is a folder, a pattern such as `out/%04d.png`, or one file if there is only one image. A new folder
    appears when all images are in it; in an existing one, images of equal names are replaced.

    Raises:
        MediaError: it cannot be written.
    """
    images = [image for part in parts for image in sorted(part.iterdir(), key=natural_order)]
    folder, pattern = target, "%06d" + (images[0].suffix if images else ".png")
    try:
        if target.suffix.lower() in SUFFIXES and not target.is_dir():
            if not COUNTER.search(target.name):
                if len(images) != 1:
                    raise InputError(f"{named(target)} is one image, and {len(images)} were written; give a folder")
                shutil.move(images[0], target)
                return
            folder, pattern = target.parent, target.name
        whole = folder if folder.exists() else folder.with_name(f"{folder.name}.{os.getpid()}.part")
        whole.mkdir(exist_ok=True)
        for number, image in enumerate(images, start=1):
            shutil.move(image, whole / (pattern % number))
        if whole != folder:
            os.replace(whole, folder)
    except OSError as error:
        raise write_error(target, error) from error
