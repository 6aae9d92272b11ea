"""The alert rules: complete, about metrics that exist, each with a page and a test of its own."""

import re

import pytest
import yaml

from tests.deploy.composed import ROOT
from tests.deploy.dashboards import metrics_in
from tests.deploy.sample_names import names

FOLDER = ROOT / "deploy" / "prometheus"
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
TESTS = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_how_bad_what_and_where_to_read_on(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(text.strip() for text in rule["annotations"].values())


@pytest.mark.parametrize("name", RULES)
def test_the_page_of_an_alert_is_there(name: str) -> None:
    page, _, anchor = RULES[name]["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == name.lower()
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("name", RULES)
def test_an_alert_is_about_metrics_that_exist(name: str) -> None:
    used = metrics_in(RULES[name]["expr"])
    assert used <= names()
    assert used or "up{" in RULES[name]["expr"]


def test_every_alert_is_tested_to_fire_and_to_be_quiet() -> None:
    tested: dict[str, list[bool]] = {}
    for case in TESTS:
        [expected] = case["alert_rule_test"]
        tested.setdefault(expected["alertname"], []).append(bool(expected["exp_alerts"]))
    assert tested == {name: [True, False] for name in RULES}


def test_no_page_is_of_an_alert_that_is_gone() -> None:
    pages = re.findall(r"^### (Freshet\w+)$", (ROOT / "docs" / "operating.md").read_text(), re.M)
    assert pages == list(RULES)
