"""The HTTP application: a value built from its server, no globals."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Lifespan

from serving.access import NOTES, Access
from serving.connections import Crowd
from serving.direct import Direct
from serving.openapi import Described
from serving.problems import Problem
from serving.routes import router
from serving.server import Server

log = logging.getLogger("serving.app")

DESCRIPTION = """\
Rankings that learn from the last seconds' actions. Post what users do, ask what to show them.

Every error is a problem document (RFC 9457) with a stable `type`; docs/api.md lists them.
Keys are asked for where the server has a key file; it names the scope that each route needs.
"""


def create_app(server: Server) -> ASGIApp:
    """The application; its lifespan starts and stops the server's threads. Whatever happens, it
    passes `Access` first, so that every answer is logged and counted."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await server.start()
        try:
            yield
        finally:
            server.close()

    routes = router(server)
    app = describe(routes, lifespan)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _routing_problem)
    app.add_exception_handler(Exception, _failure)
    own = [route for route in routes.routes if isinstance(route, APIRoute)]
    return Access(Crowd(Direct(app, own, _failure)), server.metrics)


def describe(routes: APIRouter, lifespan: Lifespan[FastAPI] | None = None) -> Described:
    """The routes with the document about them."""
    app = Described(
        title="Freshet",
        version="1",
        description=DESCRIPTION,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.include_router(routes)
    return app


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _routing_problem(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = "method-not-allowed" if status == HTTPStatus.METHOD_NOT_ALLOWED else "not-found"
    detail = f"{request.method} {request.url.path}: see /openapi.json for what there is"
    return Problem(kind, status, detail, headers=error.headers).response()


async def _failure(request: Request, error: Exception) -> Response:
    request_id = request.scope[NOTES]["request_id"]
    log.error("request failed", exc_info=error, extra={"fields": {"request_id": request_id}})
    return Problem(
        "internal",
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "an unexpected error; the server's log has it",
        headers={"Connection": "close"},  # uvicorn closes it
    ).response()
