"""Defines the API's routes that submit studies and change the queue."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from wdgrid.errors import UsageError
from wdgrid.runner import naming
from wdgrid.runner.queue import submit as add_to_queue
from wdgrid.serve import reading
from wdgrid.serve.hub import QUEUE
from wdgrid.serve.jobs import json_of
from wdgrid.serve.problems import Fault, InvalidStudyError, NoSuchStudyError
from wdgrid.serve.service import Name, Number, Service, events_of, json_answer, stream_description
from wdgrid.serve.submission import checked, number_of_cells, shipped_text
from wdgrid.study.bundled import names as shipped_names


class StudyText(BaseModel):
    """A study as the text of a study file, or the name of a shipped one, with `FIELD=VALUE` overrides."""

    model_config = ConfigDict(extra="forbid")

    toml: str | None = Field(None, max_length=2**20)
    shipped: str | None = Field(None, max_length=100)
    overrides: list[Annotated[str, Field(max_length=2000)]] = Field(default_factory=list, max_length=50)

    def text(self) -> str:
        """The text of the study file. Raises InvalidStudyError if there is none."""
        if self.toml is not None:
            return self.toml
        found = shipped_text(self.shipped) if self.shipped is not None else None
        if found is None:
            words = f"{self.shipped}: no study of that name ships with wdgrid"
            if self.shipped is None:
                words = "give `toml`, the text of a study file, or `shipped`, the name of a shipped study"
            raise InvalidStudyError([Fault(field="", message=words)])
        return found


class Submission(StudyText):
    """A study to be put into the queue, and how it is swept."""

    name: str = Field(min_length=1, max_length=200)
    extend: bool = False
    coarse: bool = False
    retry: bool = False
    workers: int | None = Field(None, ge=1, le=1024)


class Valid(BaseModel):
    """Whether a study is valid, and every fault where it is not."""

    valid: bool
    cells: int | None = None
    title: str | None = None
    faults: list[Fault] = Field(default_factory=list[Fault])


class Place(BaseModel):
    """A place in the queue; 1 is the next one."""

    to: int = Field(ge=1, le=100_000)


def add_submission(routes: APIRouter, service: Service) -> None:
    """Adds the routes about studies that are not stored yet."""
    settings = service.settings

    @routes.get("/shipped")
    def shipped() -> list[str]:
        """The names of the studies that ship with wdgrid."""
        return shipped_names()

    @routes.get("/shipped/{name}", response_class=Response, responses=_text_description())
    def shipped_file(name: Name) -> Response:
        """The study file of a shipped study."""
        if (text := shipped_text(name)) is None:
            raise HTTPException(404, f"{name}: no study of that name ships with wdgrid")
        return Response(text, media_type="application/toml")

    @routes.post("/validate")
    def validate(study: StudyText) -> Valid:
        """Whether a study is valid and may be submitted; every fault, with its field and its line."""
        try:
            found = checked(study.text(), study.overrides, settings)
        except InvalidStudyError as error:
            return Valid(valid=False, faults=error.faults)
        return Valid(valid=True, cells=number_of_cells(found), title=found.title)

    @routes.post("/plan")
    async def plan(study: StudyText) -> Response:
        """What a study will cost on this machine, and `wdgrid check`'s line about it; trains nothing."""
        found = checked(study.text(), study.overrides, settings)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "study.toml")
            path.write_text(study.text(), encoding="utf-8")
            words = [str(path), *([] if settings.code else ["--no-code"])]
            words += [word for override in study.overrides for word in ("--set", override)]
            if found.task.dataset_args.get("download") is False:
                words += ["--set", "task.dataset_args.download=false"]
            tried = await service.jobs.run(["check", *words], 60)
            ended = tried if tried.status else await service.jobs.run(["plan", *words, "--json"], 60)
        if ended.status:
            faults = [Fault(field="", message=line.replace(f"{path}: ", "")) for line in ended.message.splitlines()]
            raise InvalidStudyError(faults)
        line = tried.out.decode("utf-8", "replace").strip().removeprefix("study: ")
        return json_answer({**json_of(ended), "study": found.title, "check": line})


def add_queue(routes: APIRouter, service: Service) -> None:
    """Adds the routes of the queue."""
    settings, call = service.settings, service.reader.call

    @routes.get("/queue")
    def queue() -> dict[str, Any]:
        """The queue in the order of its turn, then what ended; the worker's progress."""
        return call(reading.queue)

    @routes.get("/events", response_class=StreamingResponse, responses=stream_description())
    async def events() -> Response:
        """Server-sent events: `status` whenever the queue or its progress changes."""
        return events_of(service.hub, QUEUE, None)

    @routes.post("/queue", status_code=201)
    def submit(study: Submission) -> dict[str, Any]:
        """Put a study at the end of the queue."""
        found = checked(study.text(), study.overrides, settings)
        try:
            name = naming.checked_name(study.name)
        except UsageError as error:
            raise InvalidStudyError([Fault(field="name", message=str(error))]) from None
        options = {key: getattr(study, key) for key in ("extend", "coarse", "retry", "workers")}
        with naming.open_store(settings.url) as store:
            return reading.entry_row(add_to_queue(store, name, found, options))

    def changed(number: int, change: str, *given: int) -> dict[str, Any]:
        try:
            call(lambda store: store.queue.entry(number))
        except UsageError as error:
            raise NoSuchStudyError(str(error)) from None
        with naming.open_store(settings.url) as store:
            return reading.entry_row(getattr(store.queue, change)(number, *given))

    @routes.post("/queue/{number}/move")
    def move(number: Number, place: Place) -> dict[str, Any]:
        """Move an entry that waits or is paused."""
        return changed(number, "move", place.to)

    @routes.post("/queue/{number}/pause")
    def pause(number: Number) -> dict[str, Any]:
        """Pause an entry; finished cells stay."""
        return changed(number, "pause")

    @routes.post("/queue/{number}/resume")
    def resume(number: Number) -> dict[str, Any]:
        """Let an entry go on that is paused, cancelled or failed."""
        return changed(number, "resume")

    @routes.post("/queue/{number}/cancel")
    def cancel(number: Number) -> dict[str, Any]:
        """Take an entry out of the queue; finished cells stay."""
        return changed(number, "cancel")


def _text_description() -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the study file", "content": {"application/toml": {}}}}
