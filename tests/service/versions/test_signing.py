"""With a key, only who has it makes versions and decisions that are obeyed."""

import hashlib
import json
from pathlib import Path

import pytest

from service.errors import SettingsError, VersionError
from service.settings import Settings
from service.versions import Manifest, VersionDirectory
from service.versions.decisions import Pin
from service.versions.sealing import SIGNING_KEY
from service.versions.settings import versions_of
from serving.refusals import reason

ONE, OTHER = "1" * 32, "2" * 32


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionDirectory:
    """A directory with a signed version and a signed decision."""
    monkeypatch.setenv(SIGNING_KEY, ONE)
    made = VersionDirectory(tmp_path / "versions")
    with made.begin(1) as draft:
        draft.commit(
            Manifest(
                number=1, parent=None, created_at=0.0, watermark_ms=0, block=1, offsets={},
                topic_ids={},
            )
        )  # fmt: skip
    made.decide(Pin(1, at=0.0))
    return VersionDirectory(tmp_path / "versions")


def test_who_has_the_key_reads_what_was_signed(directory):
    assert directory.manifest(1).number == 1
    assert directory.decisions().pinned == 1


def test_without_a_key_a_signature_is_no_hindrance(directory, monkeypatch):
    monkeypatch.delenv(SIGNING_KEY)
    assert directory.manifest(1).number == 1
    assert directory.decisions().pinned == 1


@pytest.mark.parametrize("key", [OTHER, f"{OTHER} {'3' * 32}"])
def test_another_key_refuses_by_name(directory, monkeypatch, key):
    monkeypatch.setenv(SIGNING_KEY, key)
    with pytest.raises(VersionError, match=r"00000001\.json has a signature of another") as caught:
        directory.manifest(1)
    assert reason(caught.value) == "signature"
    with pytest.raises(VersionError, match=r"decisions/00000001\.json has a signature of another"):
        directory.decisions()


def test_keys_are_changed_one_after_the_other(directory, monkeypatch):
    monkeypatch.setenv(SIGNING_KEY, f"{OTHER} {ONE}")
    assert directory.manifest(1).number == 1
    assert directory.decide(Pin(None, at=1.0)) == 2  # signed with the other
    monkeypatch.setenv(SIGNING_KEY, OTHER)
    with pytest.raises(VersionError, match=r"manifests/00000001\.json has a signature of another"):
        directory.manifest(1)


def test_who_can_write_but_has_no_key_cannot_forge(directory, tmp_path):
    path = tmp_path / "versions" / "manifests" / "00000001.json"
    text = path.read_text()
    forged = text.replace('"block": 1', '"block": 7')
    body, mark, _ = forged.rpartition(',\n "sha256": "')
    sealed_anew = f'{body}{mark}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'
    path.write_text(sealed_anew)
    assert json.loads(sealed_anew)["block"] == 7
    with pytest.raises(VersionError, match="has a signature of another key"):
        directory.manifest(1)
    unsigned, _, _ = body.rpartition(',\n "hmac_sha256": "')
    path.write_text(f'{unsigned}{mark}{hashlib.sha256(unsigned.encode()).hexdigest()}"\n}}\n')
    with pytest.raises(VersionError, match="has no signature and FRESHET_SIGNING_KEY is set"):
        directory.manifest(1)


def test_a_key_that_could_be_guessed_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv(SIGNING_KEY, f"{ONE} short")
    with pytest.raises(SettingsError, match="a key of fewer than 32 characters"):
        versions_of(Settings(), tmp_path)
