"""A full join of a finished stream, as plainly as it can be written: every impression against every
action. Shares no code with the joiner."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from service.actions import Action, Impression
from tests.trainer.joining.stories import CODES, Told

Labels = tuple[tuple[str, str], ...]
"""Items and action types, sorted."""


class Joined(NamedTuple):
    """One impression as it was learned: its items and what followed within its window, and what
    was corrected afterwards."""

    request: str
    items: tuple[str, ...]
    labels: Labels
    corrections: Labels


def full_join(
    blocks: Sequence[Sequence[Told]], join_ms: int, horizon_ms: int, kept_ms: int, look_ms: int
) -> Counter[Joined]:
    """Every impression with all actions of its windows that came while it was kept.

    An action is a label if it came before the look that closed its impression, else a correction.
    """
    looks = _looks(blocks, look_ms)
    impressions: dict[str, tuple[Impression, int]] = {}
    actions: list[tuple[Action, int]] = []
    for number, block in enumerate(blocks):
        for one in block:
            if isinstance(one.what, Impression):
                impressions[one.what.request] = one.what, number
            else:
                actions.append((one.what, number))
    joined: Counter[Joined] = Counter()
    by_user: dict[object, list[Impression]] = {}
    for shown, _ in impressions.values():
        by_user.setdefault(shown.user, []).append(shown)
    for shown, came in impressions.values():
        closes = min((n for n, w in looks if n >= came and w >= _ms(shown) + join_ms), default=None)
        if closes is None:
            continue  # still open
        ends = min((n for n, w in looks if w >= _ms(shown) + kept_ms), default=looks[-1][0])
        mine = {
            (a.item, a.action, _ms(a) < _ms(shown) + join_ms and number <= closes)
            for a, number in actions
            if number <= ends and a.user == shown.user and a.item in shown.items
            and _is_of(a, shown, by_user[shown.user], join_ms, horizon_ms)
        }  # fmt: skip
        labels = {(item, kind) for item, kind, in_time in mine if in_time}
        late = {(item, kind) for item, kind, _ in mine} - labels
        items = tuple(map(str, shown.items))
        joined[Joined(shown.request, items, _sorted(labels), _sorted(late))] += 1
    return joined


def _is_of(
    action: Action, shown: Impression, every: Iterable[Impression], join_ms: int, horizon_ms: int
) -> bool:
    after_ms = _ms(action) - _ms(shown)
    if action.request is not None:
        same = (action.user, action.request) == (shown.user, shown.request)
        return same and -join_ms <= after_ms < horizon_ms
    rivals = [
        other
        for other in every
        if action.user == other.user and action.item in other.items
        and 0 <= _ms(action) - _ms(other) < join_ms
    ]  # fmt: skip
    return bool(rivals) and max(rivals, key=lambda other: other.at) is shown


def _looks(blocks: Sequence[Sequence[Told]], look_ms: int) -> list[tuple[int, int]]:
    """Blocks after which the joiner looks, with the watermark."""
    largest = accumulate(
        (max((t.at_ms for t in block if t.topic == "actions"), default=0) for block in blocks), max
    )
    looks, last_ms = [], 0
    for number, watermark_ms in enumerate(largest):
        if watermark_ms >= last_ms + look_ms:
            looks.append((number, watermark_ms))
            last_ms = watermark_ms
    return looks


def _sorted(pairs: set[tuple[object, str]]) -> Labels:
    return tuple(sorted((str(item), kind) for item, kind in pairs))


def _ms(event: Impression | Action) -> int:
    return round(event.at * 1000)


KINDS = {code: kind for kind, code in CODES.items()}
