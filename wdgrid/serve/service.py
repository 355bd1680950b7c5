"""Defines what the API's routes share: the parts of the service, the form of responses, and the parameter types."""

import json
from typing import Annotated, Any

from fastapi import Path as InPath
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from wdgrid.errors import UsageError
from wdgrid.serve import reading
from wdgrid.serve.hub import Hub
from wdgrid.serve.jobs import Ended, Jobs
from wdgrid.serve.problems import MEDIA_TYPE, Problem
from wdgrid.serve.reading import Maps, Reader
from wdgrid.serve.settings import Settings

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Problem details (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema(ref_template="#/components/schemas/{model}")}},
    }
}
Name = Annotated[str, InPath(min_length=1, max_length=200, description="a study's name")]
Number = Annotated[int, InPath(ge=1, le=2**31 - 1, description="an entry of the queue")]


class Service:
    """The parts of the service that the routes use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reader = Reader(settings.url)
        self.maps = Maps(self.reader)
        self.hub = Hub(self.reader, self.maps)
        self.jobs = Jobs()
        self.analyses: dict[str, tuple[str, Any]] = {}

    @property
    def storage(self) -> tuple[str, str]:
        """The command line option that names the storage."""
        return "--storage", self.settings.url

    def need(self, name: str) -> None:
        """Raises NoSuchStudyError if the storage does not hold the study."""
        self.reader.call(lambda store: reading.need_study(store, name))


def ended_well(ended: Ended) -> Ended:
    """The result of a command that succeeded. Raises UsageError with the command's message if it failed."""
    if ended.status == 0:
        return ended
    if ended.status == 2:
        raise UsageError(ended.message)
    raise HTTPException(503, ended.message)


def events_of(hub: Hub, name: str, version: str | None) -> Response:
    """The events of a study, or of the queue, as a stream."""
    return StreamingResponse(
        hub.watch(name, version), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


def json_answer(data: object) -> Response:
    """Data as JSON."""
    return Response(
        json.dumps(data, separators=(",", ":"), allow_nan=False, default=str), media_type="application/json"
    )


def stream_description() -> dict[int | str, dict[str, Any]]:
    """How the API's description tells of a stream."""
    return {200: {"description": "events, until the client leaves", "content": {"text/event-stream": {}}}}
