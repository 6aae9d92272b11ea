"""Section [kafka]: which brokers, how topics are made, how appends and reads behave."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from service.errors import SettingsError
from service.settings import Section, Settings

SERVERS_VARIABLE = "FRESHET_KAFKA_SERVERS"
USER_VARIABLE = "FRESHET_KAFKA_USER"
PASSWORD_VARIABLE = "FRESHET_KAFKA_PASSWORD"
KEY_PASSWORD_VARIABLE = "FRESHET_KAFKA_KEY_PASSWORD"

UNLIMITED = -1


class KafkaSettings(Section):
    """Section [kafka]. What concerns topics holds for those that Freshet makes itself."""

    servers: str = Field("", description="host:port of some brokers, comma-separated")
    prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="of topic names")
    group: str = Field("freshet-trainer", min_length=1, description="whose offsets show progress")

    partitions: int = Field(4, ge=1, le=4096)
    replication_factor: int | None = Field(None, ge=1, description="None: the brokers' default")
    min_insync_replicas: int | None = Field(None, ge=1, description="None: the brokers' default")
    retention_hours: float = Field(168, gt=0)
    timestamps: Literal["broker", "producer"] = "broker"

    append_timeout_seconds: float = Field(10, ge=1, le=300)
    compression: Literal["none", "gzip", "lz4", "zstd"] = "lz4"
    buffer_bytes: int = Field(64 * 2**20, ge=2**20, description="read ahead, all partitions")

    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    check_hostname: bool = True
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        files = (self.ca_file, self.certificate_file, self.key_file)
        if not self.tls and any(file is not None for file in files):
            raise ValueError("certificate files are used with tls = true only")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together")
        return self

    @property
    def retention_ms(self) -> int:
        """How long a record stays; times of producers say nothing of its age, so then for ever."""
        return UNLIMITED if self.timestamps == "producer" else round(self.retention_hours * 3.6e6)


def kafka_settings(settings: Settings) -> KafkaSettings | None:
    """The section with the address from the environment, if there is one; None where neither
    section nor variable is there. Raises SettingsError for a section without servers."""
    servers = os.environ.get(SERVERS_VARIABLE, "")
    if not servers and "kafka" not in settings.to_dict():
        return None
    section = settings.section("kafka", KafkaSettings)
    if servers:
        section = section.model_copy(update={"servers": servers})
    if not section.servers:
        raise SettingsError(
            f"section [kafka] names no servers: set servers, or {SERVERS_VARIABLE} in the "
            "environment, or leave the section out for the embedded log"
        )
    return section
