"""The prequential protocol: which events are scored, against which items, how ranks are averaged.

`events` reads a file into dense columns, `active` follows the items that a truth is ranked against,
`evaluation` asks the questions and ranks the answers, `averages` turns ranks into figures.
`benchmarks.reference` says the same once more in plain Python, docs/evaluation.md in exact words.
Nothing here knows a model.
"""

from benchmarks.protocol.averages import Average, Part, averages_by_day, averages_of
from benchmarks.protocol.evaluation import Evaluation, Questions
from benchmarks.protocol.events import Events, read_events

__all__ = [
    "Average",
    "Evaluation",
    "Events",
    "Part",
    "Questions",
    "averages_by_day",
    "averages_of",
    "read_events",
]
