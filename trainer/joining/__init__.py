"""Impressions joined with the actions that followed them, in event time; see `docs/joiner.md`.

`joiner` decides what belongs together, by `rules`; `waiting` holds what is not over (in memory, and
on disk beyond a budget); `groups` is the log of when it was looked at, and `rereading` makes the
same state again from the streams, so that a version holds next to nothing of it.
"""

from trainer.joining.joiner import Joiner
from trainer.joining.rules import JoinRules
from trainer.joining.shown import Settled, Shown

__all__ = ["JoinRules", "Joiner", "Settled", "Shown"]
