"""The embedding store: what is learned about each id, without two ids ever sharing a row.

`table` (one slot's table), with `rows` (what it keeps by row), `admission` (which ids earn a row),
`expiry` (which lose it) and `ids` (original ids by key). May import kernels and service.settings,
service.errors, service.actions; one thread owns a table at a time.
"""

from service.store.ids import OriginalIds
from service.store.table import Admitted, EmbeddingTable, Expired, SlotSettings

__all__ = ["Admitted", "EmbeddingTable", "Expired", "OriginalIds", "SlotSettings"]
