"""Assembles the application: API, pages, problem details and access control."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from wdgrid import __version__
from wdgrid.serve import api, pages, problems
from wdgrid.serve.doors import Doors
from wdgrid.serve.reading import load_libraries
from wdgrid.serve.service import Service
from wdgrid.serve.settings import Settings


def make_app(settings: Settings) -> FastAPI:
    """The application over a storage that exists; `app.state.service` has its parts."""
    load_libraries()
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        yield
        service.hub.stopped.set()
        service.reader.close()

    app = FastAPI(
        title="wdgrid",
        version=__version__,
        summary="Submit, watch and compare grid searches over learning rate and weight decay",
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from other servers
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    problems.install(app)
    app.include_router(api.router(service))
    app.include_router(pages.router(service))
    app.add_middleware(Doors, settings=settings)
    return app
