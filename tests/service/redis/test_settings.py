"""Where Redis is comes from the file, secrets from the environment alone."""

from pathlib import Path

import pytest

from service.errors import SettingsError
from service.redis.connection import connect
from service.redis.settings import PASSWORD, URL, RedisSettings, redis_of
from service.settings import Settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in (URL, PASSWORD):
        monkeypatch.delenv(name, raising=False)


def given(client):
    return client.connection_pool.connection_kwargs


def test_without_the_section_nothing_goes_to_redis():
    assert redis_of(Settings()) is None
    assert redis_of(Settings({"redis": {}})) == RedisSettings()


def test_an_address_in_the_environment_is_enough(monkeypatch):
    monkeypatch.setenv(URL, "redis://one:1/0")
    found = redis_of(Settings())
    assert found is not None
    assert found.address == "redis://one:1/0"


def test_the_environment_stands_above_the_file(monkeypatch):
    settings = RedisSettings(url="redis://one:1/0", username="u")
    with connect(settings) as client:
        assert (given(client)["host"], given(client)["username"]) == ("one", "u")
        assert "password" not in given(client)
    monkeypatch.setenv(URL, "redis://two:2/3")
    monkeypatch.setenv(PASSWORD, "secret")
    with connect(settings) as client:
        assert (given(client)["host"], given(client)["db"]) == ("two", 3)
        assert given(client)["password"] == "secret"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"url": "redis://u:secret@host:1/0"}, PASSWORD),
        ({"url": "redis://host?password=secret"}, PASSWORD),
        ({"url": "http://host"}, "redis://"),
        ({"cert_file": "a.pem"}, "cert_file and key_file"),
        ({"prefix": "with space"}, "prefix"),
        ({"wait_ms": 0}, "wait_ms"),
        ({"hots": "h"}, "unknown"),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_keeps_the_secret(section, said):
    with pytest.raises(SettingsError, match=said) as raised:
        redis_of(Settings({"redis": section}))
    assert "secret@" not in str(raised.value)
    assert "=secret" not in str(raised.value)


def test_files_for_tls_need_an_url_for_tls_and_must_be_there(tmp_path: Path):
    here = tmp_path / "ca.pem"
    with pytest.raises(SettingsError, match="rediss://"):
        connect(RedisSettings(ca_file=here))
    with pytest.raises(SettingsError, match="no such file"):
        connect(RedisSettings(url="rediss://host", ca_file=here))
    here.write_text("")
    with connect(RedisSettings(url="rediss://host", ca_file=here)) as client:
        assert given(client)["ssl_ca_certs"] == str(here)


def test_an_url_of_the_environment_that_cannot_be_used_names_its_variable(monkeypatch):
    monkeypatch.setenv(URL, "tcp://host:1")
    with pytest.raises(SettingsError, match=URL):
        connect(RedisSettings())
