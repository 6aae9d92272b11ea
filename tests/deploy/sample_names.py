"""The names that Freshet's processes expose, as queries see them."""

import re

from service.metrics import HistoryMetrics, ServingMetrics, TrainerMetrics


def names() -> set[str]:
    """Every sample name that some process may expose."""
    found: set[str] = set()
    for kind in (TrainerMetrics, ServingMetrics, HistoryMetrics):
        for family in kind().registry.collect():
            if family.type == "counter":
                found.add(f"{family.name}_total")
            elif family.type == "histogram":
                found |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            else:
                found.add(family.name)
    return found


def base(name: str) -> str:
    """A histogram's name without its parts; other names as they are."""
    return re.sub("_(bucket|sum|count)$", "", name)
