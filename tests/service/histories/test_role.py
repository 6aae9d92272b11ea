"""What is wrong with the settings of the role is said before it begins."""

import signal

import pytest

from service.histories.__main__ import main


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    monkeypatch.delenv("FRESHET_REDIS_URL", raising=False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def ended(tmp_path, text, capsys, *more):
    (tmp_path / "settings.toml").write_text(text)
    given = ["--data", str(tmp_path), "--settings", str(tmp_path / "settings.toml")]
    status = main([*given, *more])
    return status, capsys.readouterr().err


def test_without_a_section_for_redis_there_is_nothing_to_write(tmp_path, capsys):
    status, said = ended(tmp_path, "[histories]\n", capsys)
    assert status == 1
    assert "no section [redis]" in said


def test_a_password_in_the_file_is_refused_and_not_shown(tmp_path, capsys):
    status, said = ended(tmp_path, '[redis]\nurl = "redis://u:hidden@host/0"\n', capsys)
    assert status == 1
    assert "FRESHET_REDIS_PASSWORD" in said
    assert "hidden" not in said


def test_a_port_that_cannot_be_used_is_named(tmp_path, capsys):
    status, said = ended(tmp_path, "[redis]\n", capsys, "--metrics-port", "70000")
    assert status == 1
    assert "70000" in said
    assert "--metrics-port" in said
