"""What the server may open: files under the allowed folders, and no playlist that would open others in turn."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from midframe.errors import InputError, MediaError

# Demuxers that open further files or addresses named by the file itself, or that read images by a pattern.
FOLLOWING_CONTAINERS = {
    "hls", "dash", "concat", "sdp", "rtsp", "rtp", "imf", "webm_dash_manifest", "image2", "lavfi", "libopenmpt",
    "ffmetadata", "tty", "mmst", "smjpeg_list", "vapoursynth", "avisynth", "applehttp",
}  # fmt: skip
_TEXT_STARTS = (b"#extm3u", b"ffconcat", b"<?xml", b"<mpd", b"<composition", b"<assetmap", b"v=0", b"[playlist]", b"#!")
_TEXT_ANYWHERE = (b"#extm3u", b"dash:profile", b"<compositionplaylist", b"ffconcat version")
SNIFFED_BYTES = 65536


class ForbiddenError(InputError):
    """A path outside the allowed folders, or one that is not a plain file."""

    code = "forbidden"


def allowed(wanted: str, folders: Iterable[Path]) -> Path:
    """Return the real path of `wanted`, which must be a plain file under one of `folders`, however it is spelled.

    A relative path is looked for in each folder in turn. Links are followed first, and their targets checked.
    Raises ForbiddenError; the text does not tell a missing file from one that may not be seen.
    """
    roots = [Path(os.path.realpath(folder)) for folder in folders]
    refused = ForbiddenError("this path is not a video under the server's allowed folders (see --allow)")
    if not roots or not wanted or len(wanted) > 4096:
        raise refused
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) <= 0xDFFF or ord(letter) == 127 for letter in wanted):
        raise refused  # NUL, line ends, lone surrogates
    if ".." in wanted.replace("\\", "/").split("/"):
        raise refused  # nothing honest needs it, and it is not left to the resolver alone
    for root in roots:
        try:
            real = Path(os.path.realpath(root / wanted, strict=True))  # an absolute `wanted` replaces the root
            plain = stat.S_ISREG(real.stat().st_mode)
        except (OSError, ValueError):
            continue
        if plain and any(real.is_relative_to(other) for other in roots):
            return real
    raise refused


def refuse_moved(path: str) -> None:
    """Refuse a path that has become a link since it was checked. Raises ForbiddenError."""
    if os.path.realpath(path) != path:
        raise ForbiddenError("the file has become a link since it was named")


def refuse_playlist(path: str) -> None:
    """Refuse what would make the decoder open other files. Raises MediaError.

    ffmpeg chooses a demuxer by content, so an "upload.mp4" may be a playlist of the server's own files. Called before
    the probe opens the file; the probe's own answer is checked against FOLLOWING_CONTAINERS afterwards.
    """
    with open(path, "rb") as file:
        head = file.read(SNIFFED_BYTES).lower()
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin.startswith(_TEXT_STARTS) or any(word in head for word in _TEXT_ANYWHERE):
        raise MediaError("this is a playlist or a text, not a video; give the video itself")


def safe_name(name: str) -> str:
    """Return a name to show and download: no folders, control or direction-changing characters; 200 at most."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return kept.strip(".")[:200] or "video"
