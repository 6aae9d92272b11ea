"""The embedding store: what is learned about each id, without two ids ever sharing a row.

`table` (one slot's table), with `settings`, `rows` (rows by key), `admission`, `waiting` and
`counters` (which ids earn a row), `budget` and `room` (which get it), `expiry` and `eviction`
(which lose it), `clock` (event time), `changes` and `touches` (since a version), `deltas` (what a
version adds to its parent), `packing` (copies from a GPU), `ids` (original ids by key), `draws` and
`occurrences` (helpers). May import kernels and service.settings,
service.errors, service.actions; one thread owns a table at a time.
"""

from service.store.budget import Budget
from service.store.changes import Changes
from service.store.deltas import TableDelta, folded
from service.store.rows import Removed
from service.store.table import Admitted, EmbeddingTable

__all__ = [
    "Admitted",
    "Budget",
    "Changes",
    "EmbeddingTable",
    "Removed",
    "TableDelta",
    "folded",
]
