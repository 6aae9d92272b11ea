"""Training examples: context events without loss, new events with loss, each exactly once.

The new events of one user in a block become one example, split where the user's window moves or
the history restarts. Examples are packed into batches by a budget of model rows.

Shapes: T new events of a block, B examples, E packed history events, Q query rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.attention import Events as SeenEvents
from kernels.attention import Rows
from service.histories.local import Accepted, Histories
from service.histories.rings import Longs
from service.model.tokens import Window
from trainer.stochastic_length import StochasticLength, staying, word_of


@dataclass(frozen=True)
class Seen:
    """The visible events of B examples, as they enter the model."""

    item_E: Tensor
    """int64 keys of the items."""
    action_E: Tensor
    before_ms_E: Tensor
    events: SeenEvents

    def window(self, place_E: Tensor) -> Window:
        """The model's input once items have places among the gathered vectors."""
        return Window(self.events, place_E, self.action_E, self.before_ms_E)


@dataclass(frozen=True)
class Batch:
    """Next-item examples: what is seen, and one query row per new positive event."""

    seen: Seen
    queries: Rows
    truth_Q: Tensor
    """int64 keys of the items that followed."""
    event_Q: Tensor
    """int64: index of the event in the block that each query row predicts."""


@dataclass(frozen=True)
class _Packed:
    """All examples of a block, packed; `ends` are [B+1]."""

    event_ends: Longs
    item_E: Longs
    action_E: Longs
    at_ms_E: Longs
    before_ms_E: Longs
    query_ends: Longs
    limit_Q: Longs
    event_Q: Longs


PART_ROWS = 512
"""Model rows from which a second thread is worth waking."""


def batches(
    context: Histories, user_of_T: Longs, accepted: Accepted, positive_T: Longs, window: int,
    row_budget: int, threads: int = 1, shorten: StochasticLength | None = None,
) -> Iterator[list[Batch]]:  # fmt: skip
    """Cut the block's examples into batches of at most `row_budget` rows (one example at least),
    each in up to `threads` parts of about equal work.

    context: what each of the block's users had before the block, users numbered 0 .. U-1 in order
    of first appearance; user_of_T: that number for each accepted event; positive_T: 1 where the
    event is a next-item positive; shorten: leaves out part of long contexts, never an event of the
    block. Examples that became shorter are followed by more of them in a batch.
    """
    packed = _pack(context, user_of_T, accepted, positive_T, window, shorten)
    rows_B = np.diff(packed.event_ends) + np.diff(packed.query_ends)
    for first, last in _cuts(rows_B, row_budget):
        cuts = _shares(rows_B[first:last], threads)
        yield [_batch(packed, accepted, first + a, first + b) for a, b in pairwise(cuts)]


def _shares(rows_B: Longs, threads: int) -> list[int]:
    """Where to cut examples into at most `threads` runs of about equal rows, ends included."""
    ends_B = np.cumsum(rows_B)
    shares = int(np.clip(ends_B[-1] // PART_ROWS, 1, threads))
    inner = np.searchsorted(ends_B, ends_B[-1] * np.arange(1, shares) / shares)
    return sorted({0, *inner.tolist(), len(rows_B)})


def ends_of(counts_B: Longs) -> Longs:
    """Where packed runs of these lengths begin and end, [B+1]."""
    ends = np.zeros(len(counts_B) + 1, np.int64)
    np.cumsum(counts_B, out=ends[1:])
    return ends


def _cuts(rows_B: Longs, budget: int) -> Iterator[tuple[int, int]]:
    first, held = 0, 0
    for b, rows in enumerate(rows_B.tolist()):
        if held and held + rows > budget:
            yield first, b
            first, held = b, 0
        held += rows
    if held:
        yield first, len(rows_B)


def _batch(packed: _Packed, accepted: Accepted, first: int, last: int) -> Batch:
    event_ends, query_ends = (
        packed.event_ends[first : last + 1],
        packed.query_ends[first : last + 1],
    )
    seen, asked = slice(event_ends[0], event_ends[-1]), slice(query_ends[0], query_ends[-1])
    limit_Q, event_Q = packed.limit_Q[asked], packed.event_Q[asked]
    at_ms_Q = accepted.events.at_ms_T[event_Q]
    events = SeenEvents(tensor_of(event_ends - event_ends[0]), tensor_of(packed.at_ms_E[seen]))
    return Batch(
        seen=Seen(
            tensor_of(packed.item_E[seen]),
            tensor_of(packed.action_E[seen]),
            tensor_of(packed.before_ms_E[seen]),
            events,
        ),
        queries=asking(query_ends - query_ends[0], limit_Q, at_ms_Q),
        truth_Q=tensor_of(accepted.events.item_T[event_Q]),
        event_Q=tensor_of(event_Q),
    )


def asking(offsets: Longs, limit_R: Longs, at_ms_R: Longs) -> Rows:
    """Query or target rows: their position is their limit."""
    return Rows(tensor_of(offsets), tensor_of(limit_R), tensor_of(limit_R), tensor_of(at_ms_R))


def tensor_of(array: Longs) -> Tensor:
    """The array as a tensor, which shares its memory if it is contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array))


def _pack(
    context: Histories, user_of_T: Longs, accepted: Accepted, positive_T: Longs, window: int,
    shorten: StochasticLength | None,
) -> _Packed:  # fmt: skip
    events, order = accepted.events, np.argsort(user_of_T, kind="stable")
    most = len(context.item_T) + len(events)
    most_events = most + len(events) * window
    item, action, at_ms, before = (np.empty(most_events, np.int64) for _ in range(4))
    event_ends, query_ends = (np.zeros(len(events) + 1, np.int64) for _ in range(2))
    limit, event = (np.empty(len(events), np.int64) for _ in range(2))
    short, longest_work, word = window, np.inf, np.uint64(0)
    if shorten:
        short, longest_work = shorten.short(window), shorten.longest_work(window)
        word = shorten.word
    examples = _layout(
        context.offsets, context.item_T, context.action_T, context.at_ms_T, context.count_B,
        order, user_of_T, events.user_T, events.item_T, events.action_T, events.at_ms_T,
        accepted.ordinal_T, positive_T, window, short, longest_work, word, item,
        action, at_ms, before, event_ends, query_ends, limit, event,
    )  # fmt: skip
    event_ends, query_ends = event_ends[: examples + 1], query_ends[: examples + 1]
    return _Packed(event_ends, item, action, at_ms, before, query_ends, limit, event)


@njit(cache=True, nogil=True)
def _layout(
    ends, c_item, c_action, c_at, c_count, order, user, n_user, n_item, n_action, n_at, n_ordinal,
    positive, window, short, longest_work, word, item, action, at, before, event_ends, query_ends,
    limit, event,
):  # fmt: skip
    """Write the examples one after another; return how many there are.

    A scratch history per user = context followed by its new events; `base` is the scratch index
    of ordinal 0. A query for ordinal o sees [start(o-1), o-1]; a run of queries with the same
    start is one example, and its history rows end before its last query. What of its context does
    not stay is left out as if it had never been, but for the gap of the event after it.
    """
    quarter = window // 4
    examples = 0
    used = 0
    asked = 0
    open_base = 0
    i = 0
    scratch_item = np.empty(16, np.int64)
    scratch_action = np.empty(16, np.int64)
    scratch_at = np.empty(16, np.int64)
    while i < len(order):
        u = user[order[i]]
        j = i
        while j < len(order) and user[order[j]] == u:
            j += 1
        held = ends[u + 1] - ends[u]
        total = held + j - i
        if total > len(scratch_item):
            scratch_item = np.empty(2 * total, np.int64)
            scratch_action = np.empty(2 * total, np.int64)
            scratch_at = np.empty(2 * total, np.int64)
        for t in range(held):
            scratch_item[t] = c_item[ends[u] + t]
            scratch_action[t] = c_action[ends[u] + t]
            scratch_at[t] = c_at[ends[u] + t]
        for t in range(i, j):
            scratch_item[held + t - i] = n_item[order[t]]
            scratch_action[held + t - i] = n_action[order[t]]
            scratch_at[held + t - i] = n_at[order[t]]
        base = held - c_count[u]
        open_start = -1
        first_query = asked
        last_seen = 0
        for t in range(i, j + 1):
            start = -2
            if t < j:
                ordinal = n_ordinal[order[t]]
                here = held + t - i
                if ordinal == 0:
                    base = here
                over = ordinal - window
                start = base
                if over > 0:
                    start = base + (over + quarter - 1) // quarter * quarter
                start = max(start, 0)  # under a limit on memory less may be held than the window
            if start != open_start:
                if open_start >= 0 and asked > first_query:
                    seen = max(held - open_start, 0)
                    stays = staying(
                        scratch_at[open_start : open_start + seen], short, longest_work,
                        word_of(word, n_user[order[i]], open_start - open_base),
                    )  # fmt: skip
                    left_out = seen - np.count_nonzero(stays)
                    for q in range(first_query, asked):
                        limit[q] -= left_out
                    for s in range(open_start, last_seen):
                        if s < held and not stays[s - open_start]:
                            continue
                        item[used] = scratch_item[s]
                        action[used] = scratch_action[s]
                        at[used] = scratch_at[s]
                        before[used] = scratch_at[s - 1] if s > max(open_base, 0) else -1
                        used += 1
                    examples += 1
                    event_ends[examples] = used
                    query_ends[examples] = asked
                open_start = start
                open_base = base
                first_query = asked
            if t < j and positive[order[t]]:
                limit[asked] = here - start
                event[asked] = order[t]
                asked += 1
                last_seen = here
        i = j
    return examples
