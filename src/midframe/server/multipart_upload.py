"""A video and the options of its job in one multipart request, as `curl -F` sends it; streamed to disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from midframe.server.schemas import HTTPError

FIELD_BYTES = 64 * 1024  # of all text fields together


@dataclass(slots=True)
class Form:
    """The parts received: text fields, and the name and size of the file."""

    fields: dict[str, str] = field(default_factory=dict)
    file_name: str | None = None
    file_bytes: int = 0


async def receive_form(content_type: str, stream: AsyncIterator[bytes], target: Path, limit_bytes: int) -> Form:
    """Write the file part of a multipart body to `target` and return the rest. Raises HTTPError."""
    kind, parameters = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in parameters:
        raise HTTPError(422, "invalid", "the body must be multipart/form-data, as curl -F sends it")
    receiver = _Receiver(limit_bytes)
    parser = MultipartParser(parameters[b"boundary"], receiver.callbacks())
    with open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        try:
            async for piece in stream:
                parser.write(piece)
                if receiver.pending:
                    await asyncio.to_thread(file.write, bytes(receiver.pending))
                    receiver.pending.clear()
            parser.finalize()
        except MultipartParseError as error:
            raise HTTPError(422, "invalid", f"the multipart body is malformed: {error}") from error
        except OSError as error:
            raise HTTPError(413, "no_room", f"the server's disk did not take the upload: {error.strerror}") from error
    if not receiver.complete:
        raise HTTPError(422, "invalid", "the multipart body ended before its last boundary")
    if receiver.form.file_name is None or not receiver.form.file_bytes:
        raise HTTPError(422, "invalid", "a part named file with the video is missing: curl -F file=@clip.mp4")
    return receiver.form


class _Receiver:
    """Takes the parser's callbacks."""

    def __init__(self, limit_bytes: int) -> None:
        self.form, self.complete, self.pending = Form(), False, bytearray()
        self._limit, self._text_bytes = limit_bytes, 0
        self._headers: dict[str, bytes] = {}
        self._key, self._value = bytearray(), bytearray()
        self._field, self._text = "", bytearray()
        self._is_file = False

    def callbacks(self) -> Any:
        """Return the callbacks for MultipartParser."""
        return {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._end,
            "on_header_field": lambda data, start, end: self._key.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header, "on_headers_finished": self._headers_done, "on_end": self._complete,
        }  # fmt: skip

    def _begin(self) -> None:
        self._headers, self._text = {}, bytearray()

    def _header(self) -> None:
        self._headers[self._key.decode("latin-1").lower()] = bytes(self._value)
        self._key.clear()
        self._value.clear()

    def _headers_done(self) -> None:
        _, parameters = parse_options_header(self._headers.get("content-disposition", b""))
        self._field = parameters.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in parameters
        if self._is_file:
            if self._field != "file" or self.form.file_name is not None:
                raise HTTPError(422, "invalid", f"one part with a file is taken, named file; not {self._field!r} too")
            self.form.file_name = parameters[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.form.file_bytes += end - start
            if self.form.file_bytes > self._limit:
                raise HTTPError(413, "too_large", f"this server takes files of at most {self._limit} bytes")
            self.pending += data[start:end]
            return
        self._text_bytes += end - start
        if self._text_bytes > FIELD_BYTES:
            raise HTTPError(413, "too_large", f"all fields but the file may have at most {FIELD_BYTES} bytes")
        self._text += data[start:end]

    def _end(self) -> None:
        if not self._is_file:
            self.form.fields[self._field] = self._text.decode("utf-8", "replace")

    def _complete(self) -> None:
        self.complete = True
