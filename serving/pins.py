"""Pins: which version all servers that follow a directory keep to."""

import time
from http import HTTPStatus

from service.errors import VersionError
from service.versions import VersionDirectory
from service.versions.decisions import Pin
from serving.problems import Problem


def activate(directory: VersionDirectory, number: int) -> int:
    """Pin a version; the decision's number. Raises Problem 404 or 409 for one that cannot be."""
    try:
        if number not in directory.numbers():
            raise Problem(
                "no-such-version",
                HTTPStatus.NOT_FOUND,
                f"version {number} is not there; GET /v1/versions names those that are",
            )
        if reason := _not_servable(directory, number):
            raise Problem("not-servable", HTTPStatus.CONFLICT, f"version {number} {reason}")
        return directory.decide(Pin(number, at=time.time()))
    except (VersionError, OSError) as error:
        raise _unavailable(error) from error


def unpin(directory: VersionDirectory) -> int:
    """Follow the newest version again; the decision's number."""
    try:
        return directory.decide(Pin(None, at=time.time()))
    except (VersionError, OSError) as error:
        raise _unavailable(error) from error


def _not_servable(directory: VersionDirectory, number: int) -> str | None:
    try:
        directory.verify(number, "snapshot")
    except VersionError as error:
        return f"cannot be loaded: {error}"
    return directory.objection(number)


def _unavailable(error: Exception) -> Problem:
    return Problem(
        "versions-unavailable",
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{error}; nothing was decided",
        headers={"Retry-After": "1"},
    )
