"""Serves the HTML pages from templates; everything that changes while a page is open comes from the API."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import ChoiceLoader, Environment, PackageLoader
from pydantic import BaseModel, Field

from wdgrid import __version__
from wdgrid.report.captions import error_words, selection_words
from wdgrid.report.page import LONG_WORDS, SCRIPTS, embedded, term
from wdgrid.report.terms import explained
from wdgrid.serve import reading
from wdgrid.serve.api import FILES
from wdgrid.serve.doors import COOKIE, SESSION_S, equal, new_session
from wdgrid.serve.problems import problem
from wdgrid.serve.service import Service
from wdgrid.study.bundled import names as shipped_names

KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
PER_PAGE = 50


class Login(BaseModel):
    """The token with which a browser logs in."""

    token: str = Field(max_length=1000)


@cache
def static_file(name: str) -> bytes | None:
    """One of the service's files, the report's scripts and style, or Plotly; None for any other name."""
    if name == "plotly.js":
        from plotly.offline import get_plotlyjs  # pyright: ignore[reportMissingTypeStubs]

        return get_plotlyjs().encode()
    ours = ("common.js", "studies.js", "live.js", "submit.js", "queue.js", "compare.js", "login.js", "service.css")
    if name in ours:
        return files("wdgrid.serve").joinpath("static", name).read_bytes()
    if name in (*SCRIPTS, "report.css"):
        return files("wdgrid.report").joinpath("templates", name).read_bytes()
    return None


@cache
def static_url(name: str) -> str:
    """The address of a static file; it changes with the content, so that browsers may cache the file."""
    return f"/static/{name}?{hashlib.sha256(static_file(name) or b'').hexdigest()[:12]}"


def router(service: Service) -> APIRouter:
    """The pages' routes."""
    pages = Environment(
        loader=ChoiceLoader([PackageLoader("wdgrid.serve"), PackageLoader("wdgrid.report")]),
        autoescape=True,
        trim_blocks=True,
    )
    pages.globals.update({"static": static_url, "version": __version__, "term": term, "terms": explained()})  # pyright: ignore[reportCallIssue, reportArgumentType]
    for template in pages.list_templates(["html"]):  # now, not at the first request
        pages.get_template(template)
    routes = APIRouter(include_in_schema=False)
    _add_pages(routes, service, pages)
    _add_doors(routes, service, pages)
    return routes


def _add_pages(routes: APIRouter, service: Service, pages: Environment) -> None:
    call = service.reader.call

    def shown(template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(pages.get_template(template).render(**values), status)

    @routes.get("/")
    def studies(
        first: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        containing: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        page = call(lambda store: store.page(first, PER_PAGE, containing))
        return shown(
            "studies.html",
            title="Studies",
            page=page,
            first=first,
            containing=containing,
            before=max(0, first - PER_PAGE) if first else None,
            after=first + PER_PAGE if first + PER_PAGE < page.total else None,
        )

    @routes.get("/studies/{name}")
    def study(name: str) -> Response:
        found = call(lambda store: reading.need_study(store, name))
        version, data = service.maps.get(name)
        long_words = [LONG_WORDS.get(axis, axis) for axis in (found.row, found.column)]
        return shown(
            "study.html",
            title=found.title or name,
            name=name,
            detail=call(lambda store: reading.detail(store, name)),
            data=embedded({**data, "version": version}),
            files=list(FILES),
            error_words=error_words(found),
            long_words=long_words,
            several_seeds=len(found.seeds) > 1,
            validated=bool(found.task.validation_size),
            some_diverged=True,
            some_missing=True,
            some_valley=False,
            selection=selection_words(found),
        )

    @routes.get("/submit")
    def submit() -> Response:
        return shown("submit.html", title="Submit a study", shipped=shipped_names())

    @routes.get("/queue")
    def queue() -> Response:
        return shown("queue.html", title="Queue", queue=embedded(call(reading.queue)))

    @routes.get("/compare")
    def compare(
        a: Annotated[str, Query(max_length=400)] = "", b: Annotated[str, Query(max_length=400)] = ""
    ) -> Response:
        found = call(lambda store: store.page(0, 200))
        sides = [
            *(side for one in found.studies for side in (one.name, *(f"{one.name}/{panel}" for panel in one.panels))),
            "paper:figure1",
            "paper:figure2",
        ]
        return shown("compare.html", title="Compare", sides=sides, a=a, b=b)


def _add_doors(routes: APIRouter, service: Service, pages: Environment) -> None:
    settings = service.settings

    @routes.get("/healthz")
    def health() -> dict[str, str]:
        service.reader.call(lambda store: store.queue.worker())
        return {"status": "ok"}

    @routes.get("/static/{name}")
    def static(name: str) -> Response:
        content = static_file(name)
        if content is None:
            return problem(404, "no such file")
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(content, headers=headers, media_type=KINDS["." + name.rpartition(".")[2]])

    @routes.get("/login")
    def login_page() -> Response:
        return HTMLResponse(pages.get_template("login.html").render(title="Log in"))

    @routes.post("/login")
    def login(given: Login, request: Request) -> Response:
        if settings.token is None:
            return Response(status_code=204)
        if not equal(given.token.strip(), settings.token):
            return problem(401, "this is not the service's token")
        response = Response(status_code=204)
        secure = request.url.scheme == "https"
        session = new_session(settings.token)
        response.set_cookie(COOKIE, session, SESSION_S, path="/", secure=secure, httponly=True, samesite="strict")
        return response

    @routes.post("/logout")
    def logout() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response
