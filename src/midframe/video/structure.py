"""Check the structure of a container file, element by element, without reading the media data.

libav skips broken elements of Matroska and the missing end of any container without an error; this check finds both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from midframe.video import ebml
from midframe.video.ebml import Head

# Elements of a Segment, and of a Cluster: RFC 9559.
_TOP = frozenset({
    ebml.SEEK_HEAD, 0x1549A966, ebml.TRACKS, ebml.CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, ebml.VOID,
    ebml.CRC_32,
})  # fmt: skip
_INTEGERS = frozenset({0xE7, 0xA7, 0xAB})  # timestamp, position, size of the cluster before
_IN_CLUSTER = _INTEGERS | {0x5854, ebml.SIMPLE_BLOCK, ebml.BLOCK_GROUP, 0xAF, ebml.VOID, ebml.CRC_32}
# Boxes of a movie fragment, ISO/IEC 14496-12 and 23001-7 (encryption).
_IN_FRAGMENT = frozenset({
    b"mfhd", b"traf", b"tfhd", b"tfdt", b"trun", b"sdtp", b"sbgp", b"sgpd", b"subs", b"saiz", b"saio", b"senc",
    b"meta", b"uuid", b"pssh", b"free", b"skip", b"udta", b"trik",
})  # fmt: skip
# Boxes at the top of a file with movie fragments.
_BESIDE_FRAGMENTS = frozenset({
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"ssix", b"prft", b"emsg", b"free", b"skip", b"wide", b"uuid",
    b"mfra", b"meta", b"pdin", b"imda", b"pssh", b"udta",
})  # fmt: skip
_INTEGER_BYTES, _CRC_BYTES = 8, 4  # most bytes of an integer; bytes of a checksum: RFC 8794
_LACE_BYTES = 2048  # more than the sizes of 256 laces usually take
_SEARCH_BYTES = 1 << 20  # read at a time in the search for the next cluster
_UNSET_RIFF = 0xFFFFFF00  # RIFF sizes from here on, and 0, are those of a recording whose header was never completed


@dataclass(frozen=True, slots=True)
class Structure:
    """Faults in the structure of a file."""

    holes: int = 0  # places at which elements are broken
    cut_bytes: int = 0  # bytes by which the last element exceeds the file


def examine(path: str | os.PathLike[str], container: str) -> Structure:
    """Find faults in the structure of a file.

    Args:
        path: a regular file; others, and containers without a known structure, have no faults.
        container: libav's name of the demuxer.

    Raises:
        OSError: the file cannot be read.
    """
    names = set(container.split(","))
    if not os.path.isfile(path):
        return Structure()
    file = os.open(path, os.O_RDONLY)
    try:
        if "matroska" in names:
            return _matroska(file, os.fstat(file).st_size)
        if "mp4" in names:
            return _iso(file, os.fstat(file).st_size)
        if "avi" in names:
            return Structure(cut_bytes=_cut_riff(file, os.fstat(file).st_size))
        return Structure()
    finally:
        os.close(file)


def _element(file: int, at: int) -> Head | None:
    """Return the head of an EBML element; None if it is broken."""
    return ebml.read_head(os.pread(file, ebml.ELEMENT_HEAD_BYTES, at), position=at)


def _matroska(file: int, end: int) -> Structure:
    at, holes, cut = 0, 0, 0
    tracks: frozenset[int] = frozenset()
    cluster_end: int | None = None  # None: outside of a cluster, or in one of unknown size
    in_cluster = False
    while at < end:
        if in_cluster and cluster_end is not None and at >= cluster_end:
            in_cluster = False
        found = _element(file, at)
        known = found is not None and (
            found[0] in _TOP or found[0] in (ebml.SEGMENT, ebml.EBML) or (in_cluster and found[0] in _IN_CLUSTER)
        )
        if found is not None and known and found[0] in _TOP - _IN_CLUSTER and in_cluster and cluster_end is not None:
            known = False  # the next cluster begins within the last one
        if found is not None and known and in_cluster and not _fits_kind(found):
            known = False
        if found is not None and known and in_cluster and tracks and not _is_readable_block(file, found, tracks):
            known = False
        if found is None or not known:
            if end - at < 12 and found is None:
                cut = max(cut, 1)  # the head of an element is cut
                break
            holes += 1
            at = _next_cluster(file, at + 1, end)
            in_cluster = False
            continue
        name, size, content = found
        if name in (ebml.SEGMENT, ebml.CLUSTER):
            if size is not None and content + size > end:
                cut = max(cut, content + size - end)
            if name == ebml.CLUSTER:
                in_cluster, cluster_end = True, None if size is None else content + size
            at = content
            continue
        if name in _TOP and name not in _IN_CLUSTER:
            in_cluster = False
        if size is None:
            holes += 1
            at = _next_cluster(file, content, end)
            continue
        if in_cluster and cluster_end is not None and content + size > cluster_end:
            holes += 1
            at = _next_cluster(file, content, end)
            in_cluster = False
            continue
        if content + size > end:
            cut = max(cut, content + size - end)
        if name == ebml.TRACKS:
            tracks = _track_numbers(file, content, min(content + size, end))
        at = content + size
    return Structure(holes, cut)


def _fits_kind(element: Head) -> bool:
    """Return whether an integer or a checksum is as short as allowed: libav skips longer ones, and blocks in them."""
    if element.id in _INTEGERS:
        return element.size is not None and element.size <= _INTEGER_BYTES
    return element.id != ebml.CRC_32 or element.size == _CRC_BYTES


def _track_numbers(file: int, at: int, end: int) -> frozenset[int]:
    found = set()
    while at < end and (entry := _element(file, at)):
        name, size, content = entry
        if name == ebml.TRACK_ENTRY:
            at = content
            continue
        if name == ebml.TRACK_NUMBER and size:
            found.add(int.from_bytes(os.pread(file, size, content), "big"))
        at = content + (size or 0)
    return frozenset(found)


def _is_readable_block(file: int, element: Head, tracks: frozenset[int]) -> bool:
    """Return whether a block of media data belongs to one of the tracks and its laces fit; True for other elements.

    libav leaves out the rest of a cluster after a block that it cannot read.
    """
    name, size, content = element
    if name == ebml.BLOCK_GROUP:
        inner = _element(file, content)
        if inner is None:
            return False
        name, size, content = inner
        if name != ebml.PLAIN_BLOCK:
            return True
    if name != ebml.SIMPLE_BLOCK and name != ebml.PLAIN_BLOCK:
        return True
    head = os.pread(file, min(size or 0, _LACE_BYTES), content)
    number, length = ebml.read_integer(head) or (0, 0)
    if not length or length + 3 > len(head) or number not in tracks:
        return False
    lacing = head[length + 2] >> 1 & 3
    return lacing == 0 or _laces_fit(head[length + 3 :], (size or 0) - length - 3, lacing)


def _laces_fit(data: bytes, size: int, lacing: int) -> bool:
    """Return whether the sizes of the laces of a block (RFC 9559, section 10.3) fit into it.

    Args:
        data: the content of the block after its flags, or the begin of it.
        size: bytes of that content.
        lacing: 1 Xiph, 2 fixed size, 3 EBML.
    """
    if not data:
        return False
    count, at = data[0] + 1, 1
    if lacing == 2:
        return (size - 1) % count == 0
    total = previous = 0
    for number in range(count - 1):
        if lacing == 1:
            end = next((n for n in range(at, len(data)) if data[n] != 255), None)
            if end is None:
                return False
            total += 255 * (end - at) + data[end]
            at = end + 1
            continue
        read = ebml.read_integer(data, at)
        if read is None:
            return False
        value, length = read
        previous = value if number == 0 else previous + value - ((1 << (7 * length - 1)) - 1)
        if previous < 0:
            return False
        total += previous
        at += length
    return at + total <= size


def _next_cluster(file: int, at: int, end: int) -> int:
    return _find(file, ebml.CLUSTER.to_bytes(4, "big"), at, end)


def _find(file: int, mark: bytes, at: int, end: int) -> int:
    """Return the position of four bytes, or the end."""
    while at < end:
        block = os.pread(file, _SEARCH_BYTES, at)
        found = block.find(mark)
        if found >= 0:
            return at + found
        if len(block) < 4:
            break
        at += len(block) - 3
    return end


def _iso(file: int, end: int) -> Structure:
    """Check the boxes of an ISO media file (ISO/IEC 14496-12); the last may be cut off."""
    at = holes = unknown = 0
    fragments = False
    while at < end:
        head = os.pread(file, 16, at)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if len(head) < 8:
            return Structure(cut_bytes=1)
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size < 8 or not (kind.isascii() and kind.decode("ascii").isprintable()):
            # padding, or a box that reaches to the end of the file; between fragments neither may stand
            lost = fragments and (kind == bytes(4) or size != 0) and _find(file, b"mdat", at, end) < end
            return Structure(holes + fragments * unknown + int(lost))
        if at + size > end:
            return Structure(holes + fragments * unknown, at + size - end)
        if kind == b"moof":
            fragments = True
            holes += not _is_tiled(file, at + 8, at + size)
        unknown += kind not in _BESIDE_FRAGMENTS
        at += size
    return Structure(holes + fragments * unknown)


def _is_tiled(file: int, at: int, end: int) -> bool:
    """Return whether boxes of known kinds fill a movie fragment exactly."""
    while at < end:
        head = os.pread(file, 8, at)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size < 8 or at + size > end or kind not in _IN_FRAGMENT:
            return False
        if kind == b"traf" and not _is_tiled(file, at + 8, at + size):
            return False
        at += size
    return True


def _cut_riff(file: int, end: int) -> int:
    """Return the bytes by which the last RIFF chunk of an AVI file exceeds the file."""
    at = 0
    while at < end:
        head = os.pread(file, 8, at)
        size = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or size == 0 or size >= _UNSET_RIFF:
            return 0
        if at + 8 + size > end:
            return at + 8 + size - end
        at += 8 + size + size % 2
    return 0
