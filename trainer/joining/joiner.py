"""Which action belongs to which impression, decided when the window of the impression is over.

Nothing is decided as records arrive, but for what can no longer be changed: at each look, a few
times in a window, whatever is due is settled from all that had arrived by then. What an impression
or an action does depends only on records of its own user, and on the watermarks of the looks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import msgspec
import numpy as np
import torch
import xxhash
from torch import Tensor

from service.actions import Impression, key_of
from service.blocks import Block, Offsets
from service.histories.erased import Erased
from service.histories.local import Events
from trainer.joining.groups import CUT, Groups
from trainer.joining.rules import JoinRules
from trainer.joining.shown import Settled, Shown
from trainer.joining.waiting import OPEN, UNUSABLE, Row, Waiting, packed, unpacked

MOST_EVENTS = 2**40
"""More than any user has. A producer may have written anything."""

Tensors = dict[str, Tensor]

N = TypeVar("N", int, float)

_ENTRY = "key, user, at, history, items, positions, propensities"


class Facts(msgspec.Struct):
    """What a checkpoint holds of a joiner."""

    join_ms: int
    correct_ms: int
    groups: Groups
    loose_from: int | None
    gone: dict[int, int]
    unusable: list[int]
    dropped: dict[int, int]


class Joiner:
    """Open and correctable impressions, and actions that still look for one."""

    def __init__(self, rules: JoinRules, waiting: Waiting | None = None) -> None:
        self.rules = rules
        self.waiting = waiting or Waiting()
        self.groups = Groups.at({})
        self.loose_from: int | None = None
        """The group from which on actions without a request are kept: that of the first
        impression. A stream without any has no use for them."""
        self.gone: dict[int, int] = {}
        """Keys of forgotten requests of which something still arrived late, and until when more of
        them is refused: nobody would know any more that they were learned."""
        self.unusable: set[int] = set()
        """Keys of closed impressions that were not learned: they are not corrected."""
        self.dropped: dict[int, int] = {}
        """Erased users, veiled, and the group up to which nothing of theirs counts: no file of a
        version may name them."""
        self._offsets: Offsets = {}
        self._next_id = 1
        self._looked_id = 0
        """Actions with a higher number have come since the last look."""
        self._counts: Counter[str] = Counter()

    def begin(self, offsets: Offsets) -> None:
        """Reading begins at these offsets."""
        self.groups, self._offsets = Groups.at(offsets), offsets

    def adopt(self, rules: JoinRules, offsets: Offsets) -> None:
        """Go on by these rules, at these offsets."""
        self.groups.extend(max(0, rules.matters_ms - self.rules.matters_ms))
        self.rules, self._offsets = rules, offsets

    def take(self, block: Block) -> None:
        """Keep a block's impressions and actions."""
        if block.impressions and self.loose_from is None:
            self._cut()
            self.loose_from = self.groups.number
        self.keep(block, self.groups.number)

    def keep(self, block: Block, group: int) -> None:
        """Keep what a block, or a part of one, has of a group."""
        dropped = {user for user, last in self.dropped.items() if group <= last}
        places = block.shown_at or [(0, n) for n in range(len(block.impressions))]
        for impression, place in zip(block.impressions, places, strict=True):
            if not dropped or veiled(key_of(impression.user)) not in dropped:
                self._show(impression, place)
        events, requests = block.events, np.array(block.requests, dtype=object)
        if dropped and len(events):
            gone = [user for user in set(events.user_T.tolist()) if veiled(user) in dropped]
            kept_T = ~np.isin(events.user_T, gone)
            events, requests = events.where(kept_T), requests[kept_T]
        named_T = np.array([request is not None for request in requests], np.bool_)
        self._name(events.where(named_T), requests[named_T].tolist())
        if self.loose_from is not None and group >= self.loose_from:
            self._keep_loose(events.where(~named_T))

    def settle(self, offsets: Offsets, watermark_ms: int) -> Settled:
        """Look at what is due, if it is time: what was read before `offsets` is here."""
        self._offsets = offsets
        if watermark_ms < self.groups.looked_ms + self.rules.look_ms:
            return Settled()
        settled = self.look(watermark_ms)
        self.groups.end(offsets, watermark_ms)
        self.groups.forget()
        self.dropped = _since(self.dropped, self.groups.first - 1)
        return settled

    def look(self, watermark_ms: int) -> Settled:
        """Close what is due, correct what was closed, forget what is over."""
        settled = Settled(counts=self._counts)
        over_ms = watermark_ms - self.rules.join_ms
        due = self.waiting.rows(
            f"SELECT {_ENTRY} FROM shown WHERE stage = 0 AND at <= ? ORDER BY at, key", over_ms
        )
        self._give(over_ms, [row[1] for row in due])
        for row in due:
            settled.closed.append(self._closed(row))
        self.waiting.change_all(
            "UPDATE shown SET stage = 1 WHERE key = ?", [row[:1] for row in due]
        )
        self._correct(due, settled)
        self._forget(watermark_ms)
        self._looked_id, self._counts = self._next_id - 1, Counter()
        return settled

    def erase(self, erased: Erased) -> None:
        """Drop all that waits of erased users, whenever they did it."""
        if not len(erased):
            return
        self._cut()
        for user in erased.user_M.tolist():
            keys = self.waiting.rows("SELECT key FROM shown WHERE user = ?", user)
            self.unusable.difference_update(key for (key,) in keys)
            for table in ("named", "loose", "shown"):
                self.waiting.change(f"DELETE FROM {table} WHERE user = ?", user)
            self.dropped[veiled(user)] = self.groups.number - 1

    def give_up(self, keys: Sequence[int]) -> None:
        """Closed impressions that could not be learned: there is nothing to correct."""
        self.unusable.update(keys)
        self.waiting.change_all(
            f"UPDATE shown SET stage = {UNUSABLE} WHERE key = ?", [(key,) for key in keys]
        )

    @property
    def join_from(self) -> Offsets:
        """The first records that may still matter, by topic and partition."""
        return self.groups.places(self.groups.starts)

    def numbers(self) -> dict[str, int]:
        """How many impressions are open, and closed but correctable still."""
        counted: dict[int, int] = dict(
            self.waiting.rows("SELECT stage = 0, count(*) FROM shown GROUP BY 1")
        )
        return {"open": counted.get(1, 0), "correctable": counted.get(0, 0)}

    def state(self) -> Tensors:
        """What the streams do not tell: the log of looks, and the few facts that outlive their
        records."""
        facts = Facts(
            self.rules.join_ms, self.rules.correct_ms, self.groups, self.loose_from,
            dict(sorted(self.gone.items())), sorted(self.unusable),
            dict(sorted(self.dropped.items())),
        )  # fmt: skip
        data = msgspec.msgpack.encode(facts)
        return {"facts": torch.from_numpy(np.frombuffer(data, np.uint8).copy())}

    def _cut(self) -> None:
        """End the group before the block that is being taken."""
        self.groups.end(self._offsets, CUT)

    def _show(self, impression: Impression, place: tuple[int, int]) -> None:
        """Keep an impression, if it comes in time and was not learned already."""
        key, at_ms = request_key(key_of(impression.user), impression.request), _ms(impression.at)
        until_ms = at_ms + self.rules.kept_ms
        self.groups.matters(until_ms)
        if key in self.gone:
            self.gone[key] = max(self.gone[key], until_ms)
            self._counts["repeated"] += 1
            return
        there = self.waiting.row("SELECT stage, partition, offset FROM shown WHERE key = ?", key)
        if there is not None and there[0] != OPEN:
            self._shadow(key, until_ms)
            self._counts["repeated"] += 1
        elif until_ms <= self.groups.looked_ms:
            self._counts["late"] += 1
        elif there is not None and there[1:] > place:
            self._counts["replaced"] += 1
        else:
            self._counts["replaced"] += there is not None
            positions = _one_each(impression.positions, impression.items)
            propensities = _one_each(impression.propensities, impression.items)
            self.waiting.change(
                "INSERT OR REPLACE INTO shown VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
                key, key_of(impression.user), at_ms, *place, _believable(impression.history),
                packed([key_of(item) for item in impression.items]),
                None if positions is None else packed(_clipped(positions)),
                None if propensities is None else packed(propensities, np.float64),
            )  # fmt: skip

    def _name(self, events: Events, requests: list[str]) -> None:
        """Keep actions that name their request, each once."""
        columns = (events.user_T, events.item_T, events.action_T, events.at_ms_T)
        rows = []
        for request, user, item, action, at_ms in zip(
            requests, *(column.tolist() for column in columns), strict=True
        ):
            key = request_key(user, request)
            self.groups.matters(at_ms + self.rules.matters_ms)
            if key in self.gone:
                self.gone[key] = max(self.gone[key], at_ms + self.rules.join_ms)
                self._counts["too_late"] += 1
            else:
                rows.append((self._new_id(), key, user, item, action, at_ms, 0))
        kept = self.waiting.change_all("INSERT OR IGNORE INTO named VALUES (?,?,?,?,?,?,?)", rows)
        self._counts["duplicate"] += len(rows) - kept

    def _keep_loose(self, events: Events) -> None:
        """Keep actions that name no request until their impression is known."""
        if not len(events):
            return
        self.groups.matters(int(events.at_ms_T.max()) + self.rules.matters_ms)
        columns = (events.user_T, events.item_T, events.action_T, events.at_ms_T)
        ids = [self._new_id() for _ in range(len(events))]
        rows = zip(ids, *(column.tolist() for column in columns), strict=True)
        self.waiting.change_all("INSERT INTO loose VALUES (?, ?, ?, ?, ?)", rows)

    def _give(self, over_ms: int, users: Iterable[int]) -> None:
        """Name the request of actions without one: the latest impression of their user that shows
        the item and whose window holds them, once that window is over. An impression that comes
        later and is the better one is given the action, too."""
        came = self.waiting.rows(
            "SELECT DISTINCT loose.user FROM loose JOIN shown ON shown.user = loose.user "
            "WHERE loose.id > ? AND shown.stage > 0",
            self._looked_id,
        )
        given: list[tuple[int, ...]] = []
        for user in sorted({*users, *(user for (user,) in came)}):
            actions = self.waiting.rows(
                "SELECT item, action, at FROM loose WHERE user = ? ORDER BY at, item, action",
                user,
            )
            lists = self.waiting.rows(
                "SELECT at, key, items FROM shown WHERE user = ? ORDER BY at DESC, key DESC", user
            ) if actions else []  # fmt: skip
            shown = [(at, key, set(unpacked(items))) for at, key, items in lists]
            for item, action, at_ms in actions:
                for shown_ms, key, items in shown:
                    if shown_ms <= at_ms < shown_ms + self.rules.join_ms and item in items:
                        if shown_ms <= over_ms:
                            given.append((self._new_id(), key, user, item, action, at_ms, 0))
                        break
        self.waiting.change_all("INSERT OR IGNORE INTO named VALUES (?, ?, ?, ?, ?, ?, ?)", given)

    def _closed(self, row: Row) -> Shown:
        """An impression whose window is over, with the actions of its window."""
        entry = self._shown(row)
        first_ms, last_ms = entry.at_ms - self.rules.join_ms, entry.at_ms + self.rules.join_ms
        for item, action, at_ms in entry.own:
            if first_ms <= at_ms < last_ms and item in entry.items:
                self._counts["joined"] += 1
                entry.acted[item] = entry.acted.get(item, 0) | 1 << action
        self.waiting.change(
            "UPDATE named SET done = 1 WHERE key = ? AND at >= ? AND at < ?",
            entry.key, first_ms, last_ms,
        )  # fmt: skip
        return entry

    def _correct(self, due: list[Row], settled: Settled) -> None:
        """Settle actions on impressions that are closed: those that came since the last look, and
        those beyond the window of what closes now."""
        fields = "named.key, named.id, named.item, named.action, named.at"
        rows = self.waiting.rows(
            f"SELECT {fields} FROM named JOIN shown ON shown.key = named.key "
            "WHERE named.id > ? AND named.done = 0 AND shown.stage > 0",
            self._looked_id,
        )
        for row in due:
            rows += self.waiting.rows(
                f"SELECT {fields} FROM named WHERE key = ? AND done = 0", row[0]
            )
        rows = sorted(set(rows), key=itemgetter(0, 4, 2, 3))
        for key, actions in groupby(rows, itemgetter(0)):
            found = self.waiting.row(f"SELECT {_ENTRY}, stage FROM shown WHERE key = ?", key)
            assert found is not None
            late = self._late(self._shown(found[:-1]), [row[1:] for row in actions])
            if late.items and found[-1] != UNUSABLE:
                settled.late.append(late)
        settled.late.sort(key=lambda late: (late.at_ms, late.key))

    def _late(self, entry: Shown, actions: list[Row]) -> Shown:
        """What late actions, in order of time, say of a closed impression: each item and action
        once."""
        known = self.waiting.rows(
            "SELECT DISTINCT item, action FROM named WHERE key = ? AND done = 1", entry.key
        )
        done, corrected = set(known), dict[int, int]()
        for number, item, action, at_ms in actions:
            if at_ms < entry.at_ms - self.rules.join_ms:
                continue  # it is of another showing, which may still come
            if at_ms >= entry.at_ms + self.rules.horizon_ms:
                self._counts["too_late"] += 1
                self._shadow(entry.key, at_ms + self.rules.join_ms)
                self.waiting.change("DELETE FROM named WHERE id = ?", number)
                continue
            if (item, action) in done:
                self._counts["again"] += 1
            elif item in entry.items:
                self._counts["corrected"] += 1
                corrected[item] = corrected.get(item, 0) | 1 << action
            done.add((item, action))
            self.waiting.change("UPDATE named SET done = 1 WHERE id = ?", number)
        places = [n for n, item in enumerate(entry.items) if item in corrected]
        positions = entry.positions or list(range(len(entry.items)))
        chances = entry.propensities
        return Shown(
            entry.at_ms, entry.user, [entry.items[n] for n in places], entry.history, corrected,
            entry.key, [positions[n] for n in places], entry.own, late=True,
            propensities=None if chances is None else [chances[n] for n in places],
        )  # fmt: skip

    def _forget(self, watermark_ms: int) -> None:
        """Drop what is over."""
        over_ms = watermark_ms - self.rules.join_ms
        orphans = self.waiting.rows(
            "SELECT named.id FROM named LEFT JOIN shown ON shown.key = named.key WHERE "
            "named.done = 0 AND named.at <= ? AND (shown.key IS NULL OR named.at < shown.at - ?)",
            over_ms, self.rules.join_ms,
        )  # fmt: skip
        self._counts["orphan"] += len(orphans)
        self.waiting.change_all("DELETE FROM named WHERE id = ?", orphans)
        self.waiting.change("DELETE FROM loose WHERE at <= ?", over_ms)
        kept_ms = watermark_ms - self.rules.kept_ms
        over = self.waiting.rows("SELECT key, shadow FROM shown WHERE at <= ?", kept_ms)
        keys = [row[:1] for row in over]
        self.waiting.change_all("DELETE FROM named WHERE key = ?", keys)
        self.waiting.change_all("DELETE FROM shown WHERE key = ?", keys)
        self.unusable.difference_update(key for (key,) in keys)
        self.gone = _since(self.gone | dict(over), watermark_ms)

    def _shown(self, row: Row) -> Shown:
        key, user, at_ms, history, items, positions, propensities = row
        own = self.waiting.rows(
            "SELECT item, action, at FROM named WHERE key = ? ORDER BY at, item, action", key
        )
        return Shown(
            at_ms, user, unpacked(items), history, {}, key,
            None if positions is None else unpacked(positions), own,
            propensities=None if propensities is None else unpacked(propensities, np.float64),
        )  # fmt: skip

    def _shadow(self, key: int, until_ms: int) -> None:
        """Something came that would look new once the request is forgotten."""
        self.waiting.change(
            "UPDATE shown SET shadow = max(shadow, ?) WHERE key = ?", until_ms, key
        )  # fmt: skip

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def request_key(user: int, request: str) -> int:
    """64-bit key of a user's request: another user's actions never meet it."""
    data = user.to_bytes(8, "little", signed=True) + request.encode(errors="surrogatepass")
    return xxhash.xxh3_64_intdigest(data) - 2**63


def veiled(user: int) -> int:
    """What a user can be recognised by and not be told from."""
    data = user.to_bytes(8, "little", signed=True)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)


def _since(times: dict[int, int], over: int) -> dict[int, int]:
    """Those that are later."""
    return {key: until for key, until in times.items() if until > over}


def _ms(at: float) -> int:
    return round(at * 1000)


def _one_each(values: list[N] | None, items: Sequence[object]) -> list[N] | None:
    """What is said beside items, if it is said of each."""
    return values if values is not None and len(values) == len(items) else None


def _clipped(positions: Sequence[int]) -> list[int]:
    return [min(max(position, 0), 2**31) for position in positions]


def _believable(history: int | None) -> int | None:
    """How many events a scoring saw, unless it says what no scoring could have seen."""
    return history if history is not None and 0 <= history < MOST_EVENTS else None
