"""Defines the JSON API for studies, maps, events, analyses and exports; `queueing` has the other routes."""

import base64
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from wdgrid.serve import reading
from wdgrid.serve.jobs import json_of
from wdgrid.serve.queueing import add_queue, add_submission
from wdgrid.serve.service import ERRORS, Name, Service, ended_well, events_of, json_answer, stream_description

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
    "heatmaps.pdf": "application/pdf",
    "study.json": "application/json",
}
FileName = Literal[
    "trials.csv",
    "trials.json",
    "trials.parquet",
    "report.html",
    "heatmaps.png",
    "heatmaps.svg",
    "heatmaps.pdf",
    "study.json",
]


def router(service: Service) -> APIRouter:
    """The routes below /api."""
    routes = APIRouter(prefix="/api", responses=ERRORS)
    _add_studies(routes, service)
    _add_results(routes, service)
    add_submission(routes, service)
    add_queue(routes, service)
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
        return json_answer({"version": version, "data": data})

    @routes.get("/studies/{name}/curves")
    def curves(name: Name) -> Response:
        """The learning curves of a study's finished cells."""
        return json_answer(call(lambda store: reading.curves(store, name)))

    @routes.get("/studies/{name}/events", response_class=StreamingResponse, responses=stream_description())
    async def events(
        name: Name, request: Request, version: Annotated[str | None, Query(max_length=100)] = None
    ) -> Response:
        """Server-sent events: `status`, and `cells` that changed since a `version` of the map."""
        service.need(name)
        # A browser that reconnects has no newer version than its page has, so it loads the map again.
        again = request.headers.get("last-event-id")
        return events_of(service.hub, name, None if again else version)


def _add_results(routes: APIRouter, service: Service) -> None:
    @routes.get("/studies/{name}/analysis")
    async def analysis(name: Name) -> Response:
        """Separability of each panel with its 90 % intervals, its verdict, and what went wrong."""
        service.need(name)
        version = service.reader.call(lambda store: reading.map_version(store, name))
        kept = service.analyses.get(name)
        if kept is None or kept[0] != version:
            ended = await service.jobs.run(["show", name, *service.storage, "--json"])
            kept = service.analyses[name] = version, json_of(ended_well(ended))
        return json_answer({"version": version, **kept[1]})

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
            found = json_of(ended_well(ended))
            picture = next(Path(out).glob("*/compare.png")).read_bytes()
        return json_answer({**found, "figure": f"data:image/png;base64,{base64.b64encode(picture).decode()}"})


def _side(service: Service, side: str) -> str:
    """A side of a comparison; it must name a stored study or a published figure, not a file."""
    if not side.startswith("paper:"):
        service.need(side.partition("/")[0])
    return side


async def _made(service: Service, out: str, words: list[str], file: str) -> bytes:
    """The content of the file that a command writes into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        ended_well(await service.jobs.run([*words, str(Path(folder, out))]))
        return Path(folder, file).read_bytes()


def _binary() -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the file", "content": {kind: {} for kind in dict.fromkeys(FILES.values())}}}


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
