"""Every route of the API: reads the body, hands a question to the core or records to the log."""

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ValidationError
from starlette.convertors import IntegerConvertor, register_url_convertor

from service.actions import Id, Impression
from service.errors import StreamError
from service.logs import hashed
from serving import batches
from serving.access import NOTES
from serving.body import read_body
from serving.connections import ASKED, GONE
from serving.exploration import DIVERSE, draw_of
from serving.guard import Meter
from serving.ids import keys_of, user_key
from serving.messages import (
    AppendAnswer,
    HealthAnswer,
    PinAnswer,
    RankAnswer,
    RankRequest,
    RecommendRequest,
    VersionsAnswer,
)
from serving.openapi import EXPLAINED, TIMED, problems, takes, takes_batch
from serving.problems import Problem, explain, invalid_field
from serving.questions import Question, Rank, Ranking, Recommend, Wanted, answer
from serving.server import Server

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class VersionNumber(IntegerConvertor):
    """A path's version number: 64 bits. int() itself fails beyond some thousand digits."""

    regex = "[0-9]{1,18}"


register_url_convertor("version", VersionNumber())

Number = Annotated[int, Path(ge=0, lt=10**18, description="Which version", examples=[41])]


def router(server: Server) -> APIRouter:
    """All routes, bound to `server`."""
    routes = APIRouter()
    _add_ranking(routes, server)
    _add_log(routes, server)
    _add_state(routes, server)
    return routes


def _add_ranking(routes: APIRouter, server: Server) -> None:
    responses = TIMED | problems(401, 403, 413, 415, 422, 429, 503)
    may_rank = server.guard.needs("read", "rankings")

    @routes.post(
        "/v1/rank",
        response_model=RankAnswer,
        responses=responses,
        openapi_extra=takes(RankRequest) | EXPLAINED,
        dependencies=may_rank,
    )
    async def rank(request: Request) -> Response:
        """Put candidates in order for a user."""
        body = await _body(server, request)
        started = time.perf_counter()
        asked = _parse(RankRequest, body)
        server.guard.require_candidates(len(asked.items))
        question = Rank(
            user_key(asked.user),
            asked.items,
            keys_of("items", asked.items),
            _milliseconds(asked.at),
            asked.n,
            _explain(server, request),
            draw_of(_explore(server, asked), _request_id(request, asked), user_key(asked.user)),
        )
        return await _ranked(server, request, asked, question, started)

    @routes.post(
        "/v1/recommend",
        response_model=RankAnswer,
        responses=responses,
        openapi_extra=takes(RecommendRequest) | EXPLAINED,
        dependencies=may_rank,
    )
    async def recommend(request: Request) -> Response:
        """The best n items of the catalogue for a user."""
        body = await _body(server, request)
        started = time.perf_counter()
        asked = _parse(RecommendRequest, body)
        question = Recommend(
            user_key(asked.user),
            asked.n,
            asked.exclude_seen,
            keys_of("exclude", asked.exclude),
            _milliseconds(asked.at),
            _wanted(asked, server.settings.item_filters),
            _explain(server, request),
            _request_id(request, asked),
            asked.page,
            asked.diversity,
            draw_of(_explore(server, asked), _request_id(request, asked), user_key(asked.user)),
        )
        return await _ranked(server, request, asked, question, started)


def _add_log(routes: APIRouter, server: Server) -> None:
    errors = problems(401, 403, 413, 415, 422, 429, 503)
    may_append = server.guard.needs("write", "records")

    @routes.post(
        "/v1/actions",
        status_code=HTTPStatus.ACCEPTED,
        response_model=AppendAnswer,
        responses=errors,
        openapi_extra=takes_batch("actions", batches.PostedAction, batches.ACTION_EXAMPLE),
        dependencies=may_append,
    )
    async def actions(request: Request) -> Response:
        """Append actions to the log. 202: the accepted ones survive a crash of every process."""
        body = await _body(server, request)
        return await asyncio.to_thread(_append_actions, server, body, server.guard.meter(request))

    @routes.post(
        "/v1/impressions",
        status_code=HTTPStatus.ACCEPTED,
        response_model=AppendAnswer,
        responses=errors,
        openapi_extra=takes_batch(
            "impressions", batches.PostedImpression, batches.IMPRESSION_EXAMPLE
        ),
        dependencies=may_append,
    )
    async def impressions(request: Request) -> Response:
        """Append lists that were really shown to the log."""
        body = await _body(server, request)
        meter = server.guard.meter(request)
        return await asyncio.to_thread(_append_impressions, server, body, meter)

    @routes.post(
        "/v1/items",
        status_code=HTTPStatus.ACCEPTED,
        response_model=AppendAnswer,
        responses=errors,
        openapi_extra=takes_batch("items", batches.PostedItem, batches.ITEM_EXAMPLE),
        dependencies=may_append,
    )
    async def items(request: Request) -> Response:
        """Append what is known of items to the log; of each item the latest record counts whole."""
        body = await _body(server, request)
        return await asyncio.to_thread(_append_items, server, body, server.guard.meter(request))


def _add_state(routes: APIRouter, server: Server) -> None:
    @routes.get(
        "/v1/versions",
        response_model=VersionsAnswer,
        responses=problems(401, 403, 503),
        dependencies=server.guard.needs("read"),
    )
    async def versions() -> Response:
        """The version that answers, those that exist, what is pinned, held and refused."""
        return _json(await server.core.versions())

    may_decide = server.guard.needs("admin")

    @routes.post(
        "/v1/versions/{number:version}/activate",
        response_model=PinAnswer,
        responses=problems(401, 403, 404, 409, 503),
        dependencies=may_decide,
    )
    async def activate(number: Number) -> Response:
        """Pin a version: every server answers from it within its next look."""
        return _json(await server.core.activate(number))

    @routes.post(
        "/v1/versions/unpin",
        response_model=PinAnswer,
        responses=problems(401, 403, 503),
        dependencies=may_decide,
    )
    async def unpin(_: Request) -> Response:
        """Follow the newest version again."""
        return _json(await server.core.unpin())

    @routes.get("/health/live", response_model=HealthAnswer, responses=problems())
    async def live() -> Response:
        """The process runs."""
        return _json({"status": "ok"})

    @routes.get("/health/ready", response_model=HealthAnswer, responses=problems(503))
    async def ready() -> Response:
        """A version is loaded and warm, histories are restored, and the server is not stopping."""
        await server.core.require_ready()
        return _json({"status": "ok"})

    open_metrics = server.settings.open_metrics

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=problems(503) if open_metrics else problems(401, 403, 503),
        dependencies=[] if open_metrics else server.guard.needs("read"),
    )
    async def metrics() -> Response:
        """Prometheus exposition format 0.0.4."""
        text = await server.exposition()
        return Response(text, headers={"Content-Type": server.metrics.content_type})


async def _ranked(
    server: Server,
    request: Request,
    asked: RankRequest | RecommendRequest,
    question: Question,
    started: float,
) -> Response:
    request_id = _request_id(request, asked)
    request.scope[NOTES].update(request_id=request_id, user=hashed(asked.user))
    asked_at = time.perf_counter()
    ranking = await _unless_gone(request, server.core.ask(question))
    engine_ms = (time.perf_counter() - asked_at) * 1000
    request.scope[NOTES]["version"] = ranking.served.number
    body = _json(answer(ranking, request_id, time.perf_counter() - started))
    body.headers["Server-Timing"] = f"engine;dur={engine_ms:.3f}"
    if server.settings.log_impressions and ranking.items:
        server.impressions.offer(_impression(asked.user, question.at_ms, request_id, ranking))
    return body


async def _unless_gone(request: Request, asked: "asyncio.Future[T]") -> T:
    """Await the engine's answer for as long as the client does."""
    request.scope[ASKED] = asked
    try:
        return await asked
    except asyncio.CancelledError:
        if request.scope.get(GONE):
            raise Problem(
                "client-gone", HTTPStatus.BAD_REQUEST, "the client left before its answer"
            ) from None
        raise


def _impression(user: Id, at_ms: int, request_id: str, ranking: Ranking) -> Impression:
    return Impression(
        request=request_id,
        user=user,
        at=at_ms / 1000,
        items=list(ranking.items),
        history=ranking.history,
        version=ranking.served.number,
        propensities=ranking.propensity_N,
    )


async def _body(server: Server, request: Request) -> bytes:
    settings = server.settings
    return await read_body(request, settings.body_limit_bytes, settings.body_seconds)


def _append_actions(server: Server, body: bytes, meter: Meter) -> Response:
    batch = batches.read_actions(body, server.rules, time.time(), meter)
    response = _append(server, "actions", batch)
    server.metrics.actions_appended_total.inc(len(batch.accepted))
    return response


def _append_impressions(server: Server, body: bytes, meter: Meter) -> Response:
    batch = batches.read_impressions(body, server.rules, time.time(), meter)
    return _append(server, "impressions", batch)


def _append_items(server: Server, body: bytes, meter: Meter) -> Response:
    batch = batches.read_items(body, server.rules, time.time(), meter)
    return _append(server, "items", batch)


def _append(server: Server, topic: str, batch: batches.Batch[Any]) -> Response:
    append = batches.append_by_item if topic == "items" else batches.append_by_user
    try:
        append(server.stream, topic, batch.accepted)
    except (StreamError, OSError) as error:
        raise Problem(
            "log-unavailable",
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{error}; send the batch again: actions with an id count once",
            headers={"Retry-After": "1"},
        ) from error
    server.core.appended(topic)
    said = {"accepted": len(batch.accepted), "rejected": [r.model_dump() for r in batch.rejected]}
    return _json(said, HTTPStatus.ACCEPTED)


def _explain(server: Server, request: Request) -> bool:
    """Whether an explanation is asked for. Raises Problem unless the key may have one."""
    said = request.query_params.get("explain", "false").lower()
    if said not in ("true", "false"):
        raise invalid_field("explain", f"is {said[:20]!r}; send true or false")
    if said == "true":
        server.guard.require(request, "explain")
    return said == "true"


def _parse(kind: type[M], body: bytes) -> M:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise explain(error) from None


def _wanted(asked: RecommendRequest, filters: Sequence[str]) -> Wanted:
    """The filters of a request. Raises Problem 422 for a feature that the server does not know."""
    for name in asked.features:
        if name not in filters:
            known = ", ".join(filters) or "none"
            raise invalid_field(
                f"features.{name}",
                f"is no feature that this server filters by ({known}): add it to "
                "serving.item_filters",
            )
    return Wanted(asked.categories, asked.exclude_categories, asked.features)


def _explore(server: Server, asked: RankRequest | RecommendRequest) -> float:
    """How far a request explores. Raises Problem 422 where it asks for more than can be done."""
    wanted = server.settings.exploration if asked.explore is None else asked.explore
    if isinstance(asked, RankRequest) or not asked.diversity or not wanted:
        return wanted
    last = (asked.page + 1) * asked.n
    if last <= DIVERSE:
        return wanted
    if asked.explore is None:
        return 0.0
    raise invalid_field(
        "explore",
        f"of the items that are to differ the first {DIVERSE} can be explored, and this page ends "
        f"with number {last}: ask for fewer, or send diversity or explore as 0",
    )


def _request_id(request: Request, asked: RankRequest | RecommendRequest) -> str:
    return str(asked.request or request.scope[NOTES]["request_id"])


def _milliseconds(at: float | None) -> int:
    return int((time.time() if at is None else at) * 1000)


def _json(content: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(_encode(content), status, media_type="application/json")
