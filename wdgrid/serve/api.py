"""The JSON API: studies, maps, events, queue, submission, exports. Every error is answered with problem details."""

import base64
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from wdgrid.errors import UsageError
from wdgrid.runner import naming
from wdgrid.runner.queue import submit as add_to_queue
from wdgrid.serve import reading
from wdgrid.serve.hub import QUEUE, Hub
from wdgrid.serve.jobs import Ended, Jobs, json_of
from wdgrid.serve.problems import MEDIA_TYPE, Fault, InvalidStudyError, NoSuchStudyError, Problem
from wdgrid.serve.reading import Maps, Reader
from wdgrid.serve.settings import Settings
from wdgrid.serve.submission import checked, number_of_cells, shipped_text
from wdgrid.study.bundled import names as shipped_names

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Problem details (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema(ref_template="#/components/schemas/{model}")}},
    }
}
Name = Annotated[str, InPath(min_length=1, max_length=200, description="a study's name")]
Number = Annotated[int, InPath(ge=1, le=2**31 - 1, description="an entry of the queue")]
Side = Annotated[
    str, Query(min_length=1, max_length=400, pattern=r"^[^-]", description="STUDY, STUDY/PANEL or paper:figure1")
]
FILES = {
    "trials.csv": "text/csv",
    "trials.json": "application/json",
    "trials.parquet": "application/vnd.apache.parquet",
    "report.html": "text/html",
    "heatmaps.png": "image/png",
    "heatmaps.svg": "image/svg+xml",
    "study.json": "application/json",
}
FileName = Literal[
    "trials.csv", "trials.json", "trials.parquet", "report.html", "heatmaps.png", "heatmaps.svg", "study.json"
]


class StudyText(BaseModel):
    """A study as the text of a study file, or the name of a shipped one, with `FIELD=VALUE` overrides."""

    toml: str | None = Field(None, max_length=2**20)
    shipped: str | None = Field(None, max_length=100)
    overrides: list[Annotated[str, Field(max_length=2000)]] = Field(default_factory=list, max_length=50)

    def text(self) -> str:
        """The text of the study file. Raises InvalidStudyError where there is none."""
        if self.toml is not None:
            return self.toml
        found = shipped_text(self.shipped) if self.shipped is not None else None
        if found is None:
            raise InvalidStudyError(
                [Fault(field="", message=f"{self.shipped}: no study of that name ships with wdgrid")]
            )
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


class Service:
    """What the routes work with."""

    def __init__(self, settings: Settings) -> None:
        import matplotlib.colors  # noqa: F401  # for the map's colours; now rather than with the first map

        self.settings = settings
        self.reader = Reader(settings.url)
        self.maps = Maps(self.reader)
        self.hub = Hub(self.reader, self.maps)
        self.jobs = Jobs()
        self.analyses: dict[str, tuple[str, Any]] = {}

    @property
    def storage(self) -> tuple[str, str]:
        """The option of a command that names the storage."""
        return "--storage", self.settings.url

    def need(self, name: str) -> None:
        """Raises NoSuchStudyError where the storage does not hold a study."""
        self.reader.call(lambda store: reading.need_study(store, name))


def router(service: Service) -> APIRouter:
    """The routes below /api."""
    routes = APIRouter(prefix="/api", responses=ERRORS)
    _add_studies(routes, service)
    _add_results(routes, service)
    _add_submission(routes, service)
    _add_queue(routes, service)
    return routes


def _add_studies(routes: APIRouter, service: Service) -> None:
    call = service.reader.call

    @routes.get("/studies")
    def studies(
        first: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        at_most: Annotated[int, Query(ge=1, le=200)] = 50,
        containing: Annotated[str, Query(max_length=200)] = "",
    ) -> dict[str, Any]:
        """The studies of the storage, those created last first."""
        page = call(lambda store: store.page(first, at_most, containing))
        return {"studies": [asdict(one) | {"n_cells": one.n_cells} for one in page.studies], "total": page.total}

    @routes.get("/studies/{name}")
    def study(name: Name) -> dict[str, Any]:
        """One study: overview, definition, environment, status, failed cells."""
        return call(lambda store: reading.detail(store, name))

    @routes.get("/studies/{name}/map")
    def study_map(name: Name) -> Response:
        """A study's map as the page draws it, with its version."""
        version, data = service.maps.get(name)
        return _json({"version": version, "data": data})

    @routes.get("/studies/{name}/curves")
    def curves(name: Name) -> Response:
        """The learning curves of a study's finished cells."""
        return _json(call(lambda store: reading.curves(store, name)))

    @routes.get("/studies/{name}/events", response_class=StreamingResponse, responses=_stream())
    async def events(
        name: Name, request: Request, version: Annotated[str | None, Query(max_length=100)] = None
    ) -> Response:
        """Server-sent events: `status`, and `cells` that changed since a `version` of the map."""
        service.need(name)
        # A browser that connects again has no newer version than that of its page: it loads the map again.
        again = request.headers.get("last-event-id")
        return _events(service.hub, name, None if again else version)


def _add_results(routes: APIRouter, service: Service) -> None:
    @routes.get("/studies/{name}/analysis")
    async def analysis(name: Name) -> Response:
        """Separability of each panel with its 90 % intervals, its verdict, and what went wrong."""
        service.need(name)
        version = service.reader.call(lambda store: reading.map_version(store, name))
        kept = service.analyses.get(name)
        if kept is None or kept[0] != version:
            ended = await service.jobs.run(["show", name, *service.storage, "--json"])
            kept = service.analyses[name] = version, json_of(_ended_well(ended))
        return _json({"version": version, **kept[1]})

    @routes.get("/studies/{name}/files/{file}", response_class=Response, responses=_binary())
    async def files(name: Name, file: FileName) -> Response:
        """One of a study's exports, drawn and written anew."""
        service.need(name)
        if file == "study.json":
            definition = service.reader.call(lambda store: store.definition(name))
            content = definition[0].encode() if definition else b""
        elif file.startswith("trials."):
            kind = file.partition(".")[2]
            content = await _made(service, file, ["export", name, *service.storage, "--format", kind, "--out"], file)
        else:
            words = ["report", name, *service.storage, "--quiet", "--out"]
            content = await _made(service, ".", words, f"{name}/{file}")
        headers = {"content-disposition": f'attachment; filename="{_ascii(name)}-{file}"'}
        return Response(content, headers=headers, media_type=FILES[file])

    @routes.get("/compare")
    async def compare(a: Side, b: Side) -> Response:
        """Two studies or panels compared, with the figure as a data URL."""
        sides = [_side(service, side) for side in (a, b)]
        with tempfile.TemporaryDirectory() as out:
            ended = await service.jobs.run(["compare", *sides, *service.storage, "--json", "--quiet", "--out", out])
            found = json_of(_ended_well(ended))
            picture = next(Path(out).glob("*/compare.png")).read_bytes()
        return _json({**found, "figure": f"data:image/png;base64,{base64.b64encode(picture).decode()}"})


def _side(service: Service, side: str) -> str:
    """A side of a comparison, which names a stored study or published figure, and no file."""
    if not side.startswith("paper:"):
        service.need(side.partition("/")[0])
    return side


async def _made(service: Service, out: str, words: list[str], file: str) -> bytes:
    """The content of the file that a command writes into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _ended_well(await service.jobs.run([*words, str(Path(folder, out))]))
        return Path(folder, file).read_bytes()


def _add_submission(routes: APIRouter, service: Service) -> None:
    settings = service.settings

    @routes.get("/shipped")
    def shipped() -> list[str]:
        """The names of the studies that ship with wdgrid."""
        return shipped_names()

    @routes.get("/shipped/{name}", response_class=Response, responses=_text())
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
        return _json({**json_of(ended), "study": found.title, "check": line})


def _add_queue(routes: APIRouter, service: Service) -> None:
    settings, call = service.settings, service.reader.call

    @routes.get("/queue")
    def queue() -> dict[str, Any]:
        """The queue in the order of its turn, then what ended; the worker's progress."""
        return call(reading.queue)

    @routes.get("/events", response_class=StreamingResponse, responses=_stream())
    async def events() -> Response:
        """Server-sent events: `status` whenever the queue or its progress changes."""
        return _events(service.hub, QUEUE, None)

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


def _ended_well(ended: Ended) -> Ended:
    """A command that succeeded. Raises UsageError with what it said where it did not."""
    if ended.status == 0:
        return ended
    if ended.status == 2:
        raise UsageError(ended.message)
    raise HTTPException(503, ended.message)


def _events(hub: Hub, name: str, version: str | None) -> Response:
    return StreamingResponse(
        hub.watch(name, version), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


def _json(data: object) -> Response:
    return Response(
        json.dumps(data, separators=(",", ":"), allow_nan=False, default=str), media_type="application/json"
    )


def _stream() -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "events, until the client leaves", "content": {"text/event-stream": {}}}}


def _binary() -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the file", "content": {kind: {} for kind in dict.fromkeys(FILES.values())}}}


def _text() -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the study file", "content": {"application/toml": {}}}}


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
