"""The prequential protocol: which events are scored, against which items, and how ranks are averaged.

`events` reads a file into dense columns, `active` follows the items that a truth is ranked against,
`evaluation` asks the questions and ranks the answers, `averages` turns ranks into figures, and
`reference` says the same protocol once more in plain Python, for the check that runs first.
docs/evaluation.md holds the exact words. Nothing here knows a model.
"""

from benchmarks.protocol.averages import Average, Part, averages_by_day, averages_of
from benchmarks.protocol.evaluation import Evaluation, Questions
from benchmarks.protocol.events import Columns, Events, read_events

__all__ = [
    "Average",
    "Columns",
    "Evaluation",
    "Events",
    "Part",
    "Questions",
    "averages_by_day",
    "averages_of",
    "read_events",
]
