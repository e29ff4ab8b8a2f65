"""Routes about runs: plans, jobs and what they made."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from midframe.errors import MidframeError
from midframe.server import paths, prediction
from midframe.server.multipart_upload import receive_form
from midframe.server.responses import RangeFileResponse
from midframe.server.routes_sources import check_room
from midframe.server.schemas import (
    JPEG_RESPONSE,
    HTTPError,
    Id,
    JobOptions,
    JobState,
    Marks,
    NewJob,
    NewPlace,
    NewPlan,
    PlanState,
    Problem,
    State,
)
from midframe.server.services import InServices, Services, client
from midframe.server.store import ConflictError, Source, new_id

router = APIRouter(prefix="/api/v1", tags=["jobs"])


def _ready_source(services: Services, id: str) -> Source:
    source = services.store.source(id)
    if source.state != "ready" or source.info is None:
        raise HTTPError(409, "conflict", f"this source is {source.state}, not ready")
    return source


def _checked(services: Services, source: Source, options: Mapping[str, Any]) -> prediction.Prediction:
    assert source.info is not None
    if options.get("model") not in (None, *services.settings.models):
        raise HTTPError(422, "invalid", f"no model {options['model']}; there are {', '.join(services.settings.models)}")
    if options.get("use_mask") and not source.mask:
        raise HTTPError(422, "invalid", "use_mask needs a mask; send one with PUT /api/v1/sources/{id}/mask")
    model = str(options["model"])
    learned, basis = services.store.learned(model, source.id), "this video"
    if learned is None:
        learned, basis = services.store.learned(model, None), "other videos"
    predicted = prediction.predict(source.info, options, learned, basis)
    if predicted.frames > services.limits.frames:
        text = f"this would make {predicted.frames} frames; this server makes {services.limits.frames} at a time"
        raise HTTPError(422, "too_many_frames", text)
    return predicted


def _with_defaults(services: Services, given: JobOptions) -> dict[str, Any]:
    options = given.model_dump(exclude_none=True)
    options.setdefault("model", services.settings.model)
    return options


@router.post("/plans")
def make_plan(services: InServices, new: NewPlan) -> PlanState:
    """Predict a run without running it."""
    source, options = _ready_source(services, new.source), _with_defaults(services, new.options)
    predicted = _checked(services, source, options)
    return PlanState(
        rate=str(predicted.rate), frames=predicted.frames, duration=float(predicted.duration), bytes=predicted.bytes,
        work_seconds=predicted.work_seconds, basis=predicted.basis,  # type: ignore[arg-type]
        output_name=prediction.output_name(source.name, options, predicted.rate),
        command_line=prediction.command_line(source.name, options, predicted.rate),
        python=prediction.python_call(source.name, options, predicted.rate),
    )  # fmt: skip


_NEW_JOB = NewJob.model_json_schema(ref_template="#/components/schemas/{model}")
_NEW_JOB.pop("$defs")  # they are components of the document already
_ADD_JOB_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _NEW_JOB},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "the video"}},
                    "additionalProperties": {"type": "string", "description": "kind, or any option of a job"},
                }
            },
        },
    }
}


@router.post("/jobs", status_code=201, openapi_extra=_ADD_JOB_BODY)
async def add_job(services: InServices, request: Request) -> JobState:
    """Queue a run: of a source, as JSON; or of a video sent along, as multipart/form-data with its options as fields.

    With curl: `curl -F file=@clip.mp4 -F fps=60 http://127.0.0.1:8642/api/v1/jobs`
    """
    content_type = request.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        return await _upload_and_add(services, request, content_type)
    try:
        new = NewJob.model_validate_json(await request.body())
    except ValidationError as error:
        raise _invalid(error) from error
    return await asyncio.to_thread(_add, services, new, client(request))


async def _upload_and_add(services: Services, request: Request, content_type: str) -> JobState:
    if services.store.pending_sources(client(request)) >= services.limits.uploads_per_client:
        raise HTTPError(429, "too_many_uploads", "too many uploads of this client are not complete")
    length = request.headers.get("content-length", "")
    await asyncio.to_thread(check_room, services, int(length) if length.isdigit() else 1)
    id = new_id()
    folder = services.source_folder(id)
    await asyncio.to_thread(folder.mkdir, parents=True)
    try:
        limit = services.limits.upload_bytes
        form = await receive_form(content_type, request.stream(), folder / "content", limit)
        fields: dict[str, Any] = {"source": id, "options": {}}
        for name, text in form.fields.items():
            (fields if name in ("kind", "preview_start", "preview_seconds") else fields["options"])[name] = text
        new = NewJob.model_validate(fields)
    except ValidationError as error:
        await asyncio.to_thread(shutil.rmtree, folder, True)
        raise _invalid(error) from error
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, folder, True)
        raise
    name, path = paths.safe_name(form.file_name or ""), str((folder / "content").resolve())
    store = services.store
    await asyncio.to_thread(store.add_source, name, "upload", path, form.file_bytes, client(request), id)
    await asyncio.to_thread(store.receive, id, form.file_bytes)
    await asyncio.to_thread(services.submit_probe, store.source(id))
    while (source := await asyncio.to_thread(store.source, id)).state == "probing":
        await asyncio.sleep(0.1)
    try:
        if source.error is not None:
            raise HTTPError(422, source.error["code"], source.error["message"])
        return await asyncio.to_thread(_add, services, new, client(request))
    except (HTTPError, MidframeError):
        await asyncio.to_thread(services.remove_source, id)
        raise


def _invalid(error: ValidationError) -> RequestValidationError:
    """Return the error that FastAPI raises for a body that it checks itself."""
    found = error.errors(include_url=False, include_context=False)
    return RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found])


def _add(services: Services, new: NewJob, client_name: str) -> JobState:
    source, options = _ready_source(services, new.source), _with_defaults(services, new.options)
    assert source.info is not None
    if new.kind == "preview":
        begin, end = prediction.preview_range(source.info, new.preview_start, new.preview_seconds)
        options.update(start=begin, end=end, codec="auto", container="mp4", loop=False)
    predicted = _checked(services, source, options)
    about = {
        "source_name": source.name, "output_name": prediction.output_name(source.name, options, predicted.rate),
        "source_rate": str(source.info["rate"]), "rate": str(predicted.rate),
    }  # fmt: skip
    try:
        job = services.store.add_job(source.id, new.kind, options, about, client_name, services.limits.jobs_per_client)
    except ConflictError as error:
        raise HTTPError(429, "too_many_jobs", str(error)) from error
    services.store.touch(source.id)
    services.events.publish("job", job.id)
    services.wake()
    return services.job_state(job)


@router.get("/jobs")
def list_jobs(
    services: InServices,
    state: Annotated[State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> list[JobState]:
    """List jobs, newest first."""
    return [services.job_state(job) for job in services.store.jobs(state, limit, offset)]


@router.get("/jobs/{id}")
def get_job(services: InServices, id: Id) -> JobState:
    """Return one job."""
    return services.job_state(services.store.job(id))


def _ask(services: Services, id: str, what: str) -> JobState:
    job = services.store.ask(id, what)
    services.events.publish("job", id)
    services.wake()
    return services.job_state(job)


@router.post("/jobs/{id}/pause")
def pause_job(services: InServices, id: Id) -> JobState:
    """Pause a queued or running job; its finished segments are kept. A running one takes a moment (`requested`)."""
    return _ask(services, id, "pause")


@router.post("/jobs/{id}/resume")
def resume_job(services: InServices, id: Id) -> JobState:
    """Queue a paused job again; it goes on from its finished segments."""
    return _ask(services, id, "resume")


@router.post("/jobs/{id}/cancel")
def cancel_job(services: InServices, id: Id) -> JobState:
    """Stop a job for good. A running one takes a moment (`requested`)."""
    return _ask(services, id, "cancel")


@router.post("/jobs/{id}/retry")
def retry_job(services: InServices, id: Id) -> JobState:
    """Queue a failed or cancelled job again."""
    return _ask(services, id, "retry")


@router.post("/jobs/{id}/move")
def move_job(services: InServices, id: Id, new: NewPlace) -> JobState:
    """Move a queued job before another queued one of its kind, or to the end of the queue."""
    job = services.store.move(id, new.before)
    services.events.publish("job", id)
    return services.job_state(job)


@router.delete("/jobs/{id}", status_code=204)
def delete_job(services: InServices, id: Id) -> Response:
    """Forget a finished job and delete its files."""
    services.remove_job(id)
    return Response(status_code=204)


@router.get("/jobs/{id}/picture", response_class=Response, responses=JPEG_RESPONSE, deprecated=True)  # former name
@router.get("/jobs/{id}/frame", response_class=Response, responses=JPEG_RESPONSE)
def latest_frame(services: InServices, id: Id, number: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Return the latest frame of a running job as JPEG. `number` only makes a new address for browsers."""
    services.store.job(id)
    found = services.live.frame(id)
    if found is None:
        raise HTTPError(404, "not_found", "there is no frame of this job now")
    return Response(found, media_type="image/jpeg")


@router.get("/jobs/{id}/marks")
def marks(services: InServices, id: Id) -> Marks:
    """List scene changes, held and duplicate stretches, and frames of low confidence of a finished job."""
    return Marks(**services.store.job(id).outcome.get("marks", {}))


@router.get(
    "/jobs/{id}/files/{kind}",
    response_class=RangeFileResponse,
    responses={
        200: {"content": {"video/*": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "part of the file, as the Range header asks"},
        416: {"model": Problem},
    },
)
def file(services: InServices, id: Id, kind: Literal["result", "before", "after", "report"]) -> RangeFileResponse:
    """Send the finished video, the playable copies of source and result, or the report of the run as JSON."""
    job = services.store.job(id)
    name = job.outcome.get(kind)
    path = services.job_folder(id) / str(name)
    if name is None or not path.is_file():
        raise HTTPError(404, "not_found", f"job {id} is {job.state} and has no {kind}")
    if kind == "report":
        return RangeFileResponse(path, media_type="application/json")
    media = "video/x-matroska" if path.suffix == ".mkv" else "video/mp4"
    if kind == "result":
        return RangeFileResponse(path, media_type=media, filename=job.about["output_name"])
    return RangeFileResponse(path, media_type=media)
