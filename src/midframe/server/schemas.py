"""Bodies of requests and responses, from which the OpenAPI document is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path as PathParameter
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, computed_field

Id = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{16}$", description="16 hexadecimal digits")]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _text_of_number(value: Any) -> Any:
    """Return a JSON number as its shortest decimal text; anything else unchanged."""
    return value if isinstance(value, bool) or not isinstance(value, int | float) else format(value, ".10g")


_NUMBER_TEXT = Field(pattern=r"^[0-9]{1,7}(\.[0-9]{1,6}|/[0-9]{1,7})?$", examples=["60", "59.94", "60000/1001"])
Number = Annotated[
    str,
    _NUMBER_TEXT,
    BeforeValidator(
        _text_of_number, json_schema_input_type=Annotated[str, _NUMBER_TEXT] | Annotated[float, Field(ge=0, lt=1e7)]
    ),
]

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]


class ErrorText(BaseModel):
    """An error."""

    code: str = Field(description="stable, for programs")
    message: str = Field(description="one line for people, in English")


class Problem(BaseModel):
    """Body of every 4xx response."""

    error: ErrorText


class JobOptions(BaseModel):
    """Options of a run. At most one of fps and ratio; without them and slowmo it is 2x."""

    model_config = ConfigDict(extra="forbid")
    fps: Number | None = Field(default=None, description="output rate; 59.94 and its like mean n*1000/1001")
    ratio: Number | None = Field(default=None, description="output rate over source rate")
    slowmo: Number | None = Field(default=None, description="the video lasts this many times longer")
    speed: Annotated[str, Field(max_length=2000)] | None = Field(
        default=None, description="speed of ranges of the source in seconds: 0-2:1, 2-4:1>0.25, 4-:0.25"
    )
    slow_audio: Literal["auto", "drop", "stretch"] = "auto"
    scene: Literal["auto", "off"] = Field(
        default="auto", description="detect scene changes; no frame blends two scenes"
    )
    scene_fill: Literal["hold", "nearest", "blend"] = "hold"
    dedup: Literal["off", "auto"] = Field(default="off", description="replace duplicate frames by interpolated ones")
    static: Literal["auto", "off"] = Field(default="auto", description="keep logos and subtitles static")
    use_mask: bool = Field(default=False, description="keep the areas painted with PUT /sources/{id}/mask")
    model: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")] | None = None
    flow_scale: Literal["auto", "1", "0.5", "0.25"] = "auto"
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    start: Seconds | None = Field(default=None, description="seconds of the source")
    end: Seconds | None = None
    codec: Literal["auto", "libx264", "libx265", "libsvtav1", "libvpx-vp9"] = "auto"
    crf: Annotated[float, Field(ge=0, le=63, allow_inf_nan=False)] | None = None
    audio: bool = True
    subtitles: bool = True
    deinterlace: Literal["auto", "off"] = "auto"
    scale: Annotated[str, Field(pattern=r"^-?[0-9]{1,5}[x:]-?[0-9]{1,5}$", examples=["1280x720", "1280:-2"])] | None = (
        Field(default=None, description="size as displayed; -2 keeps the shape, to an even side")
    )
    max_size: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        default=None, description="longer side at most, in pixels; smaller videos are left as they are"
    )
    shutter: Number | None = Field(default=None, description="motion blur: opening of the shutter, 0 to 360 degrees")
    loop: bool = Field(default=False, description="the last frame leads to the first, for seamless loops")
    container: Literal["mp4", "mkv"] = "mp4"


class NewSource(BaseModel):
    """Either an upload to come (name and size) or the path of a video under an allowed folder."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=1000)] | None = None
    size: Annotated[int, Field(ge=1, le=2**62, description="bytes")] | None = None
    path: Annotated[str, Field(max_length=4096)] | None = None


class SourceState(BaseModel):
    """A source video."""

    id: str
    name: str
    kind: Literal["upload", "path"]
    size: int
    received: int
    state: Literal["receiving", "probing", "ready", "refused"]
    info: dict[str, Any] | None = Field(description="properties of the video; null until it is probed")
    error: ErrorText | None
    mask: bool
    created: float = Field(description="seconds since 1970")
    revision: int = Field(description="grows with every change of the source")


class NewPlan(BaseModel):
    """Request for a prediction."""

    model_config = ConfigDict(extra="forbid")
    source: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    options: JobOptions = JobOptions()


class PlanState(BaseModel):
    """Prediction of a run."""

    rate: str = Field(description="output frames per second, exact")
    frames: int
    duration: float = Field(description="seconds of output")
    bytes: int = Field(description="estimated")
    work_seconds: float | None = Field(description="estimated; null before the first run on this server")
    basis: Literal["this video", "other videos", "nothing"] = Field(
        description="earlier runs that size and time are estimated from"
    )
    output_name: str
    command_line: str
    python: str


class NewJob(NewPlan):
    """A run to queue. A preview runs 2 to 5 seconds, before full runs."""

    kind: Literal["preview", "full"] = "full"
    preview_start: Seconds = 0.0
    preview_seconds: Annotated[float, Field(ge=2, le=5, allow_inf_nan=False)] = 3.0


class NewPlace(BaseModel):
    """A new place in the queue."""

    model_config = ConfigDict(extra="forbid")
    before: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = Field(
        default=None, description="id of the queued job to run after this one; null for the end of the queue"
    )


class ProgressState(BaseModel):
    """Progress of a run."""

    frames: int = 0
    total: int = 0
    stage: str = "frames"
    fps: float | None = None
    seconds_left: float | None = None
    latest_frame: int = Field(
        default=0,
        validation_alias=AliasChoices("latest_frame", "picture"),  # as earlier versions stored it
        description="number of the latest frame; 0: none yet",
    )

    @computed_field(description="former name of latest_frame; goes with the next version")  # type: ignore[prop-decorator]
    @property
    def picture(self) -> int:
        """The former name of `latest_frame`, for clients of one version ago."""
        return self.latest_frame


class JobState(BaseModel):
    """A job."""

    id: str
    number: int = Field(description="order of creation")
    position: float = Field(description="order in the queue among jobs of its kind; previews come before full runs")
    source: str
    source_name: str
    kind: Literal["preview", "full"]
    options: dict[str, Any]
    state: State
    requested: Literal["pause", "cancel"] | None = Field(description="requested and not yet carried out")
    progress: ProgressState
    error: ErrorText | None
    warnings: list[str]
    files: list[str] = Field(description="files to fetch: result, before, after, report")
    output_name: str
    rate: str = Field(description="frames per second of the result, exact")
    source_rate: str
    size: int | None = Field(description="bytes of the result")
    device: str | None
    created: float
    started: float | None
    finished: float | None
    revision: int = Field(description="grows with every change of the job")


class Marks(BaseModel):
    """Scene changes and held, duplicate and low-confidence frames, in seconds of the result."""

    cuts: list[float] = []
    holds: list[tuple[float, float]] = []
    duplicates: list[tuple[float, float]] = []
    source_times: list[tuple[float, float]] = Field(
        default=[], description="seconds of result and source that belong together, where the speed changes"
    )
    low_confidence: list[tuple[float, float]] = Field(
        default=[],
        validation_alias=AliasChoices("low_confidence", "doubts"),  # results of earlier versions say doubts
        description="where frames of low confidence begin, and the confidence of each, 0 to 1",
    )
    regions: list[tuple[float, float, float, float] | None] = Field(
        default=[],
        description="where to look in each of them: left, top, right, bottom as fractions of the frame",
    )


class ServerState(BaseModel):
    """The server."""

    version: str
    models: list[str]
    model: str
    devices: list[str]
    paths_allowed: bool
    limits: dict[str, float | None]
    counts: dict[str, int]


class NewSession(BaseModel):
    """Trade the token for a cookie."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, Field(max_length=1000)]


JPEG_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


def raw_body(media: str) -> dict[str, Any]:
    """Describe to OpenAPI a request whose body is a file."""
    content = {media: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


class HTTPError(Exception):
    """A response of 4xx."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code
