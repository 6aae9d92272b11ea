"""The keys that a server knows: found by token, read anew when their file changes."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.actions import key_of
from service.errors import SettingsError
from service.keys import SCOPES, KeyEntry, Scope, new_key, parts_of, read_keys
from service.metrics import ServingMetrics
from serving.limits import MAX_KEYS, Bucket, LimitSettings
from serving.times import OwnTimes, Times

log = logging.getLogger("serving.keys")

LOOK_SECONDS = 1.0
"""The file is looked at no more often than this."""


@dataclass(frozen=True)
class Caller:
    """Who asks: a key, or anybody where the server needs none, and what is left of its rates."""

    key_id: str | None
    scopes: tuple[Scope, ...]
    rankings: Bucket
    records: Bucket
    entry: KeyEntry | None = None

    @property
    def expired(self) -> bool:
        """Whether the key's time is over."""
        return self.entry is not None and self.entry.expired(datetime.now(UTC))


def anybody(limits: LimitSettings, times: Times) -> Caller:
    """The one caller of a server without keys."""
    return Caller(
        None,
        SCOPES,
        _bucket("", "rankings", limits.rankings_per_second, limits, times),
        _bucket("", "records", limits.records_per_second, limits, times),
    )


class Keyring:
    """The keys of one file.

    A file that changed is read at the next request, at most once a second. One that is gone or
    broken changes nothing: the keys known before stay, the log and a metric say so.
    """

    def __init__(
        self,
        path: Path,
        limits: LimitSettings,
        metrics: ServingMetrics,
        times: Times | None = None,
    ) -> None:
        """times: where rates are counted, here alone without it."""
        self._path, self._limits, self._metrics = path, limits, metrics
        self._times = OwnTimes(MAX_KEYS) if times is None else times
        self._decoy = new_key("decoy", ("read",)).entry
        self._lock = threading.Lock()
        self._looked, self._seen = time.monotonic(), _state(path)
        self._callers: dict[str, Caller] = {}
        self._take(read_keys(path))

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, token: str) -> Caller | None:
        """Whose token it is. Compares a hash whatever the token, so that time tells nothing."""
        self._look()
        key_id, secret = parts_of(token)
        caller = self._callers.get(key_id)
        entry = caller.entry if caller and caller.entry else self._decoy
        opens = entry.opens_with(secret)
        return caller if opens else None

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked, before, self._seen = time.monotonic(), self._seen, _state(self._path)
            if self._seen != before:
                self._reload()
        finally:
            self._lock.release()

    def _reload(self) -> None:
        try:
            self._take(read_keys(self._path))
        except SettingsError as error:
            self._metrics.key_reloads_total.labels("failed").inc()
            log.error("%s; the %d keys known before stay", error, len(self))
        else:
            self._metrics.key_reloads_total.labels("loaded").inc()
            log.info("keys read anew", extra={"fields": {"keys": len(self)}})

    def _take(self, entries: Mapping[str, KeyEntry]) -> None:
        self._callers = {key_id: self._caller(key_id, entry) for key_id, entry in entries.items()}
        self._metrics.keys.set(len(self._callers))

    def _caller(self, key_id: str, entry: KeyEntry) -> Caller:
        limits = self._limits
        rankings = entry.rankings_per_second or limits.rankings_per_second
        records = entry.records_per_second or limits.records_per_second
        return Caller(
            key_id,
            entry.scopes,
            _bucket(key_id, "rankings", rankings, limits, self._times),
            _bucket(key_id, "records", records, limits, self._times),
            entry,
        )


def _bucket(
    key_id: str, what: str, per_second: float | None, limits: LimitSettings, times: Times
) -> Bucket:
    """The bucket the key had, unless its rate is another now."""
    key = key_of(f"{what} {per_second} {key_id}")
    return Bucket(per_second, limits.burst_seconds, times=times, key=key)


def _state(path: Path) -> tuple[int, ...] | None:
    """What differs when a file was written or replaced; None when it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
