"""deploy/make-secrets: random secrets, once, that only those who need them can read."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.composed import ENV, ROOT

NAMES = {"redis_password", "redis_users", "grafana_password", "log_salt", "signing_key"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "make-secrets", tmp_path / "deploy")
    return tmp_path


def make(checkout: Path) -> dict[str, str]:
    subprocess.run([checkout / "deploy" / "make-secrets"], check=True, capture_output=True)
    return {path.name: path.read_text() for path in (checkout / "deploy" / "secrets").iterdir()}


def test_every_secret_is_random_and_the_folder_is_closed(checkout: Path, tmp_path: Path) -> None:
    made = make(checkout)
    assert set(made) == NAMES
    passwords = [made[name] for name in NAMES - {"redis_users"}]
    assert all(re.fullmatch("[0-9a-f]{64}", password) for password in passwords)
    assert len(set(passwords)) == 4
    folder = checkout / "deploy" / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}


def test_a_second_run_changes_nothing(checkout: Path) -> None:
    assert make(checkout) == make(checkout)


def test_redis_gets_the_hash_of_its_password_whenever_that_is_new(checkout: Path) -> None:
    before = make(checkout)
    (checkout / "deploy" / "secrets" / "redis_password").unlink()
    after = make(checkout)
    assert after["redis_password"] != before["redis_password"]
    assert after["log_salt"] == before["log_salt"]
    for made in (before, after):
        assert made["redis_password"] not in made["redis_users"]
        digest = hashlib.sha256(made["redis_password"].encode()).hexdigest()
        assert f"user freshet on #{digest} " in made["redis_users"]
        assert made["redis_users"].startswith("user default off\n")


def test_compose_is_told_where_they_are(checkout: Path) -> None:
    make(checkout)
    said = [line for line in (checkout / ".env").read_text().splitlines() if line[:1] != "#"]
    assert "\n".join(said) + "\n" == ENV
    (checkout / ".env").write_text("MINE=1\n")
    make(checkout)
    assert (checkout / ".env").read_text() == "MINE=1\n"


def test_git_does_not_see_them_and_the_image_does_not_get_them() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".env", "deploy/secrets/"} <= set(ignored)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_redis_users_may_do_what_the_page_says(checkout: Path) -> None:
    page = (ROOT / "docs" / "histories.md").read_text()
    [line] = re.findall(r"^user \w+ on >PASSWORD (.*)$", page, re.MULTILINE)
    wanted = {rule for rule in line.split() if rule.startswith("+")}
    [given] = re.findall(
        r"^user freshet on #\w+ (.*)$", make(checkout)["redis_users"], re.MULTILINE
    )
    assert wanted <= set(given.split())
    assert {"~freshet:*", "-@all"} <= set(given.split())
