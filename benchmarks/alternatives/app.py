"""`python -m benchmarks.alternatives.app KIND --port N --redis URL`: a ranker behind FastAPI.

`torch-*` answer through pydantic's response models, as FastAPI's tutorial does, the others through
orjson. Handlers are plain functions: FastAPI runs them in its threads, as it advises for what
blocks.
"""

import argparse

import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel, Field
from redis import Redis

from benchmarks.alternatives.rankers import Histories, Ranker, made


class RankRequest(BaseModel):
    """Candidates to put in order for a user."""

    user: str
    items: list[str] = Field(min_length=1, max_length=4096)
    n: int | None = Field(None, ge=1)


class Scored(BaseModel):
    """One item."""

    item: str
    score: float


class RankAnswer(BaseModel):
    """Items, best first."""

    items: list[Scored]


class Action(BaseModel):
    """What somebody did."""

    user: str
    item: str
    action: str


class ActRequest(BaseModel):
    """Actions to remember."""

    actions: list[Action]


def application(ranker: Ranker, histories: Histories, plain: bool) -> FastAPI:
    """POST /v1/rank and /v1/actions, GET /health/ready."""
    app = FastAPI()

    def ranked(asked: RankRequest) -> list[dict[str, object]]:
        scores = ranker.scores(asked.user, asked.items)
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: asked.n]
        return [{"item": asked.items[place], "score": scores[place]} for place in order]

    def rank_plainly(asked: RankRequest) -> RankAnswer:
        return RankAnswer(items=[Scored.model_validate(one) for one in ranked(asked)])

    def rank(asked: RankRequest) -> Response:
        return Response(orjson.dumps({"items": ranked(asked)}), media_type="application/json")

    app.post("/v1/rank")(rank_plainly if plain else rank)

    @app.post("/v1/actions", status_code=202)
    def act(asked: ActRequest) -> None:
        for one in asked.actions:
            histories.append(one.user, one.item)

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kind")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--redis", required=True)
    chosen = options.parse_args()
    redis = Redis.from_url(chosen.redis)
    app = application(made(chosen.kind, redis), Histories(redis), chosen.kind.startswith("torch"))
    uvicorn.run(app, port=chosen.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
