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


class Share(NamedTuple):
    """What goes to one partition; times and keys may be None."""

    partition: int
    payloads: Sequence[bytes]
    times: Sequence[int | None]
    keys: Sequence[bytes | None]


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
                "bootstrap_timeout_ms": min(options["bootstrap_timeout_ms"], timeout_ms),
                "delivery_timeout_ms": timeout_ms,
                "request_timeout_ms": min(options["request_timeout_ms"], timeout_ms // 2),
                "max_block_ms": timeout_ms,
                "allow_auto_create_topics": False,
                "metrics_enabled": False,
            },
        )

    def append(self, topic: Topic, shares: Sequence[Share]) -> list[int]:
        """Append and wait; the offset of the first record of each share. Raises StreamError when
        not all of it was acknowledged in time: then some records may be in the log, others not."""
        largest = max(len(payload) for share in shares for payload in share.payloads)
        if largest + RECORD_OVERHEAD_BYTES > MAX_RECORD_BYTES:
            raise StreamError(
                f"payload of {largest} bytes exceeds {MAX_RECORD_BYTES - RECORD_OVERHEAD_BYTES}; "
                "store it elsewhere and append a reference to it"
            )
        deadline = time.monotonic() + self._timeout_seconds
        size = sum(len(payload) for share in shares for payload in share.payloads)
        with self._admitted(size, deadline):
            producer = self._connection.get()
            try:
                with explained(f"appending to {topic.name}", self._connection.servers):
                    sent = [_sent(producer, topic.name, share) for share in shares]
                    return [_acknowledged(of_share, deadline) for of_share in sent]
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


def _sent(producer: KafkaProducer, topic: str, share: Share) -> list[FutureRecordMetadata]:
    records = zip(share.payloads, share.times, share.keys, strict=True)
    return [
        producer.send(
            topic, None if key and not payload else payload, key, None, share.partition, at
        )
        for payload, at, key in records
    ]


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
