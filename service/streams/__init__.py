"""Streams: durable logs of records, one per topic and partition.

`protocol.py` says what every stream does, `opening.py` which one a settings file means; `local.py`
is the embedded one. The rest is its files, from the inside out: `frames.py`, `segment.py`,
`head.py`, `reader.py`, `recovery.py`, `partition.py`, `topic.py`, and its syncing thread's
`syncer.py`.
"""

from service.streams.local import LocalStream, LocalStreamSettings
from service.streams.opening import open_stream
from service.streams.protocol import Lag, Record, Stream

__all__ = ["Lag", "LocalStream", "LocalStreamSettings", "Record", "Stream", "open_stream"]
