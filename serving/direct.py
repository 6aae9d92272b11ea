"""The routes that are asked most, answered without the framework's layers around them.

FastAPI describes all routes and answers most; between a request and its endpoint lie its routers,
exit stacks and middleware, which cost more than a small request's endpoint. Here it is one look
into a table, and what the route declares (who may ask) is checked all the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard import Needs
from serving.problems import Problem

Endpoint = Callable[[Request], Awaitable[Response]]
Failure = Callable[[Request, Exception], Awaitable[Response]]


class _Way(NamedTuple):
    route: APIRoute
    needs: Sequence[Needs]
    endpoint: Endpoint


class Direct:
    """ASGI middleware: POST to a fixed path, whose endpoint takes the request; the rest is for the
    `app`."""

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute], failed: Failure) -> None:
        """routes: those without parameters; `failed` answers what no endpoint should raise."""
        self._app, self._failed = app, failed
        self._ways = {
            route.path: _Way(route, _needs(route), route.endpoint)
            for route in routes
            if route.methods == {"POST"} and not route.param_convertors
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        posted = scope["type"] == "http" and scope["method"] == "POST"
        way = self._ways.get(scope["path"]) if posted else None
        if way is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = way.route
        request = Request(scope, receive, send)
        response = await self._answer(way, request)
        await response(scope, receive, send)

    async def _answer(self, way: _Way, request: Request) -> Response:
        try:
            for need in way.needs:
                need.check(request)
            return await way.endpoint(request)
        except Problem as problem:
            return problem.response()
        except Exception as error:
            return await self._failed(request, error)


def _needs(route: APIRoute) -> list[Needs]:
    """What the route depends on. Raises TypeError for a dependency that would not be checked."""
    needs: list[Needs] = []
    for one in route.dependencies:
        if not isinstance(one.dependency, Needs):
            raise TypeError(f"{route.path} depends on {one.dependency}, not on Guard.needs")
        needs.append(one.dependency)
    return needs
