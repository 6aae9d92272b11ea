"""What is done with one block: admit its items, learn it, remember it, forget what is old."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from service.action_types import ActionTypes
from service.actions import RESERVED_KEY
from service.blocks import Block
from service.histories.leaving import Flags
from service.histories.local import Accepted, Events
from service.histories.rings import Longs
from service.histories.segments import SegmentLog
from service.items import category_keys
from service.metrics import TrainerMetrics
from service.store import Removed
from trainer.device import moved, placed
from trainer.evaluation import Evaluation
from trainer.examples import Batch, batches
from trainer.inspection import Inspection
from trainer.joining import Settled, Shown
from trainer.learner import Scored, Step
from trainer.sampling import Sampling
from trainer.settings import TrainerSettings
from trainer.state import State
from trainer.stochastic_length import StochasticLength
from trainer.targets import TargetBatch, Targets
from trainer.user_cap import UserCap

UNKNOWN_ITEM = RESERVED_KEY + 1
"""Key, never given a row, of events whose item's hash belongs to another item."""


ACTED = ("joined", "corrected", "again", "duplicate", "too_late", "orphan")
"""What becomes of an action that is about an impression."""

EVALUATE_EVERY = 4
"""Blocks of which one is scored for the hit rates."""


@dataclass(frozen=True)
class Scoring:
    """What an observer is told of a batch before it is learned."""

    scored: Scored
    accepted: Accepted
    truth_Q: Longs
    """Table rows of the true items."""
    now_ms: int


class Teacher:
    """Turns blocks into state. `observers` are told of every batch before anything moves."""

    def __init__(
        self,
        state: State,
        types: ActionTypes,
        settings: TrainerSettings,
        metrics: TrainerMetrics,
        inspection: Inspection,
        cap: UserCap | None = None,
    ) -> None:
        """`cap` bounds what one user teaches in a block; without one nobody is bound."""
        self.state, self.types, self.settings = state, types, settings
        self.metrics, self.inspection = metrics, inspection
        self.segments = SegmentLog()
        self.evaluation = Evaluation(state.learner, settings.evaluate_rows)
        self.observers: list[Callable[[Scoring], None]] = []
        self.shown_observers: list[Callable[[list[Shown]], None]] = []
        """Told of the impressions that are over before anything learns from them."""
        self._cap = cap
        on_cpu = state.learner.device.type == "cpu"
        self._threads = settings.threads if on_cpu else 1
        self._positive = np.array([kind.positive for kind in types.types.values()])
        self._targets = Targets(
            state.learner.network.settings.window, len(types.types),
            Sampling(settings.keep_negatives, settings.seed), settings.row_budget,
        )  # fmt: skip

    def teach(self, block: Block) -> None:
        """Learn a block. Each accepted action enters its user's history once, and is a loss term
        once if it is a positive."""
        state = self.state
        state.block += 1
        self._describe(block)
        state.joiner.take(block)
        accepted = self._next_items(block)
        gone = self._actions(block)
        self._forget(block, accepted, gone)
        state.counters.update(
            records=block.records,
            actions=len(block.events),
            impressions=len(block.impressions),
            duplicates=accepted.duplicates,
        )
        self.metrics.duplicates_total.inc(accepted.duplicates)

    def calibration_errors(self) -> dict[tuple[str, str], float]:
        """Expected calibration error by action type and one of `trainer.calibration.CHANCES`; only
        of what was shown and learned."""
        errors = self.state.learner.calibrator.errors()
        return {
            (name, chance): float(error)
            for chance, error_A in errors.items()
            for name, error in zip(self.types.types, error_A, strict=True)
            if not np.isnan(error)
        }

    def _describe(self, block: Block) -> None:
        """What a block says of items holds for all of its events."""
        if not block.described:
            return
        state = self.state
        changed_M = state.learner.categories.put(category_keys(block.described))
        state.items.mark(placed(changed_M, state.learner.device))
        state.counters["items"] += len(block.described)

    def _next_items(self, block: Block) -> Accepted:
        state, window = self.state, self.state.learner.network.settings.window
        events, rows_T = self._admit(block)
        user_U, number_T = _by_appearance(events.user_T)
        context = state.histories.read(user_U, window + 1)
        accepted = state.histories.append(events, block.watermark_ms)
        events, rows_T = accepted.events, rows_T[accepted.fresh_T]
        positive_T = self._positive[events.action_T] & (events.item_T != UNKNOWN_ITEM)
        state.counters["context_only"] += int((~positive_T).sum())
        self.metrics.actions_total.labels("unlearned").inc(int((~positive_T).sum()))
        positive_T &= ~self._beyond_cap(events.user_T, positive_T)
        made = batches(
            context, number_T[accepted.fresh_T], accepted, positive_T, window,
            self.settings.row_budget, self._threads, self._shorten(),
        )  # fmt: skip
        now_ms = int(events.at_ms_T.max(initial=0))
        for number, parts in enumerate(made):
            seed = (self.settings.seed, state.block, number)
            watch = self._watch(accepted, rows_T, now_ms)
            step = state.learner.learn(parts, seed, now_ms, watch)
            self._note(step, "positives", sum(len(p.truth_Q) for p in parts), parts, number)
        self._observe(rows_T[positive_T], events.at_ms_T[positive_T], now_ms)
        return accepted

    def _beyond_cap(self, user_T: Longs, positive_T: Flags) -> Flags:
        """Positives that are not to be learned because their user has too many in this block."""
        if self._cap is None:
            return np.zeros_like(positive_T)
        beyond_T = self._cap.beyond(user_T, positive_T)
        capped = int(beyond_T.sum())
        self.state.counters["capped"] += capped
        self.metrics.actions_total.labels("capped").inc(capped)
        return beyond_T

    def _shorten(self) -> StochasticLength | None:
        """How this block's long histories are shortened."""
        alpha = self.settings.stochastic_length
        if alpha is None:
            return None
        return StochasticLength(alpha, (self.settings.seed, self.state.block))

    def _admit(self, block: Block) -> tuple[Events, Longs]:
        """Rows of the block's items; an item whose key is another item's reads the unknown row."""
        events, state = block.events, self.state
        item_T, device = torch.from_numpy(events.item_T), state.learner.device
        admitted = state.items.admit(moved(item_T, device), placed(events.at_ms_T, device))
        self._let_go(admitted.evicted)
        rows_T: Longs = admitted.rows_N.cpu().numpy()
        owned = np.flatnonzero(rows_T)
        conflicts = state.ids.put(item_T[owned], [block.items[t] for t in owned]).numpy()
        if not conflicts.any():
            return events, rows_T
        named = events.item_T.copy()
        named[owned[conflicts]] = UNKNOWN_ITEM
        rows_T[owned[conflicts]] = 0
        return replace(events, item_T=named), rows_T

    def _watch(self, accepted: Accepted, rows_T: Longs, now_ms: int) -> Callable[[Scored], None]:
        def watch(scored: Scored) -> None:
            truth_Q = rows_T[scored.batch.event_Q.numpy()]
            if self.state.block % EVALUATE_EVERY == 0:
                self.evaluation.score(scored, truth_Q, now_ms)
            for observer in self.observers:
                observer(Scoring(scored, accepted, truth_Q, now_ms))

        return watch

    def _observe(self, rows_N: Longs, at_ms_N: Longs, now_ms: int) -> None:
        """Count the block's positives; what has no row has no popularity of its own."""
        rows_N, at_ms_N = rows_N[rows_N > 0], at_ms_N[rows_N > 0]
        if len(rows_N):
            self.state.learner.observe(rows_N, now_ms)
            self.evaluation.observe(rows_N, at_ms_N)

    def _actions(self, block: Block) -> Longs:
        """Impressions whose time is over teach the action heads. Returns users who are forgotten:
        what a history teaches must not depend on where the sweep is."""
        state = self.state
        settled = state.joiner.settle(block.offsets, block.watermark_ms)
        for observer in self.shown_observers:
            observer(settled.closed)
        shown = [*settled.closed, *settled.late]
        asked = np.array([entry.user for entry in shown], np.int64)
        gone = state.histories.expire_users(asked, block.watermark_ms)
        made, unusable = self._targets.batches(shown, state.histories)
        for number, batch in enumerate(made):
            self._note(
                state.learner.learn_actions(batch), "targets", len(batch.item_R), batch, number
            )
        unlearned = [entry.key for entry in unusable if not entry.late]
        state.joiner.give_up(unlearned)
        self._count_joined(settled, len(unlearned))
        return gone

    def _count_joined(self, settled: Settled, unusable: int) -> None:
        """Tell what became of impressions, and of the actions that were about one."""
        counts, told = settled.counts, self.metrics.impressions_total
        shown = {name: counts[name] for name in ("repeated", "late", "replaced")}
        shown |= {"joined": len(settled.closed) - unusable, "unusable": unusable}
        for outcome, number in shown.items():
            told.labels(outcome).inc(number)
        for outcome in ACTED:
            self.metrics.joined_actions_total.labels(outcome).inc(counts[outcome])
        of_all = {f"impressions_{name}": number for name, number in shown.items()}
        of_all |= {f"joined_{outcome}": counts[outcome] for outcome in ACTED}
        self.state.counters.update({name: number for name, number in of_all.items() if number})

    def _forget(self, block: Block, accepted: Accepted, gone: Longs) -> None:
        """Rows and users past their time-to-live leave, a bounded number per block."""
        state, budget = self.state, self.settings.sweep_rows
        self._let_go(state.items.expire(block.watermark_ms, budget))
        swept = state.histories.expire(block.watermark_ms, budget)
        forgotten = np.concatenate([accepted.evicted_M, gone, swept])
        self.segments.append(accepted.events, accepted.ordinal_T, forgotten)

    def _let_go(self, removed: Removed) -> None:
        """Forget everything that is kept beside rows which the table has freed."""
        if len(removed.rows_M):
            self.state.ids.remove(removed.keys_M)
            rows_M = removed.rows_M.cpu().numpy()
            self.state.learner.forget(rows_M)
            self.evaluation.forget(rows_M)

    def _note(
        self, step: Step, kind: str, terms: int, batch: list[Batch] | TargetBatch, number: int
    ) -> None:
        outcome = "trained" if step.trained else "skipped"
        self.state.counters[f"{kind}_{outcome}"] += terms
        if kind == "positives":
            self.metrics.actions_total.labels(outcome).inc(terms)
            self.metrics.loss.set(step.loss)
        if not step.trained:
            self.state.counters["batches_skipped"] += 1
            self.metrics.batches_skipped_total.inc()
            self.inspection.keep(batch, self.state.block, number)


def _by_appearance(user_T: Longs) -> tuple[Longs, Longs]:
    """Distinct users in order of first appearance, and each event's number among them."""
    users, first, inverse = np.unique(user_T, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return users[order], rank[inverse]
