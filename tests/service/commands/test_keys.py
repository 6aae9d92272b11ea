"""`freshet keys`: what it prints, what it writes, what it refuses."""

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.keys import parts_of, read_keys


@pytest.fixture
def keys(tmp_path):
    """Run `freshet keys ... --file FILE`."""

    def run(*arguments: str, status: int = 0):
        done = CliRunner().invoke(app, ["keys", *arguments, "--file", str(tmp_path / "keys.toml")])
        assert done.exit_code == status, done.output
        return done

    return run


def test_new_prints_the_token_alone_and_keeps_its_hash(keys, tmp_path):
    done = keys("new", "--name", "web", "--scope", "write", "--scope", "read")
    token = done.stdout.strip()
    key_id, secret = parts_of(token)
    entry = read_keys(tmp_path / "keys.toml")[key_id]
    assert entry.opens_with(secret)
    assert (entry.name, entry.scopes) == ("web", ("read", "write"))
    assert secret not in (tmp_path / "keys.toml").read_text()
    assert secret not in done.stderr
    assert key_id in done.stderr


def test_list_tells_everything_but_secrets_and_hashes(keys, tmp_path):
    token = keys(
        "new", "--name", "batch", "--scope", "write", "--expires", "90d",
        "--records-per-second", "5",
    ).stdout.strip()  # fmt: skip
    (entry,) = read_keys(tmp_path / "keys.toml").values()
    told = keys("list", "--json").stdout
    (listed,) = json.loads(told)["keys"]
    assert listed["id"] == parts_of(token)[0]
    assert (listed["records_per_second"], listed["expired"]) == (5.0, False)
    shown = keys("list").stdout
    assert "batch" in shown
    for text in (told, shown):
        assert entry.hash not in text
        assert entry.salt not in text


def test_remove_takes_one_key_by_id_or_by_a_name_that_is_unique(keys, tmp_path):
    ids = [
        parts_of(keys("new", "--name", name, "--scope", "read").stdout)[0]
        for name in ("web", "web", "ops")
    ]
    refused = keys("remove", "web", status=1)
    assert "has 2 keys 'web'; name one by its id" in refused.stderr
    assert ids[0] in refused.stderr
    keys("remove", "ops")
    keys("remove", ids[0])
    assert list(read_keys(tmp_path / "keys.toml")) == [ids[1]]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--name", "web", "--scope", "reed"], "--scope reed is none; there are read, write"),
        (["--name", "we b", "--scope", "read"], "name: String should match"),
        (["--name", "web", "--scope", "read", "--expires", "soon"], "'soon' cannot be read"),
    ],
)
def test_what_makes_no_key_is_refused_and_writes_nothing(keys, tmp_path, arguments, problem):
    assert problem in keys("new", *arguments, status=1).stderr
    assert not (tmp_path / "keys.toml").exists()


def test_keys_made_at_the_same_time_are_all_there(tmp_path):
    from service.commands import key_file
    from service.keys import new_key

    path = Path(tmp_path / "keys.toml")
    made = [new_key("web", ("read",)) for _ in range(16)]
    threads = [threading.Thread(target=key_file.add, args=(path, one)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_keys(path)) == {one.id for one in made}
