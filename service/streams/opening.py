"""Which stream a settings file means."""

from pathlib import Path

from service.settings import Settings
from service.streams.kafka.settings import kafka_settings
from service.streams.local import LocalStream, LocalStreamSettings
from service.streams.protocol import Stream

UNHURRIED_SECONDS = 0.1
"""Pace of who works in blocks anyway."""


def open_stream(settings: Settings, data: Path, unhurried: bool = False) -> Stream:
    """The stream of the Freshet in the directory `data`: Kafka where section [kafka] or the
    environment names servers, else the embedded one below `data`.

    unhurried: brokers are asked for records less often.
    """
    kafka = kafka_settings(settings)
    if kafka is not None:
        # Imported only here: who runs on the embedded log need not wait for kafka-python.
        from service.streams.kafka.stream import PACE_SECONDS, KafkaStream

        return KafkaStream(kafka, UNHURRIED_SECONDS if unhurried else PACE_SECONDS)
    return LocalStream(data / "stream", settings.section("stream", LocalStreamSettings))
