"""Reads a request body: declared as JSON, no longer than the limit, however it is sent."""

from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.problems import Problem


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises Problem: 415 unless it is JSON, 413 as soon as it is over the limit.

    The limit holds for chunked bodies too: reading stops at the chunk that crosses it.
    """
    _require_json(request)
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise Problem(
            "client-gone", HTTPStatus.BAD_REQUEST, "the client closed the connection"
        ) from None
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
