"""Who may ask for what: reads the key of a request before anything else of it is read."""

import ipaddress
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.datastructures import Headers

from service.errors import SettingsError
from service.keys import Scope
from service.metrics import ServingMetrics
from serving.access import NOTES
from serving.keys import Caller, Keyring, anybody
from serving.limits import Bucket, LimitSettings, Spent, UserRates, too_many
from serving.problems import Problem, invalid_field

Spends = Literal["rankings", "records"]

CALLER = "freshet.caller"
"""Key of the ASGI scope under which the guard leaves who asks."""
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="freshet"'}

_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="A key of `freshet keys new`"
)
_bearer = HTTPBearer(auto_error=False, description="The same key, for what can only send this")


class Guard:
    """Checks keys, scopes and rates. Without a keyring anybody may do anything."""

    def __init__(
        self, keyring: Keyring | None, limits: LimitSettings, metrics: ServingMetrics, spent: Spent
    ) -> None:
        self.limits = limits
        self.keyed = keyring is not None
        self._keyring, self._metrics = keyring, metrics
        self._anybody = anybody(limits, spent.keys)
        self._users = UserRates(limits.user_actions_per_second, limits.burst_seconds, spent.users)

    def needs(self, scope: Scope, spends: Spends | None = None) -> Sequence[Any]:
        """Dependencies of a route: a key with this scope, whose rate is not used up."""
        return [Security(Needs(self, scope, spends), scopes=[scope])]

    def admit(self, request: Request, scope: Scope, spends: Spends | None) -> None:
        """Note who asks. Raises Problem unless that is allowed."""
        caller = self._caller(request, _token(request.headers))
        self._require_scope(caller, scope)
        if spends == "rankings":
            self._spend("rankings", caller.rankings, caller.rankings.take(1))
        elif spends == "records":  # how many it has is known when the body is read
            self._spend("records", caller.records, caller.records.wait())
        request.scope[CALLER] = caller

    def require(self, request: Request, scope: Scope) -> None:
        """Raise Problem 403 unless who asks has one more scope."""
        self._require_scope(request.scope[CALLER], scope)

    def require_candidates(self, count: int) -> None:
        """Raise Problem 422 for a list longer than `limits.candidates`."""
        if count > self.limits.candidates:
            raise invalid_field("items", f"must hold at most {self.limits.candidates} elements")

    def meter(self, request: Request) -> "Meter":
        """What a batch of this request is held against."""
        return Meter(self, request.scope[CALLER])

    def takes_action_of(self, user_key: int) -> bool:
        """Whether one more action of a user is within the rate; counted either way."""
        taken = self._users.takes(user_key)
        if not taken:
            self._metrics.rate_limited_total.labels("user_actions").inc()
        return taken

    def spend_records(self, caller: Caller, count: int) -> None:
        """Take a batch from the caller's rate. Raises Problem 429."""
        self._spend("records", caller.records, caller.records.take(count))

    def _caller(self, request: Request, token: str) -> Caller:
        if self._keyring is None:
            self._require_same_origin(request)
            return self._anybody
        caller = self._keyring.find(token) if token else None
        if caller is None:
            reason = "unknown" if token else "missing"
            raise self._denied(reason, _unauthorized(f"the key is {reason}"))
        request.scope[NOTES]["key"] = caller.key_id
        if caller.expired:
            raise self._denied("expired", _unauthorized("the key has expired"))
        return caller

    def _require_scope(self, caller: Caller, scope: str) -> None:
        if scope not in caller.scopes:
            has = ", ".join(caller.scopes)
            detail = f"this needs a key with scope {scope}; this key has {has}"
            raise self._denied("scope", Problem("forbidden", HTTPStatus.FORBIDDEN, detail))

    def _require_same_origin(self, request: Request) -> None:
        """A page of another site must not act through the browser of somebody near this server."""
        origin = request.headers.get("origin")
        if origin and origin.partition("://")[2] != request.headers.get("host"):
            detail = "a page of another origin may not ask a server that needs no key"
            raise self._denied("origin", Problem("forbidden", HTTPStatus.FORBIDDEN, detail))

    def _spend(self, what: Spends, bucket: Bucket, wait_seconds: float) -> None:
        if wait_seconds > 0.0:
            self._metrics.rate_limited_total.labels(what).inc()
            raise too_many(what, bucket, wait_seconds)

    def _denied(self, reason: str, problem: Problem) -> Problem:
        self._metrics.requests_denied_total.labels(reason).inc()
        return problem


class Needs:
    """What one route asks of who comes. As a dependency it tells OpenAPI how keys are sent."""

    def __init__(self, guard: Guard, scope: Scope, spends: Spends | None) -> None:
        self._guard, self._scope, self._spends = guard, scope, spends

    async def __call__(
        self,
        request: Request,
        _key: Annotated[str | None, Depends(_header)],
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        """As `check`."""
        self.check(request)

    def check(self, request: Request) -> None:
        """Raise Problem unless the request may be answered."""
        self._guard.admit(request, self._scope, self._spends)


class Meter:
    """Holds the records of one batch against the limits of its sender and of its users."""

    def __init__(self, guard: Guard, caller: Caller) -> None:
        self._guard, self._caller = guard, caller

    def batch(self, name: str, count: int) -> None:
        """Count a batch. Raises Problem: 422 for no records or too many, 429 over the rate."""
        most = self._guard.limits.batch_records
        if not 1 <= count <= most:
            raise invalid_field(name, f"must hold 1 to {most} elements, not {count}")
        self._guard.spend_records(self._caller, count)

    def action(self, user_key: int) -> bool:
        """Count an action of a user; False when it is over the rate."""
        return self._guard.takes_action_of(user_key)


def require_keys(host: str, keyed: bool, open_allowed: bool) -> None:
    """Raise SettingsError if anybody who reaches `host` could ask without a key by oversight."""
    if not (keyed or open_allowed or _loopback(host)):
        raise SettingsError(
            f"--host {host} is open to other machines and no keys are set: make some with "
            '`freshet keys new` and name their file in [serving] keys = "FILE", or say '
            "--allow-open if whoever can reach it may do anything"
        )


def _token(headers: Headers) -> str:
    """The key that was sent, empty without one."""
    if key := headers.get("x-api-key"):
        return key
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unauthorized(detail: str) -> Problem:
    return Problem(
        "unauthorized",
        HTTPStatus.UNAUTHORIZED,
        f"{detail}; send one of `freshet keys new` as X-API-Key",
        headers=CHALLENGE,
    )
