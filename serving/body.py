"""Reads a request body: declared as JSON, no longer than the limit, however it is sent."""

import asyncio
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.problems import Problem


async def read_body(request: Request, limit_bytes: int, limit_seconds: float) -> bytes:
    """The whole body. Raises Problem: 415 unless it is JSON, 413 or 408 once it is over a limit.

    The limits hold for chunked bodies too: reading stops at the chunk that crosses one.
    """
    _require_json(request)
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(limit_seconds):
            return await _read(request, limit_bytes)
    except ClientDisconnect:
        raise Problem(
            "client-gone", HTTPStatus.BAD_REQUEST, "the client closed the connection"
        ) from None
    except TimeoutError:
        raise Problem(
            "slow-body",
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body was not complete after {limit_seconds:g} s",
            headers={"Connection": "close"},
        ) from None


async def _read(request: Request, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _require_json(request: Request) -> None:
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != "application/json":
        raise Problem(
            "not-json-type",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is {sent[:100] or 'missing'!r}; send application/json",
        )


def _too_large(limit_bytes: int) -> Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    return Problem(
        "too-large",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is longer than {limit_bytes} bytes; send smaller batches",
        headers={"Connection": "close"},
    )
