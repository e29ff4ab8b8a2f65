"""What a server may use and store, and who may use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one client, one video and the whole server."""

    upload_bytes: int = 20_000_000_000
    duration_seconds: float = 4 * 3600.0
    pixels: int = 8192 * 4352  # of one frame
    frames: int = 2_000_000  # of one result
    jobs_per_client: int = 50  # unfinished ones; a client is an address
    uploads_per_client: int = 20  # announced or incomplete uploads, and sources not probed yet
    announced_seconds: float = 900.0  # an announced upload without any byte in this time is forgotten
    upload_seconds: float = 86400.0  # an incomplete upload without news for this time is forgotten
    probe_seconds: float = 60.0  # by the clock; a usual look takes a tenth of a second
    probe_bytes: int | None = 6 * 1024**3  # address space of the process that looks at files
    keep_seconds: float = 7 * 86400.0  # after that a finished job and an unused source go
    keep_bytes: int = 100_000_000_000  # of all sources and results together; the oldest go first


@dataclass(frozen=True, slots=True)
class Settings:
    """Folders, access and limits of the server."""

    data: Path
    folders: tuple[Path, ...] = ()  # videos under these may be used by path
    token: str | None = None
    hosts: tuple[str, ...] = ()  # names beyond the loopback ones that a browser may know the server by
    devices: tuple[str, ...] = ("cpu",)  # one worker process each
    models: tuple[str, ...] = ("dis",)
    model: str = "dis"  # used when none is named
    limits: Limits = field(default_factory=Limits)
