"""Keys: tokens that are shown once, entries that give nothing away, files that are checked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.commands import key_file
from service.errors import SettingsError
from service.keys import NewKey, new_key, parts_of, read_keys


@pytest.fixture
def made() -> NewKey:
    return new_key("web", ("write", "read"))


def test_a_key_opens_with_its_own_secret_only(made):
    key_id, secret = parts_of(made.token)
    assert key_id == made.id
    assert made.entry.opens_with(secret)
    assert not made.entry.opens_with(secret[:-1])
    assert not made.entry.opens_with("")
    assert not new_key("web", ("read",)).entry.opens_with(secret)


def test_an_entry_holds_neither_the_secret_nor_an_unsalted_hash(made):
    _, secret = parts_of(made.token)
    assert len(secret) == 64
    assert secret not in repr(made.entry)
    other = made.entry.model_copy(update={"salt": "0" * 32})
    assert not other.opens_with(secret)


@pytest.mark.parametrize("token", ["", "fk", "fk_", "fk__", "fk_aaaaaaaa", "x_y_z", "é" * 300])
def test_what_is_no_token_has_parts_that_open_nothing(made, token):
    key_id, secret = parts_of(token)
    assert not made.entry.opens_with(secret)
    assert key_id != made.id


def test_a_key_expires(made):
    now = datetime.now(UTC)
    assert not made.entry.expired(now + timedelta(days=36_500))
    short = new_key("web", ("read",), expires=now)
    assert short.entry.expired(now)
    assert not short.entry.expired(now - timedelta(seconds=1))


def test_a_file_gives_back_what_was_written(tmp_path, made):
    path = tmp_path / "keys.toml"
    limited = new_key("batch", ("write",), datetime(2030, 1, 1, tzinfo=UTC), 5.0, 0.5)
    for one in (made, limited):
        key_file.add(path, one)
    assert read_keys(path) == {made.id: made.entry, limited.id: limited.entry}


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(tmp_path, made):
    path = tmp_path / "deep" / "keys.toml"
    key_file.add(path, made)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    key_file.add(path, new_key("web", ("read",)))
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[keys", "is not TOML"),
        ("[keys.zz]\nname = 'a'", r"keys\.zz\.\[key\]: String should match pattern"),
        ("[key.aabbccdd]\n", "key: Extra inputs"),
        ("[keys.aabbccdd]\nname = 'web'\n", r"keys\.aabbccdd\.scopes: Field required"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_that_names_the_place(tmp_path, text, problem):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=problem):
        read_keys(path)


def test_an_error_never_repeats_what_was_pasted_in(tmp_path, made):
    path = tmp_path / "keys.toml"
    key_file.add(path, made)
    path.write_text(path.read_text().replace(made.entry.hash, made.token))
    with pytest.raises(SettingsError, match="hash: String should match") as caught:
        read_keys(path)
    assert parts_of(made.token)[1] not in str(caught.value)


def test_a_file_that_is_not_there_names_the_command(tmp_path):
    with pytest.raises(SettingsError, match="freshet keys new --file"):
        read_keys(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_keys(Path(tmp_path))
