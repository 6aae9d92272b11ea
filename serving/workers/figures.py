"""The metrics of several processes as those of one server.

Counters and histograms are added up, those of workers that are gone as they were last told, so that
none ever falls. Gauges are the engine's but for the few that workers have.
"""

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

Labels = tuple[tuple[str, str], ...]

ADDED = {
    "freshet_requests_in_flight", "freshet_impressions_queued", "freshet_process_open_fds",
    "freshet_process_resident_memory_bytes", "freshet_process_virtual_memory_bytes",
}  # fmt: skip
"""Gauges of which every process has its share."""
LARGEST = {"freshet_keys"}
"""Gauges that every worker has."""
CREATED = "_created"
"""How samples end that say since when another one counts."""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its samples: name, labels, value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]]

    @property
    def grows(self) -> bool:
        """Whether it counts since the start of its process."""
        return self.kind in ("counter", "histogram")


def families(registry: CollectorRegistry) -> list[Family]:
    """All metrics of a process."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [(one.name, tuple(one.labels.items()), one.value) for one in metric.samples],
        )
        for metric in registry.collect()
    ]


def of_worker(registry: CollectorRegistry) -> list[Family]:
    """Those metrics of a process that count when it is a worker."""
    return [one for one in families(registry) if one.grows or one.name in ADDED | LARGEST]


class Sum:
    """Families of several processes, name by name."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._values: dict[str, dict[tuple[str, Labels], float]] = {}

    def add(self, families: Iterable[Family]) -> None:
        """What one process says."""
        for family in families:
            self._families.setdefault(family.name, family)
            values = self._values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                before = values.get((name, labels))
                values[name, labels] = (
                    value if before is None else _both(family.name, name, before, value)
                )

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes, in format 0.0.4."""
        return generate_latest(_Collector(self.families()))

    def families(self) -> Iterator[Family]:
        """All of them together."""
        for name, family in self._families.items():
            samples = [(*key, value) for key, value in self._values[name].items()]
            yield Family(name, family.kind, family.help, samples)


class _Collector(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _both(family: str, sample: str, one: float, other: float) -> float:
    if sample.endswith(CREATED):
        return min(one, other)
    return max(one, other) if family in LARGEST else one + other
