"""What a server asks of a version: scores of candidates, and the best items of all.

Shapes: C candidates, R rows of the item slot, D width, A action types. One user at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.reserved import Reserved
from service.action_types import ActionTypes
from service.device import ON_CPU, Device
from service.draws import Draw
from service.errors import ModelMismatch, VersionError
from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.asking import Answer, Asked, Asker, Asks, Seen, is_ours
from service.model.compiled import CompiledAsker
from service.model.dense import Model
from service.model.hstu import window_start
from service.model.items import ItemRows, RowStep
from service.model.placed import PlacedRows
from service.model.posterior import Explored
from service.model.precision import asker_of, chosen
from service.model.prior import COUNTS, COUNTS_ORIGIN
from service.model.readings import (
    EXTENDED,
    HIT,
    READ,
    Reading,
    Readings,
    Tell,
    distinct,
    unheard,
)  # fmt: skip
from service.model.scans import add_if_seen
from service.model.settings import Dense, ModelSettings
from service.versions import Snapshot

__all__ = [
    "COUNTS", "COUNTS_ORIGIN", "ITEM_SLOT", "CodesOf", "Ranker", "Scores", "Step", "described",
    "visible",
]  # fmt: skip

ITEM_SLOT = "item"

CodesOf = Callable[[Longs], Tensor]
"""Keys [N] of items to codes [N, K] of their categories, int32, 0 for none."""


@dataclass(frozen=True)
class Scores:
    """Scores of C candidates. `actions` is None while the version has no action heads."""

    score_C: Tensor
    next_item_C: Tensor
    actions: dict[str, Tensor] | None
    """Calibrated probability of each action type, [C] each; scores are sums of logits."""
    explored: Explored | None = None
    """What a draw has made of `score_C`, of nothing else; None where there was none."""


def described(model: ModelSettings, types: ActionTypes, action_heads: bool) -> dict[str, object]:
    """What a snapshot says about its model, for `Ranker` to build it again."""
    return {
        "model": model.model_dump(mode="json"),
        "actions": types.described(),
        "action_heads": action_heads,
    }


def visible(history: Histories, window: int) -> tuple[Longs, int]:
    """Which of one user's events a row asking now sees, and the time before the first (or -1).

    history: the last `window + 1` events of one user or more; of fewer all are visible. The
    indices returned point into its arrays.
    """
    held, count = len(history.item_T), int(history.count_B[0])
    first = max(0, held - (count - window_start(count - 1, window))) if count else 0
    before_ms = int(history.at_ms_T[first - 1]) if first > 0 else -1
    return np.arange(first, held), before_ms


@contextmanager
def _explained(number: int) -> Iterator[None]:
    """What does not fit in a version, as a ModelMismatch that names it."""
    try:
        yield
    except KeyError as error:
        raise ModelMismatch(
            f"version {number} has no {error}: a release before this one wrote it; publish a new "
            "one with this release's trainer"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise ModelMismatch(f"version {number} does not fit its settings: {error}") from None


@dataclass(frozen=True, eq=False)
class Step:
    """What turns a version into a later one, ready to be applied."""

    parent: int
    number: int
    model: Model
    asker: Asks[Any]
    rows: RowStep


class Request(NamedTuple):
    """What is asked for one user."""

    history: Histories
    keys_C: Longs
    at_ms: int
    user_key: int | None = None
    """With it, what is read of the history is kept for the next request."""
    draw: Draw | None = None
    """Scores are to be drawn; a version that does not know how sure it is draws nothing."""


class Explanation(NamedTuple):
    """Where the scores of C candidates come from."""

    seen: Seen
    """The T events that were visible."""
    weight_CT: Tensor | None
    """Share of each event in what a candidate took from the history, each row's sum 1; None where
    layers are not of our form."""
    logits_CA: Tensor | None
    """Logits of the action heads, before calibration; None while there are none."""


class _Unseen(NamedTuple):
    """Items without a row that have categories: where they stand, and their vectors."""

    place_V: Tensor
    vectors_VD: Tensor


class Ranker:
    """One version, ready to score. One thread uses it; another may prepare what comes next."""

    def __init__(
        self, snapshot: Snapshot, readings: Readings | None = None, dense: Dense = "fp32",
        device: Device = ON_CPU, crew: Crew | None = None,
    ) -> None:  # fmt: skip
        """Build the model of a whole snapshot. Raises ModelMismatch if its parts do not fit.

        readings: where histories that were read are kept; versions may share it. dense: precision
        of matrix products, `auto` for the one that measures fastest here. device: where networks of
        our form compute; others do so on the CPU. crew: threads that candidates are dealt to.
        """
        self.number, self._crew = snapshot.number, crew or Crew()
        self._readings = Readings(0) if readings is None else readings
        self._stamps, self._stamp = Reserved(np.int64), 0
        with _explained(snapshot.number):
            self.model = Model.of(snapshot)
            categories = self.model.network.categories
            self.items = ItemRows(snapshot.slots[ITEM_SLOT], self.model.prior, categories)
            if self.items.width != self.model.settings.dim:
                raise ValueError(
                    f"items are {self.items.width} wide, dim is {self.model.settings.dim}"
                )
            self._device = device if is_ours(self.model.network) else ON_CPU
            self.dense: Dense = chosen(self.model.network, dense, self.model.codes, self._device)
            self._asker, self._weights = self._laid_out(self.model), object()
        self._placed = (
            None if self._device == ON_CPU else PlacedRows(self.items, self._device.torch)
        )
        self._stamps.extend(len(self.items))

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._device.torch

    def prepare(self, delta: Snapshot) -> Step:
        """Everything about the next version that can be done while this one answers.

        Changes nothing. Raises VersionError for a delta of another version than this one, and
        ModelMismatch for one that does not fit.
        """
        if delta.parent != self.number:
            raise VersionError(
                f"what version {delta.number} changes is version {delta.parent}, and version "
                f"{self.number} is here: {_misplaced(delta, self.number)}"
            )
        with _explained(delta.number):
            model = Model.of(delta, self.model)
            removed_T = delta.removed.get(ITEM_SLOT, torch.empty(0, dtype=torch.int64))
            rows = self.items.prepare(
                delta.slots[ITEM_SLOT], removed_T, model.prior, model.network.categories
            )
        asker = self._asker
        if model.network is not self.model.network:
            following = copy(self)
            asker = self._laid_out(model)
            following.model, following._asker, following._readings = model, asker, Readings(0)
            following.warm()
        return Step(self.number, delta.number, model, asker, rows)

    def apply(self, step: Step) -> None:
        """Become the version that a step was prepared for, in a few milliseconds."""
        if step.parent != self.number:
            raise ValueError(f"a step from version {step.parent} was applied to {self.number}")
        unknown_D = self.items.gather(torch.zeros(1, dtype=torch.int64))
        self.items.apply(step.rows)
        if step.asker is not self._asker:
            self._asker, self._weights = step.asker, object()
            self._readings.clear()
        self.model, self.number = step.model, step.number
        self._stamp += 1
        stamps_R, touched = self._stamps.extend(len(self.items)), self.rows(step.rows.touched_keys)
        stamps_R[touched.numpy()] = self._stamp
        if self._placed is not None:
            self._placed.follow(touched)
        # It is written with every step, and seldom another one.
        same = torch.equal(unknown_D, self.items.gather(torch.zeros(1, dtype=torch.int64)))
        stamps_R[0] = stamps_R[0] if same else self._stamp

    def rows(self, item_keys_C: Longs) -> Tensor:
        """Row of each item, 0 (the unknown row) for items without one."""
        return self.items.rows(item_keys_C)

    def rank(
        self, history: Histories, item_keys_C: Longs, at_ms: int, codes_of: CodesOf | None = None
    ) -> Scores:
        """Score candidates for one user; duplicates and unknown items are scored like any other.

        codes_of: codes of the categories of items that have no row.
        """
        return self.rank_all([Request(history, item_keys_C, at_ms)], codes_of)[0]

    @torch.inference_mode()
    def rank_all(
        self, requests: Sequence[Request], codes_of: CodesOf | None = None, tell: Tell = unheard
    ) -> list[Scores]:
        """As `rank`, several requests together: none changes what another is told.

        tell: told of each request what had to be read of its history, `hit`, `extended` or `read`.
        """
        rows = [self.rows(one.keys_C) for one in requests]
        unseen = [
            self._unseen(one.keys_C, rows_C, codes_of)
            for one, rows_C in zip(requests, rows, strict=True)
        ]
        readings = [self._read(one.history, one.user_key, codes_of, tell) for one in requests]
        asked = [
            Asked(reading.kept, one.at_ms, self._candidates(rows_C, its))
            for one, reading, rows_C, its in zip(requests, readings, rows, unseen, strict=True)
        ]
        answers = self._asker.ask(asked)
        every = zip(answers, readings, rows, unseen, strict=True)
        return [
            self._drawn(self._scores(*each), one, each[0])
            for one, each in zip(requests, every, strict=True)
        ]

    @torch.inference_mode()
    def explain(self, request: Request, codes_of: CodesOf | None = None) -> Explanation:
        """What a ranking of these candidates rests on; computed anew for them."""
        reading = self._read(request.history, request.user_key, codes_of)
        rows_C = self.rows(request.keys_C)
        candidates_CD = self._candidates(rows_C, self._unseen(request.keys_C, rows_C, codes_of))
        asked = [Asked(reading.kept, request.at_ms, candidates_CD)]
        heads, seen = self.model.has_action_heads, reading.kept.seen
        if not isinstance(self._asker, Asker | CompiledAsker):
            logits_CA = self._asker.ask(asked)[0].logits_CA
            return Explanation(seen, None, logits_CA if heads else None)
        weighed = torch.zeros(1 + len(candidates_CD), len(seen))
        logits_CA = self._asker.ask(asked, [weighed])[0].logits_CA
        # Without action heads the next item is asked for, by one row for all candidates.
        weight_CT = weighed[1:] if heads else weighed[:1].expand(len(rows_C), -1)
        weight_CT = weight_CT / weight_CT.sum(1, keepdim=True).clamp(min=1e-30)
        return Explanation(seen, weight_CT, logits_CA if heads else None)

    @torch.inference_mode()
    def user(
        self, history: Histories, at_ms: int, codes_of: CodesOf | None = None,
        user_key: int | None = None, tell: Tell = unheard,
    ) -> Tensor:  # fmt: skip
        """Who asks for the next item: a vector [D] as long as the temperature makes it."""
        reading = self._read(history, user_key, codes_of, tell)
        return self._long(self._asker.ask([Asked(reading.kept, at_ms, self._nobody)])[0])

    @torch.inference_mode()
    def next_items(self, history: Histories, at_ms: int, user_D: Tensor | None = None) -> Tensor:
        """Next-item logits of every row of the item slot, [R]: of the unknown item first, minus
        infinity for rows without an item. `user_D` is what `user` has returned, if it was asked."""
        user_D = self.user(history, at_ms) if user_D is None else user_D
        scores_R = self.items.logits_of_all(user_D)
        seen_T, _ = visible(history, self.model.settings.window)
        seen_rows_U = distinct(self.rows(history.item_T[seen_T]).numpy())
        scores_R[torch.from_numpy(seen_rows_U)] += self.model.network.seen
        return scores_R

    @torch.inference_mode()
    def vectors(self, item_keys_C: Longs, codes_of: CodesOf | None = None) -> Tensor:
        """The vectors of items [C, D], as rankings read them."""
        rows_C = self.rows(item_keys_C)
        return self._vectors(rows_C, self._unseen(item_keys_C, rows_C, codes_of)).cpu()

    def warm(self) -> None:
        """Run every path once, so that the first request does not pay for compilation."""
        keys = np.resize(np.append(self.items.live_keys()[:64], 0), 64)
        for events in (0, 1, self.model.settings.window):
            count = np.array([events])
            history = Histories(
                np.array([0, events]), np.resize(keys, events), np.zeros(events, np.int64),
                np.arange(events), count,
            )  # fmt: skip
            self.rank(history, keys, at_ms=events)
            self.next_items(history, at_ms=events)
        self.items.rehearse()

    def _laid_out(self, model: Model) -> Asks[Any]:
        return asker_of(model.network, self.dense, model.codes, self._device, self._crew)

    def _unseen(self, keys_N: Longs, rows_N: Tensor, codes_of: CodesOf | None) -> "_Unseen":
        """Those of some items that have no row, but categories."""
        unknown_N = (rows_N == 0).nonzero().squeeze(1)
        if codes_of is None or not len(unknown_N):
            return _Unseen(rows_N[:0], torch.zeros(0, self.items.width))
        codes_NK = codes_of(keys_N[unknown_N.numpy()])
        has_N = codes_NK.any(1)
        return _Unseen(unknown_N[has_N], self.items.unknown(codes_NK[has_N]))

    def _candidates(self, rows_C: Tensor, unseen: "_Unseen") -> Tensor:
        """The vectors [C, D] of candidates, none where no action head would look at them."""
        return self._vectors(rows_C, unseen) if self.model.has_action_heads else self._nobody

    def _vectors(self, rows_C: Tensor, unseen: "_Unseen") -> Tensor:
        vectors_CD = self._gathered(rows_C)
        vectors_CD[unseen.place_V] = unseen.vectors_VD.to(vectors_CD.device)
        return vectors_CD

    def _gathered(self, rows_C: Tensor) -> Tensor:
        """The vectors [C, D] of items by row, where the network computes."""
        if self._placed is None:
            return self.items.gather(rows_C)
        return self._placed.gather(rows_C, self._asker.network.categories)

    @property
    def _nobody(self) -> Tensor:
        return torch.zeros(0, self.items.width)

    def _read(
        self, history: Histories, user_key: int | None, codes_of: CodesOf | None,
        tell: Tell = unheard,
    ) -> Reading:  # fmt: skip
        """What the network read of a history: as it is kept, or with what is new, or all anew."""
        visible_T, before_ms = visible(history, self.model.settings.window)
        item_T, action_T, at_ms_T = (
            column[visible_T] for column in (history.item_T, history.action_T, history.at_ms_T)
        )
        seen, rows_T = Seen(item_T, action_T, at_ms_T, before_ms), self.rows(item_T)
        codes_TK = self._codes(item_T, rows_T, codes_of)
        before = None if user_key is None else self._readings.get(user_key)
        if before is not None and not self._stands(before, seen, rows_T, codes_TK):
            before = None
        known = 0 if before is None else len(before.rows_T)
        if before is not None and known == len(seen):
            tell(HIT)
            return before
        new = rows_T[known:]
        vectors_ND = self._gathered(new)
        if codes_TK is not None:
            places_V = (new == 0).nonzero().squeeze(1)
            unknown_VD = self.items.unknown(codes_TK[known:][places_V])
            vectors_ND[places_V] = unknown_VD.to(vectors_ND.device)
        kept = self._asker.read(seen, vectors_ND, None if before is None else before.kept)
        rows = rows_T.numpy()
        reading = Reading(kept, self._weights, rows, codes_TK, self._stamp, distinct(rows))
        tell(READ if before is None else EXTENDED)
        if user_key is not None:
            self._readings.put(user_key, reading)
        return reading

    def _stands(self, before: Reading, seen: Seen, rows_T: Tensor, codes_TK: Tensor | None) -> bool:
        """Whether what was read is still what would be read, as far as it goes."""
        count = len(before.rows_T)
        if before.weights is not self._weights or not before.kept.seen.begins(seen):
            return False
        if count < len(seen) and not self._asker.extends:
            return False
        if not np.array_equal(before.rows_T, rows_T[:count].numpy()):
            return False
        changed = self._stamps.flat[before.rows_T].max(initial=0)
        return int(changed) <= before.stamp and _same_codes(before.codes_TK, codes_TK, count)

    def _codes(self, item_T: Longs, rows_T: Tensor, codes_of: CodesOf | None) -> Tensor | None:
        """Codes of the categories of items without a row, 0 for the others; None without such."""
        unknown_T = rows_T == 0
        if codes_of is None or not bool(unknown_T.any()):
            return None
        codes_VK = codes_of(item_T[unknown_T.numpy()])
        codes_TK = codes_VK.new_zeros(len(item_T), codes_VK.shape[1])
        codes_TK[unknown_T] = codes_VK
        return codes_TK

    def _scores(self, answer: Answer, reading: Reading, rows_C: Tensor, unseen: _Unseen) -> Scores:
        user_D = self._long(answer)
        next_item_C = self.items.logits(user_D, rows_C)
        if len(unseen.place_V):
            next_item_C[unseen.place_V] = self.items.logits_of_unknown(user_D, unseen.vectors_VD)
        seen = self.model.network.seen.detach().numpy()[0]
        add_if_seen(next_item_C.numpy(), rows_C.numpy(), reading.seen_rows_U, seen)
        if not self.model.has_action_heads:
            return Scores(self.model.types.next_item_weight * next_item_C, next_item_C, None)
        return self._combined(next_item_C, answer.logits_CA)

    def _drawn(self, scores: Scores, request: Request, answer: Answer) -> Scores:
        posterior = self.model.posterior
        if request.draw is None or posterior is None or scores.actions is None:
            return scores
        inputs_CD = answer.inputs_CD.cpu()
        explored = posterior.explored(scores.score_C, inputs_CD, request.draw)
        return replace(scores, score_C=scores.score_C + explored.moved_C, explored=explored)

    def _long(self, answer: Answer) -> Tensor:
        return answer.user_D / self.model.settings.temperature

    def _combined(self, next_item_C: Tensor, logits_CA: Tensor) -> Scores:
        score_C = self.model.types.next_item_weight * next_item_C
        actions, chance_CA = {}, self.model.calibration.chances(logits_CA)
        for a, (name, kind) in enumerate(self.model.types.types.items()):
            score_C = score_C + kind.weight * logits_CA[:, a]
            actions[name] = chance_CA[:, a]
        return Scores(score_C, next_item_C, actions)


def _misplaced(delta: Snapshot, number: int) -> str:
    if delta.number == number:
        return "it comes twice"
    after = delta.parent is not None and delta.parent > number
    return "deltas between are missing" if after else "it is out of order"


def _same_codes(a: Tensor | None, b: Tensor | None, count: int) -> bool:
    """Whether the first `count` events have the same codes; None is all zeros."""
    if a is None or b is None:
        return all(one is None or not bool(one[:count].any()) for one in (a, b))
    return torch.equal(a, b[:count])
