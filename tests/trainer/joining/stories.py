"""Messy streams of impressions and actions, and blocks of them without a stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from service.action_types import ActionTypes
from service.actions import Action, Id, Impression
from service.blocks import Block, BlockBuilder
from service.streams import Record

CLICK, LIKE = "click", "like"
CODES = ActionTypes().codes
BASE_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Told:
    """An impression or an action, and when it reaches the stream."""

    what: Impression | Action
    arrives_ms: int

    @property
    def topic(self) -> str:
        return "impressions" if isinstance(self.what, Impression) else "actions"

    @property
    def at_ms(self) -> int:
        return round(self.what.at * 1000)


def shown(
    request: str, at: float, *items: Id, user: Id = "u", history: int | None = None,
    positions: list[int] | None = None, propensities: list[float] | None = None,
) -> Impression:  # fmt: skip
    return Impression(
        request=request, user=user, at=at, items=list(items), history=history,
        positions=positions, propensities=propensities,
    )  # fmt: skip


def acted(
    request: str | None, item: Id, at: float, kind: str = CLICK, user: Id = "u",
    name: str | None = None,
) -> Action:  # fmt: skip
    return Action(user=user, item=item, action=kind, at=at, request=request, id=name)


def block_of(
    records: Iterable[Impression | Action], watermark_ms: int = 0, first: int = 0
) -> Block:
    """A block as an intake would make it; impressions count their offsets from `first`."""
    builder = BlockBuilder(CODES, 1e15, 1e15)
    for number, what in enumerate(records, first):
        record = Record(number, 0, msgspec.json.encode(what))
        if isinstance(what, Impression):
            builder.impression(record, ("impressions", 0), decode_impression)
        else:
            builder.action(record, ("actions", 0), decode_action)
    return builder.build({}, watermark_ms)


decode_impression = msgspec.json.Decoder(Impression).decode
decode_action = msgspec.json.Decoder(Action).decode


def messy(
    seed: int, requests: int, *, join_ms: int, correct_ms: int, impressions_late_ms: int,
    actions_late_ms: int, stray: bool = True,
) -> list[Told]:  # fmt: skip
    """A stream in order of arrival: out of order, late, twice, again, without request, unmatched.

    An impression is at most `impressions_late_ms` late, an action `actions_late_ms`. `stray` adds
    what nobody could place: impressions far too late, and requests that are shown again after they
    were learned.
    """
    draw, made = np.random.default_rng(seed), list[Told]()

    def tell(what: Impression | Action, late_ms: int) -> None:
        delay_ms = int(draw.integers(late_ms)) if draw.random() < 0.3 else 0
        made.append(Told(what, round(what.at * 1000) + delay_ms))

    at_ms = BASE_MS
    for number in range(requests):
        at_ms += int(draw.integers(join_ms // 4))
        user, request = f"u{draw.integers(4)}", f"r{number}"
        items = [f"i{i}" for i in draw.integers(0, 12, draw.integers(1, 6)).tolist()]
        if draw.random() < 0.9:
            tell(shown(request, at_ms / 1000, *items, user=user), impressions_late_ms)
        if draw.random() < 0.2:  # what was really shown
            tell(shown(request, at_ms / 1000 + 0.5, *items[::-1][:2], user=user), 1)
        if stray and draw.random() < 0.2:
            again_ms = at_ms + int(draw.integers(3 * (join_ms + correct_ms)))
            tell(shown(request, again_ms / 1000, *items, user=user), impressions_late_ms)
            tell(shown(request, at_ms / 1000, *items, user=user), 4 * (join_ms + correct_ms))
        for _ in range(draw.integers(5)):
            span_ms = join_ms if draw.random() < 0.8 else 2 * (join_ms + correct_ms)
            done_ms = at_ms + int(draw.integers(-join_ms // 10, span_ms))
            item = items[0] if draw.random() < 0.7 else f"i{draw.integers(12)}"
            named = request if draw.random() < 0.6 else None
            kind = CLICK if draw.random() < 0.7 else LIKE
            action = acted(named, item, done_ms / 1000, kind, user, name=f"a{draw.integers(99)}")
            tell(action, actions_late_ms)
            if draw.random() < 0.2:
                tell(action, actions_late_ms)
            if draw.random() < 0.1:
                tell(acted(named, item, done_ms / 1000 + 1, kind, user), actions_late_ms)
        tell(acted(None, "i99", at_ms / 1000, user="walker"), 1)  # moves the watermark
    order = np.argsort([one.arrives_ms for one in made], kind="stable")
    return [made[n] for n in order]


def in_blocks(story: Sequence[Told], seed: int) -> list[list[Told]]:
    """The stream cut into blocks of random sizes."""
    draw, blocks, first = np.random.default_rng(seed), [], 0
    while first < len(story):
        size = int(draw.integers(1, 30))
        blocks.append(list(story[first : first + size]))
        first += size
    return blocks
