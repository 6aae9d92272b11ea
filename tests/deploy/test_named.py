"""What the operators' pages name is there: commands, services, files, metrics, settings."""

import re

import pytest
from typer.main import get_command

from service.__main__ import app
from tests.deploy.composed import ROOT, every_service
from tests.deploy.dashboards import metrics_in
from tests.deploy.sample_names import names

PAGES = ("deploying.md", "operating.md")
EACH = pytest.mark.parametrize("page", PAGES)


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


@EACH
def test_commands_exist(page: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    named = re.findall(
        r"`(?:docker compose exec [\w-]+ )?freshet ([a-z]+)((?: [a-z]+)?)", text(page)
    )
    assert named
    for first, second in named:
        assert first in commands, first
        group = getattr(commands[first], "commands", None)
        if group is not None:
            assert second.strip() in group, f"{first}{second}"


@EACH
def test_services_exist(page: str) -> None:
    known = set(every_service())
    for command in re.findall(r"docker compose ([^`\n#]*)", text(page)):
        words = command.split()
        if words[:1] in (["exec"], ["stop"], ["logs"]):
            assert words[1] in known, command
        elif words[:1] == ["run"]:
            assert next(word for word in words[1:] if not word.startswith("-")) in known
        elif words[:1] == ["up"]:
            assert {word for word in words[1:] if not word.startswith("-")} <= known, command


@EACH
def test_files_exist(page: str) -> None:
    found = re.findall(r"`((?:deploy/[\w./-]+|docker-compose\.yml))`", text(page))
    made = {"deploy/secrets", "deploy/secrets/grafana_password"}
    assert found or page == "operating.md"
    for name in set(found) - made:
        assert (ROOT / name.rstrip("/")).exists(), name


@EACH
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([\w.-]*)(#[\w-]+)?\)", text(page)):
        file, anchor = target
        other = text(file or page)
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor[1:] in slugs, f"{file}{anchor}"


@EACH
def test_metrics_exist(page: str) -> None:
    known = names() | {re.sub(r"_(bucket|sum|count)$", "", name) for name in names()}
    for name in metrics_in(text(page)):
        if not name.startswith("freshet_process"):
            assert name in known, name
