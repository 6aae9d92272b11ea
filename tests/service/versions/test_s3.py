"""Versions in an S3 object store, against a real server: exact commits without any rename."""

import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import fsspec
import pytest

from service.errors import SettingsError, VersionError, VersionExists
from service.versions import VersionDirectory
from service.versions.manifest import manifest_name
from service.versions.storage import Storage, open_storage
from tests.service.versions import race, test_storage
from tests.service.versions.object_store import BUCKET, ObjectStore, running
from tests.service.versions.small import commit, weights

pytest.importorskip("s3fs", reason="pip install 'freshet[s3]'")
pytest.importorskip("moto", reason="pip install 'freshet[dev]'")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store


@pytest.fixture
def url(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place of one's own; fsspec knows the store as FSSPEC_S3 would tell it."""
    monkeypatch.setitem(fsspec.config.conf, "s3", store.options)
    yield f"s3://{BUCKET}/{uuid.uuid4().hex}/versions"
    store.fault("none", 0)


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url, lambda step: None)


@pytest.fixture(params=["refused", "silent"])
def away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that refuses connections, or takes them and never answers."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if request.param == "silent":
            port.listen()
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        monkeypatch.setattr("service.versions.objects.PATIENCE_SECONDS", 0.5)
        options = {
            "endpoint_url": f"http://127.0.0.1:{port.getsockname()[1]}",
            "key": "anyone",
            "secret": "anything",
            "config_kwargs": {"retries": {"total_max_attempts": 1}, "read_timeout": 0.2},
        }
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        yield f"s3://{BUCKET}/away"


@pytest.mark.parametrize(
    "promise",
    [
        test_storage.test_what_is_written_is_listed_and_read,
        test_storage.test_only_the_first_creator_succeeds,
        test_storage.test_a_hint_is_replaced_whole,
        test_storage.test_removing_what_is_gone_is_fine,
    ],
)
def test_it_keeps_the_promises_of_a_folder(
    promise: Callable[[Storage], None], storage: Storage
) -> None:
    promise(storage)


def test_eight_processes_race_and_exactly_one_creates_each_manifest(
    store: ObjectStore, url: str, pytestconfig: pytest.Config
) -> None:
    rounds = 50
    ran = subprocess.run(
        [sys.executable, race.__file__, url, str(rounds)],
        env=store.environment | {"PYTHONPATH": str(pytestconfig.rootpath)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    winners = json.loads(ran.stdout)
    assert [len(won) for won in winners] == [1] * rounds
    storage = open_storage(url, lambda step: None)
    there = [int(storage.read(manifest_name(number + 1))) for number in range(rounds)]
    assert there == [won[0] for won in winners]
    assert len(set(there)) > 1
    assert storage.names("data") == []


def test_versions_are_committed_read_and_pruned(url: str) -> None:
    directory, other = VersionDirectory(url), VersionDirectory(url)
    for number in range(1, 5):
        commit(directory, number)
        assert other.latest() == number  # a listing is never a memory
    assert directory.prune(keep=2) == [1, 2]
    assert other.numbers() == [3, 4]
    assert [weights(other, number) for number in (3, 4)] == [[3], [4]]
    kept = {name for number in (3, 4) for name in other.manifest(number).files}
    assert set(other._storage.names("data")) == kept
    assert other._storage.read("LATEST") == b"4\n"


def test_the_slower_of_two_trainers_is_fenced_off_and_leaves_nothing(url: str) -> None:
    directory = VersionDirectory(url)
    commit(directory, 1)
    slow = directory.begin(2)
    slow.write("checkpoint/base.safetensors", {})
    commit(directory, 2)
    with pytest.raises(VersionExists), slow:
        slow.commit(directory.manifest(2))
    files = {name for number in (1, 2) for name in directory.manifest(number).files}
    assert set(directory._storage.names("data")) == files


def test_a_lost_answer_is_asked_again_and_finds_its_own_manifest(
    store: ObjectStore, url: str
) -> None:
    directory = VersionDirectory(url)
    commit(directory, 1)
    store.fault("lost")
    commit(directory, 2)
    assert (directory.latest(), weights(directory, 2)) == (2, [2])


def test_a_refusal_that_names_no_condition_is_understood(
    store: ObjectStore, storage: Storage
) -> None:
    storage.create("manifests/1", b"first", "data/x")
    store.fault("terse")
    with pytest.raises(FileExistsError):
        storage.create("manifests/1", b"second", "data/x")
    assert storage.read("manifests/1") == b"first"


def test_puts_that_crossed_are_no_commit_and_may_be_tried_again(
    store: ObjectStore, storage: Storage
) -> None:
    storage.create("manifests/1", b"first", "data/x")
    store.fault("conflict")
    with pytest.raises(OSError, match="ConditionalRequestConflict") as told:
        storage.create("manifests/2", b"second", "data/x")
    assert not isinstance(told.value, FileExistsError)
    storage.create("manifests/2", b"second", "data/x")


def test_a_store_that_ignores_the_condition_is_refused(store: ObjectStore, url: str) -> None:
    store.fault("ignores", 1_000)
    directory = VersionDirectory(url)
    with pytest.raises(OSError, match="keep them in a store with conditional writes"):
        commit(directory, 1)
    assert directory.numbers() == []


def test_a_large_file_goes_up_in_parts_and_only_once(storage: Storage) -> None:
    large = bytes(range(256)) * (101 << 12)
    storage.create("data/a/large", large, "data/x")
    with pytest.raises(FileExistsError):
        storage.create("data/a/large", large, "data/x")
    assert storage.names("data") == ["data/a/large"]
    assert storage.read("data/a/large") == large


def test_an_upload_that_died_half_way_is_not_there(url: str, storage: Storage) -> None:
    files = fsspec.filesystem("s3")
    place = {"Bucket": BUCKET, "Key": f"{url.removeprefix(f's3://{BUCKET}/')}/data/half"}
    upload = files.call_s3("create_multipart_upload", **place)
    files.call_s3(
        "upload_part", **place, UploadId=upload["UploadId"], PartNumber=1, Body=bytes(5 << 20)
    )
    assert storage.names("data") == []
    with pytest.raises(FileNotFoundError):
        storage.read("data/half")


def test_names_do_not_leak_from_a_neighbour(storage: Storage) -> None:
    storage.write("data/1", b"")
    storage.write("data2/1", b"")
    assert storage.names("data") == ["data/1"]


def test_a_missing_bucket_is_named_with_a_remedy(url: str) -> None:
    storage = open_storage("s3://no-such-bucket/versions", lambda step: None)
    for attempt in (lambda: storage.names("manifests"), lambda: storage.write("data/a", b"")):
        with pytest.raises(OSError, match=r"no-such-bucket/.*bucket does not exist; check") as told:
            attempt()
        assert not isinstance(told.value, FileNotFoundError)


def test_a_store_that_is_away_is_an_error_of_the_version(away: str) -> None:
    directory = VersionDirectory(away)
    storage = open_storage(away, lambda step: None)
    with pytest.raises(VersionError, match=r"manifests/00000001.json cannot be read from s3://"):
        directory.manifest(1)
    for attempt in (
        lambda: storage.names("manifests"),
        lambda: storage.create("manifests/1", b"", "data/x"),
        lambda: storage.remove("data/a"),
    ):
        with pytest.raises(OSError, match="check that the store is up"):
            attempt()


def test_a_process_finds_its_store_by_its_environment(
    store: ObjectStore, url: str, pytestconfig: pytest.Config
) -> None:
    commit(VersionDirectory(url), 1)
    program = "import sys; from service.versions import VersionDirectory as D; print(D(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", f"{program}.numbers())", url],
        env={
            "PATH": "", "PYTHONPATH": str(pytestconfig.rootpath),
            "FSSPEC_S3_ENDPOINT_URL": store.address,
            "AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "anything",
        },
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.stdout, ran.returncode) == ("[1]\n", 0), ran.stderr


def test_a_filesystem_that_is_not_installed_is_a_setting_to_mend() -> None:
    with pytest.raises(SettingsError, match="versions cannot be kept in nowhere://a: "):
        open_storage("nowhere://a", print)
