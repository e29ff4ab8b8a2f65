"""Routes about sources: resumable uploads, paths, stills, overlay masks."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from midframe.errors import MidframeError
from midframe.server import paths
from midframe.server.schemas import JPEG_RESPONSE, HTTPError, Id, NewSource, SourceState, raw_body
from midframe.server.services import InServices, Services, Upload, client, source_state
from midframe.server.store import ConflictError, Source, new_id

MASK_BYTES = 8 * 1024 * 1024
WRITE_BYTES = 1024 * 1024  # an upload goes to disk in pieces of this size
NOTE_BYTES = 8 * WRITE_BYTES  # and is written down this often: what a kill -9 can cost an upload
STALL_SECONDS = 60.0  # an upload that sends nothing for so long is let go; it can be taken up again

router = APIRouter(prefix="/api/v1", tags=["sources"])


@router.post("/sources", status_code=201)
def add_source(services: InServices, new: NewSource, request: Request) -> SourceState:
    """Announce an upload by name and size, or name a video under an allowed folder by its path."""
    if services.store.pending_sources(client(request)) >= services.limits.uploads_per_client:
        raise HTTPError(
            429, "too_many_uploads", f"{services.limits.uploads_per_client} uploads of this client are not complete"
        )
    if new.path is not None and new.name is None and new.size is None:
        path = paths.allowed(new.path, services.settings.folders)
        source = services.store.add_source(
            paths.safe_name(path.name), "path", str(path), path.stat().st_size, client(request)
        )
        services.submit_probe(source)
        return source_state(services.store.source(source.id))
    if new.path is not None or new.name is None or new.size is None:
        raise HTTPError(422, "invalid", "give name and size for an upload, or path alone")
    check_room(services, new.size)
    source = services.store.add_source(paths.safe_name(new.name), "upload", "", new.size, client(request))
    folder = services.source_folder(source.id)
    folder.mkdir(parents=True)
    services.store.set_path(source.id, str((folder / "content").resolve()))
    services.events.publish("source", source.id)
    return source_state(services.store.source(source.id))


def check_room(services: Services, size: int) -> None:
    """Refuse an upload that is too large, or for which the disk has no room. Raises HTTPError."""
    if size > services.limits.upload_bytes:
        raise HTTPError(413, "too_large", f"{size} bytes; this server takes {services.limits.upload_bytes}")
    services.settings.data.mkdir(parents=True, exist_ok=True)
    promised = sum(s.size - s.received for s in services.store.sources() if s.state == "receiving")
    if size + promised > shutil.disk_usage(services.settings.data).free:
        raise HTTPError(413, "no_room", "there is no room for a file of this size on the server now")


@router.get("/sources")
def list_sources(services: InServices) -> list[SourceState]:
    """List all sources, oldest first."""
    return [source_state(source) for source in services.store.sources()]


@router.get("/sources/{id}")
def get_source(services: InServices, id: Id) -> SourceState:
    """Return one source; `received` says where an upload goes on."""
    return source_state(services.store.source(id))


@router.delete("/sources/{id}", status_code=204)
def delete_source(services: InServices, id: Id) -> Response:
    """Forget a source and delete what was uploaded."""
    services.store.source(id)
    if not services.remove_source(id):
        raise ConflictError("a job that is not finished needs this source; cancel it first")
    return Response(status_code=204)


@router.put(
    "/sources/{id}/content",
    openapi_extra=raw_body("application/octet-stream"),
)
async def put_content(
    services: InServices,
    id: Id,
    request: Request,
    offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> SourceState:
    """Send bytes of an upload, all or some; `offset` says how many came before them.

    After a broken connection ask for `received` and continue from there.
    """
    source = await asyncio.to_thread(services.store.source, id)
    if source.state != "receiving":
        raise HTTPError(409, "conflict", f"this source is {source.state} and takes no more bytes")
    upload = services.uploads.setdefault(id, Upload(asyncio.Lock()))
    me = upload.writer = object()
    async with upload.lock:  # the former writer has written its last piece
        source = await asyncio.to_thread(services.store.source, id)
    if offset != source.received:
        raise HTTPError(409, "wrong_offset", f"{source.received} bytes are here; go on from there, not from {offset}")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and offset + int(announced) > source.size:
        raise HTTPError(413, "too_large", f"{source.size} bytes were announced; these would be more")
    await _receive(services, source, upload, me, request)
    source = await asyncio.to_thread(services.store.source, id)
    if source.state == "probing":
        services.uploads.pop(id, None)
        await asyncio.to_thread(services.submit_probe, source)
        source = await asyncio.to_thread(services.store.source, id)
    services.events.publish("source", id)
    return source_state(source)


@router.get(
    "/sources/{id}/still",
    response_class=Response,
    responses=JPEG_RESPONSE,
)
async def still(services: InServices, id: Id, at: Annotated[float, Query(ge=0, le=1e6, allow_inf_nan=False)] = 0.0,
    width: Annotated[int, Query(ge=16, le=4096)] = 320, upright: bool = True,
) -> Response:  # fmt: skip
    """Send the frame of a source at `at` seconds as JPEG, at most `width` wide, rotated by the file if `upright`."""
    source = await asyncio.to_thread(services.store.source, id)
    if source.state != "ready":
        raise HTTPError(409, "conflict", f"this source is {source.state}; there is no frame to show")
    future = services.probe_worker.still(source.path, at, width, upright)
    if future is None:
        raise HTTPError(429, "busy", "too many stills are requested at once; try again")
    try:
        image = await asyncio.wrap_future(future)
    except MidframeError as error:
        raise HTTPError(422, "unreadable", f"no frame at {at:g} s: {error}") from error
    return Response(image, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.put(
    "/sources/{id}/mask",
    openapi_extra=raw_body("image/png"),
)
async def put_mask(services: InServices, id: Id, request: Request) -> SourceState:
    """Set the overlay mask: a PNG of the frame size; white is protected."""
    source = await asyncio.to_thread(services.store.source, id)
    if source.info is None:
        raise HTTPError(409, "conflict", f"this source is {source.state}; its size is not known")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MASK_BYTES:
            raise HTTPError(413, "too_large", f"a mask may have {MASK_BYTES} bytes")
    wanted = int(source.info["width"]), int(source.info["height"])
    if _png_size(bytes(body[:24])) != wanted:
        raise HTTPError(422, "invalid", f"a mask is a PNG of the frame size, {wanted[0]}x{wanted[1]}")
    await asyncio.to_thread(_write_whole, services.mask_path(id), bytes(body))
    await asyncio.to_thread(services.store.set_mask, id, True)
    services.events.publish("source", id)
    return source_state(await asyncio.to_thread(services.store.source, id))


@router.delete("/sources/{id}/mask", status_code=204)
def delete_mask(services: InServices, id: Id) -> Response:
    """Remove the overlay mask."""
    services.store.source(id)
    services.store.set_mask(id, False)
    services.mask_path(id).unlink(missing_ok=True)
    services.events.publish("source", id)
    return Response(status_code=204)


async def _receive(services: Services, source: Source, upload: Upload, me: object, request: Request) -> None:
    """Write a request's body behind what is there; what came is kept however the request ends."""
    position, noted = source.received, source.received
    buffer = bytearray()
    file = await asyncio.to_thread(_open_for_writing, Path(source.path))

    async def flush() -> None:
        nonlocal position, noted
        async with upload.lock:
            if upload.writer is not me:
                raise HTTPError(409, "superseded", "a newer request has taken this upload over")
            await asyncio.to_thread(_write_at, file, bytes(buffer), position)
            position += len(buffer)
            buffer.clear()
            if position - noted >= NOTE_BYTES:
                noted = position
                await asyncio.to_thread(services.store.receive, source.id, position)

    stream = request.stream()
    try:
        while True:
            try:
                piece = await asyncio.wait_for(anext(stream, None), STALL_SECONDS)
            except (TimeoutError, ClientDisconnect):
                break
            if piece is None:
                break
            if position + len(buffer) + len(piece) > source.size:
                raise HTTPError(413, "too_large", f"{source.size} bytes were announced; more came")
            buffer += piece
            if len(buffer) >= WRITE_BYTES:
                await flush()
        await flush()
    except OSError as error:
        raise HTTPError(413, "no_room", f"the server's disk did not take the upload: {error.strerror}") from error
    finally:
        if position == source.size:
            await asyncio.to_thread(os.fsync, file)
        os.close(file)
        if upload.writer is me:
            await asyncio.to_thread(services.store.receive, source.id, position)


def _open_for_writing(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)


def _write_at(file: int, data: bytes, position: int) -> None:
    os.lseek(file, position, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{new_id()}")  # two at once must not write into each other
    new.write_bytes(data)
    new.replace(path)


def _png_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG from its first 24 bytes; None when it is none."""
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height
