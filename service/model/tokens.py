"""What the model reads: one function per kind of row, the same for training and for serving.

A history row is item + action + the gap to the event before it + the hour of day: nothing in it
changes when later events are appended. A query row asks for the next item: the last visible
event's token, a learned ask vector, and the time of the request. A target row is a candidate item
with a learned "not yet acted" vector at the time of the impression.

Shapes: B users, T events, R asking rows, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.attention import TIME_BUCKETS, Events, Rows
from kernels.attention.buckets import time_bucket

HOUR_MS = 3_600_000
NO_GAP = TIME_BUCKETS
"""Bucket of an event with nothing before it."""
MAX_ACTIONS = 64


@dataclass(frozen=True)
class Window:
    """The visible histories of B users, packed, oldest event first."""

    events: Events
    item_T: Tensor
    """int64: index of each event's item among the vectors handed to `Tokens`."""
    action_T: Tensor
    """int64: code of the action."""
    before_ms_T: Tensor
    """int64: time of the event before each event, -1 where there is none. The first event of a
    window keeps the one that has left it."""


class Tokens(nn.Module):
    """The learned parts of the model's input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.action = _table(MAX_ACTIONS, dim)
        self.gap = _table(TIME_BUCKETS + 1, dim)
        self.hour = _table(24, dim)
        self.ask = _table(1, dim)
        self.ask_gap = _table(TIME_BUCKETS, dim)
        self.ask_hour = _table(24, dim)
        self.start = _table(1, dim)
        self.pending = _table(1, dim)

    def history(self, window: Window, items_UD: Tensor) -> Tensor:
        """Tokens [T, D] of history rows; `items_UD` are the vectors that `item_T` points into."""
        at_T = window.events.at_ms
        gap_T = time_bucket(at_T - window.before_ms_T)
        gap_T = torch.where(window.before_ms_T < 0, NO_GAP, gap_T)
        tokens_TD: Tensor = (
            items_UD.index_select(0, window.item_T) * self.scale
            + self.action.index_select(0, window.action_T)
            + self.gap.index_select(0, gap_T)
            + self.hour.index_select(0, _hour(at_T))
        )
        return tokens_TD

    def query(self, x_TD: Tensor, rows: Rows, events: Events) -> Tensor:
        """Tokens [R, D] of query rows, from the tokens of the history they see."""
        last_R = first_event(rows, events) + rows.limit - 1
        empty_R = rows.limit == 0
        last_R = last_R.masked_fill(empty_R, 0)
        if not len(x_TD):
            return self.start + self.ask_hour.index_select(0, _hour(rows.at_ms))
        gap_R = time_bucket(rows.at_ms - events.at_ms[last_R])
        after = x_TD.index_select(0, last_R) + self.ask + self.ask_gap.index_select(0, gap_R)
        hour_RD = self.ask_hour.index_select(0, _hour(rows.at_ms))
        return torch.where(empty_R[:, None], self.start, after) + hour_RD

    def target(self, item_R: Tensor, items_UD: Tensor, rows: Rows) -> Tensor:
        """Tokens [R, D] of target rows."""
        items_RD: Tensor = items_UD[item_R] * self.scale
        return items_RD + self.pending + self.ask_hour[_hour(rows.at_ms)]


def first_event(rows: Rows, events: Events) -> Tensor:
    """Index [R] of the first visible event of each row's user."""
    return torch.repeat_interleave(
        events.offsets[:-1], rows.offsets.diff(), output_size=len(rows.limit)
    )


def _hour(at_ms: Tensor) -> Tensor:
    return torch.remainder(at_ms // HOUR_MS, 24)


def _table(rows: int, dim: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, dim) * 0.02)
