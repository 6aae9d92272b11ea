"""Hooks for schemathesis: two of its checks, where a status and a schema cannot tell everything.

Each asks schemathesis's own check first, and judges only what that one complains about.
"""

import re
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi import checks


@schemathesis.check
def what_breaks_the_schema_is_refused(
    context: CheckContext, response: Response, case: Case
) -> bool | None:
    """A batch is judged record by record: 202 must name every record that it did not take."""
    try:
        return checks.negative_data_rejection(context, response, case)
    except AcceptedNegativeData:
        if response.status_code != 202 or not response.json()["rejected"]:
            raise
        return None


@schemathesis.check
def what_keeps_the_schema_is_taken(
    context: CheckContext, response: Response, case: Case
) -> bool | None:
    """What no schema can say may be refused with 422: see `_is_unknowable`."""
    try:
        return checks.positive_data_acceptance(context, response, case)
    except RejectedPositiveData:
        if response.status_code != 422 or not _is_unknowable(response.json(), case.body):
            raise
        return None


def _is_unknowable(problem: dict[str, Any], body: Any) -> bool:
    """Schemas count characters where Freshet counts bytes, take 7.0 for an integer where it is no
    id here, and do not know by which features a server was set up to filter."""
    field, detail = problem["field"], problem["detail"]
    if "bytes" in detail or field.startswith("features."):
        return True
    return "integer" in detail and isinstance(_at(body, field), float)


def _at(body: Any, path: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", path):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body
