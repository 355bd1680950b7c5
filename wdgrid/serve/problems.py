"""Answers errors with problem details (RFC 9457): one JSON object with type, title, status and detail."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from wdgrid.errors import StudyFileError, UsageError, WdgridError
from wdgrid.printable import printable

MEDIA_TYPE = "application/problem+json"
LOG = logging.getLogger("wdgrid.serve")


class Fault(BaseModel):
    """A fault of a study: the field's path, the line of the text on which it is (from 1), and what is wrong."""

    field: str
    line: int | None = None
    message: str


class Problem(BaseModel):
    """Problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    faults: list[Fault] = Field(default_factory=list[Fault])


class NoSuchStudyError(UsageError):
    """The storage holds no study of that name."""


class BusyError(WdgridError):
    """The service does as much at once as it may; the same request may work later."""


class InvalidStudyError(WdgridError):
    """A submitted study has faults."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(fault.message for fault in faults))
        self.faults = faults


def problem(
    status: int, detail: str = "", faults: list[Fault] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with problem details."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=printable(detail)[:2000], faults=faults or [])
    return JSONResponse(body.model_dump(), status, headers, media_type=MEDIA_TYPE)


def status_of(error: WdgridError) -> int:
    """The HTTP status of the response to a request that raised this exception."""
    match error:
        case NoSuchStudyError():
            return 404
        case InvalidStudyError() | StudyFileError():
            return 422
        case BusyError() | _ if isinstance(error, BusyError) or error.exit_status == 1:
            return 503
        case _:
            return 409


def install(app: FastAPI) -> None:
    """Makes the application answer every exception with problem details, without a traceback."""

    async def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, WdgridError)
        status = status_of(error)
        if status == 503:
            LOG.warning("%s", error)
        headers = {"Retry-After": "5"} if status == 503 else None
        faults: list[Fault] = getattr(error, "faults", [])
        return problem(status, str(error), faults, headers)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = [Fault(field=_path(one), message=str(one.get("msg", ""))) for one in error.errors()[:20]]
        return problem(422, "the request is not what the API's description allows", faults)

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), headers=error.headers)

    async def unexpected(_request: Request, error: Exception) -> Response:
        LOG.error("unexpected error", exc_info=error)
        return problem(500, "the service failed; its log says more")

    app.add_exception_handler(WdgridError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _path(fault: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in fault.get("loc", ()))
