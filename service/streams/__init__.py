"""Streams: durable logs of records, one per topic and partition.

`protocol.py` says what every stream does; `local.py` is the embedded one. The rest is its files,
from the inside out: `frames.py`, `segment.py`, `head.py`, `reader.py`, `recovery.py`,
`partition.py`, `topic.py`, and `syncer.py`, its fsync thread.
"""

from service.streams.local import LocalStream, LocalStreamSettings
from service.streams.protocol import Record, Stream

__all__ = ["LocalStream", "LocalStreamSettings", "Record", "Stream"]
