"""Appends: an idempotent producer that waits until all replicas in sync have what was sent."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.producer.future import FutureRecordMetadata

from service.errors import StreamError
from service.streams.kafka.connecting import Connection, explained
from service.streams.kafka.settings import KafkaSettings
from service.streams.kafka.topics import Topic

_log = logging.getLogger(__name__)

BATCH_BYTES = 128 * 1024
LINGER_MS = 2
"""What one append sends, to all its partitions, travels in one request; without any wait its first
record would go alone, and requests cost more than records."""
MAX_RECORD_BYTES = 1_000_000
"""Brokers take batches of 1 MiB unless they are told otherwise (`message.max.bytes`)."""
RECORD_OVERHEAD_BYTES = 100
UNACKNOWLEDGED_BYTES = 32 * 2**20
"""What all appends together may have under way; others wait."""


class Part(NamedTuple):
    """What goes into one partition; times and keys are as many as payloads."""

    partition: int
    payloads: Sequence[bytes]
    times: Sequence[int | None]
    keys: Sequence[bytes | None]

    def columns(self) -> Iterator[tuple[bytes, int | None, bytes | None]]:
        """(payload, time, key) of every record."""
        return zip(self.payloads, self.times, self.keys, strict=True)


class Producer:
    """Appends from any number of threads share one connection and its batches."""

    def __init__(self, settings: KafkaSettings, options: dict[str, Any]) -> None:
        self._timeout_seconds = settings.append_timeout_seconds
        self._under_way = 0
        self._room = threading.Condition()
        compression = None if settings.compression == "none" else settings.compression
        timeout_ms = round(self._timeout_seconds * 1000)
        self._connection: Connection[KafkaProducer] = Connection(
            KafkaProducer,
            {
                **options,
                "enable_idempotence": True,
                "acks": "all",
                "compression_type": compression,
                "batch_size": BATCH_BYTES,
                "linger_ms": LINGER_MS,
                "delivery_timeout_ms": timeout_ms,
                "request_timeout_ms": min(options["request_timeout_ms"], timeout_ms // 2),
                "max_block_ms": timeout_ms,
                "allow_auto_create_topics": False,
                "metrics_enabled": False,
            },
        )

    def append(self, topic: Topic, parts: Sequence[Part]) -> int:
        """Append all parts side by side and wait; the offset of the first record. Raises
        StreamError when not all of it was acknowledged in time: then some records may be in the
        log, and others not."""
        sizes = [len(payload) for part in parts for payload in part.payloads]
        most = MAX_RECORD_BYTES - RECORD_OVERHEAD_BYTES
        if max(sizes) > most:
            raise StreamError(
                f"payload of {max(sizes)} bytes exceeds {most}; "
                "store it elsewhere and append a reference to it"
            )
        deadline = time.monotonic() + self._timeout_seconds
        places = f"{topic.name}/{', '.join(str(part.partition) for part in parts)}"
        with self._admitted(sum(sizes), deadline):
            producer = self._connection.get()
            try:
                with explained(f"appending to {places}", self._connection.servers):
                    sent = [
                        producer.send(topic.name, payload or None, key, None, part.partition, at_ms)
                        for part in parts
                        for payload, at_ms, key in part.columns()
                    ]
                    return _acknowledged(sent, deadline)
            except StreamError:
                # After a failure an idempotent producer may have a gap in its numbers that no
                # broker takes, and never recover: the next append gets a new one.
                self._retire(self._connection.drop(producer))
                raise

    def close(self) -> None:
        """Let go of the connection; no append is under way."""
        producer = self._connection.drop()
        if producer is not None:
            _close(producer, 0.0)

    @contextmanager
    def _admitted(self, size: int, deadline: float) -> Iterator[None]:
        """Wait until there is room for this append among those under way."""
        with self._room:
            while self._under_way and self._under_way + size > UNACKNOWLEDGED_BYTES:
                if not self._room.wait(deadline - time.monotonic()):
                    raise StreamError(
                        f"Kafka at {self._connection.servers} takes less than is appended: "
                        f"{self._under_way} bytes wait for their acknowledgement"
                    )
            self._under_way += size
        try:
            yield
        finally:
            with self._room:
                self._under_way -= size
                self._room.notify_all()

    def _retire(self, producer: KafkaProducer | None) -> None:
        """Close a producer aside, once what others have sent through it is decided."""
        if producer is not None:
            threading.Thread(
                target=_close, args=(producer, self._timeout_seconds), daemon=True
            ).start()


def _acknowledged(sent: list[FutureRecordMetadata], deadline: float) -> int:
    for one in sent:
        one.get(max(0.0, deadline - time.monotonic()) + 1.0)  # its own deadline comes first
    return int(sent[0].value.offset)


def _close(producer: KafkaProducer, timeout_seconds: float) -> None:
    try:
        producer.close(timeout_seconds)
    except KafkaError as error:
        _log.info("a producer was closed with records that nobody acknowledged: %s", error)
        producer._sender.force_close()
