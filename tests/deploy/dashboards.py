"""The dashboards of deploy/grafana, and every query in them."""

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.deploy.composed import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}


@dataclass(frozen=True)
class Query:
    """One target of one panel."""

    dashboard: str
    panel: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}: {self.expression}"

    def plain(self, rate_interval: str) -> str:
        """As Grafana would send it, all servers chosen."""
        text = self.expression.replace("$__rate_interval", rate_interval).replace("$instance", ".*")
        assert "$" not in text, f"{self}: a variable that nobody knows"
        return text


def panels(dashboard: str, rows: bool = False) -> list[dict[str, Any]]:
    """Its panels; with the rows, if asked for."""
    return [p for p in DASHBOARDS[dashboard]["panels"] if rows or p["type"] != "row"]


def queries() -> list[Query]:
    """All of them."""
    return [
        Query(name, panel["title"], target["expr"])
        for name in DASHBOARDS
        for panel in panels(name)
        for target in panel["targets"]
    ]


def metrics_in(expression: str) -> set[str]:
    """The names of Freshet's metrics in a query."""
    return set(re.findall(r"\bfreshet_\w+", expression))
