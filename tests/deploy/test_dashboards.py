"""The dashboards: readable, of one kind, and about every metric there is. What they show is tested
against a running stack (tests/stack/test_observed.py)."""

from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.deploy.composed import ROOT
from tests.deploy.dashboards import DASHBOARDS, metrics_in, panels, queries
from tests.deploy.sample_names import base, names

EACH = pytest.mark.parametrize("name", DASHBOARDS)
UNITS = {
    "none", "s", "bytes", "reqps", "cps", "ops", "percentunit",
}  # fmt: skip
WIDTH = 24


def test_there_is_one_for_each_question() -> None:
    assert set(DASHBOARDS) == {"overview", "freshness", "trainer", "store", "versions", "serving"}


@EACH
def test_a_dashboard_is_known_by_its_name_and_leads_to_the_others(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"freshet-{name}"
    assert dashboard["title"] == f"Freshet: {name.capitalize()}"
    assert dashboard["description"]
    assert dashboard["tags"] == ["freshet"]
    [link] = dashboard["links"]
    assert link["tags"] == ["freshet"]
    assert not dashboard["editable"]


@EACH
def test_panels_lie_beside_each_other_and_fill_the_rows(name: str) -> None:
    places = [(p["id"], p["gridPos"]) for p in panels(name, rows=True)]
    assert len({number for number, _ in places}) == len(places)
    for _, place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= WIDTH
        assert place["h"] > 0
    for (_, a), (_, b) in combinations(places, 2):
        assert not _overlap(a, b), (a, b)
    for top in {place["y"] for _, place in places}:
        assert sum(place["w"] for _, place in places if place["y"] == top) == WIDTH


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    )


@EACH
def test_every_panel_says_what_it_shows_in_which_unit(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len(set(titles)) == len(titles)
    for panel in panels(name):
        assert panel["description"].endswith(".")
        defaults: dict[str, Any] = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS
        assert defaults["thresholds"]["steps"][0]["value"] is None
        assert all(target["legendFormat"] for target in panel["targets"])
        if any("_seconds" in t["expr"] and "cpu" not in t["expr"] for t in panel["targets"]):
            assert defaults["unit"] in ("s", "cps")


def test_all_ask_the_one_data_source_that_is_provisioned() -> None:
    file = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    [source] = yaml.safe_load(file.read_text())["datasources"]
    asked = {
        (part["datasource"]["type"], part["datasource"]["uid"])
        for name in DASHBOARDS
        for panel in panels(name)
        for part in (panel, *panel["targets"])
    }
    asked |= {
        (variable["datasource"]["type"], variable["datasource"]["uid"])
        for dashboard in DASHBOARDS.values()
        for variable in dashboard["templating"]["list"]
    }
    assert asked == {(source["type"], source["uid"])}
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_the_dashboards_are_where_grafana_looks() -> None:
    file = ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "freshet.yml"
    [provider] = yaml.safe_load(file.read_text())["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    grafana = compose["services"]["grafana"]
    path = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/overview.json"


def test_every_metric_is_shown_and_every_shown_metric_exists() -> None:
    shown = {name for query in queries() for name in metrics_in(query.expression)}
    assert shown <= names()
    own = {base(name) for name in names() if not name.startswith("freshet_process")}
    assert own - {base(name) for name in shown} == set()
