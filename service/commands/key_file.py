"""Changes a key file: one writer at a time, and readers see the old file or the new one."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from service.commands.settings_file import to_toml
from service.errors import InputError
from service.keys import KeyEntry, NewKey, read_keys

HEADING = (
    "# API keys of Freshet: hashes only. Written by `freshet keys`; comments are not kept.\n\n"
)


def add(path: Path, made: NewKey) -> None:
    """Put a new key into the file; makes the file if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        entries = read_keys(path) if path.exists() else {}
        if made.id in entries:
            raise InputError(f"id {made.id} was drawn twice, a chance of 1 to 2^32; try again")
        _replace(path, {**entries, made.id: made.entry})


def remove(path: Path, which: str) -> tuple[str, KeyEntry]:
    """Take out the key of this id or name. Raises InputError unless exactly one is meant."""
    with _alone(path):
        entries = read_keys(path)
        found = [one for one, entry in entries.items() if which in (one, entry.name)]
        if len(found) != 1:
            named = ", ".join(found) if found else ", ".join(entries) or "none"
            raise InputError(f"{path} has {len(found)} keys {which!r}; name one by its id: {named}")
        entry = entries.pop(found[0])
        _replace(path, entries)
    return found[0], entry


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the folder's lock."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, entries: Mapping[str, KeyEntry]) -> None:
    """Write beside the file, sync, rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    beside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if path.exists():
                _keep_owner(file.fileno(), path.stat())
            file.write(HEADING + to_toml({"keys": {k: _table(e) for k, e in entries.items()}}))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _keep_owner(handle: int, before: os.stat_result) -> None:
    """Whoever could read the file still can: a server may not be who runs the command."""
    os.fchmod(handle, before.st_mode & 0o777)
    mine = os.fstat(handle)
    if (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(handle, before.st_uid, before.st_gid)


def _table(entry: KeyEntry) -> dict[str, Any]:
    plain = entry.model_dump(exclude_none=True)
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in plain.items()}
