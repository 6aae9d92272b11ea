"""`freshet versions` and `freshet rollback`: what they say, decide and refuse."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

from service.__main__ import app
from service.actions import RESERVED_KEY
from service.commands.version_list import rough
from service.store import EmbeddingTable
from service.store.settings import SlotSettings
from service.versions import Checkpoint, Manifest, SlotRows, Snapshot, VersionDirectory
from service.versions.decisions import Branch, Pin, Release

ROOT = Path(__file__).parents[3]
HELD = "the crowd measure rose by 0.8 [nats]"


class Folder:
    """A data folder with versions of a tiny snapshot and checkpoint, chained as trainers do."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.directory = VersionDirectory(data / "versions")
        self.table = EmbeddingTable(SlotSettings(dim=4), seed=0)

    def commit(self, number: int, parent: int | None = None, **changes: Any) -> Manifest:
        """Commit a base, or what follows `parent`."""
        before = None if parent is None else self.directory.manifest(parent)
        make = torch.Generator().manual_seed(number)
        keys = torch.tensor([RESERVED_KEY, 7, 8, 9] if before is None else [RESERVED_KEY, number])
        vectors = torch.randn(len(keys), 4, generator=make)
        removed = {} if before is None else {"item": torch.tensor([8])}
        snapshot = Snapshot(
            number, {"dim": 4}, {"head.weight": torch.ones(2, 4)},
            {"item": SlotRows(keys, vectors)}, parent, removed,
        )  # fmt: skip
        known = changes.get("decisions", 0)
        with self.directory.begin(number, known) as draft:
            for name in (*before.checkpoint, *before.snapshot) if before else ():
                draft.share(name, before.files[name])
            Checkpoint(self._items(number, parent), {}, number, parent).write(draft)
            snapshot.write(draft)
            return draft.commit(
                Manifest(
                    number=number, parent=parent, created_at=time.time() - 90,
                    watermark_ms=1_732_096_800_000, block=10 * number, blocks=[512, 30],
                    offsets={"actions": {"0": 1000 * number}}, topic_ids={"actions": "t"},
                    counters={"positives_trained": 1234567}, settings={"model": {"dim": 4}},
                    snapshot_parent=parent, **changes,
                )
            )  # fmt: skip

    def _items(self, number: int, parent: int | None) -> dict[str, torch.Tensor]:
        """What a real table has gained since the version before."""
        keys = torch.tensor([7, 8, 9, 100 + number])
        self.table.admit(keys, torch.full((4,), 1000 * number))
        cut = self.table.cut(whole=parent is None)
        return {f"items/{name}": tensor for name, tensor in cut.tensors.items()}

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--data", str(self.data)])

    def json(self, *arguments: str) -> dict[str, Any]:
        """What a command that must succeed prints with --json."""
        ended = self.run(*arguments, "--json")
        assert ended.exit_code == 0, ended.output
        printed: dict[str, Any] = json.loads(ended.stdout)
        return printed

    def refusal(self, *arguments: str) -> str:
        """The one line of a command that must fail, having decided nothing."""
        before = self.directory.decisions().generation
        ended = self.run(*arguments)
        assert ended.exit_code == 1
        assert ended.stdout == ""
        assert self.directory.decisions().generation == before
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    def states(self) -> dict[int, list[str]]:
        return {one["number"]: one["state"] for one in self.json("versions", "ls")["versions"]}

    def damage(self, number: int, part: str) -> str:
        """Flip a bit of the newest file of a part; its name."""
        name: str = self.directory.manifest(number).part(part)[-1]
        path = self.data / "versions" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return name


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A base, a delta, one that is held, and one that follows the last published."""
    folder = Folder(tmp_path)
    folder.commit(1)
    folder.commit(2, parent=1, precision={"layers.0.weight": "fp16", "slots/item": "int8"})
    folder.commit(3, parent=2, held=HELD)
    return folder


def test_ls_tells_what_every_version_is(folder: Folder) -> None:
    listing = folder.json("versions", "ls")
    assert (listing["served"], listing["pinned"], listing["generation"]) == (2, None, 0)
    newest, second, first = listing["versions"]
    assert [newest["number"], second["number"], first["number"]] == [3, 2, 1]
    assert (newest["state"], second["state"], first["state"]) == ([f"held: {HELD}"], ["served"], [])
    assert (first["parent"], second["parent"]) == (None, 1)
    assert 90 <= second["age_seconds"] < 150
    assert (second["block"], second["watermark"]) == (20, 1_732_096_800.0)
    for half in ("checkpoint", "snapshot"):
        base, delta = first[half], second[half]
        assert (base["kind"], delta["kind"]) == ("base", "delta")
        assert base["own_bytes"] == base["chain_bytes"] > 0
        assert delta["chain_bytes"] == delta["own_bytes"] + base["chain_bytes"]
        assert (base["files"], delta["files"]) == (1, 2)


def test_ls_draws_a_table(folder: Folder) -> None:
    drawn = folder.run("versions", "ls")
    assert drawn.exit_code == 0
    text = " ".join(drawn.stdout.split())
    assert "1.5 min" in text
    assert "2024-11-20 10:00:00" in text
    assert "layers.0.weight fp16" in text
    assert "slots/item" not in text  # int8 is what is wanted, not a fallback
    assert "the crowd measure" in text


def test_a_manifest_that_cannot_be_read_is_listed_with_its_reason(folder: Folder) -> None:
    path = folder.data / "versions" / "manifests" / "00000002.json"
    path.write_text(path.read_text().replace('"block": 20', '"block": 21'))
    (damaged,) = (v for v in folder.json("versions", "ls")["versions"] if v["number"] == 2)
    assert damaged["state"] == ["damaged"]
    assert "SHA-256" in damaged["problem"]
    assert "00000002.json" in folder.run("versions", "ls").stdout


def test_show_tells_what_a_manifest_holds(folder: Folder) -> None:
    page = folder.json("versions", "show", "2")
    assert page["state"] == ["served"]
    assert page["manifest"]["offsets"] == {"actions": {"0": 2000}}
    drawn = " ".join(folder.run("versions", "show", "2").stdout.split())
    for shown in ("542 records in 2 blocks", "0: 2,000", "1,234,567", "version 1", '{"dim": 4}'):
        assert shown in drawn


def test_rollback_pins_and_unpin_follows_again(folder: Folder) -> None:
    chosen = folder.json("rollback", "1")
    assert (chosen["version"], chosen["generation"], chosen["served"]) == (1, 1, 1)
    assert folder.directory.target() == 1
    folder.commit(4, parent=2)
    assert folder.states() == {4: [], 3: [f"held: {HELD}"], 2: [], 1: ["served", "pinned"]}
    assert "is not pinned any more" in folder.run("versions", "unpin").stdout
    assert folder.directory.target() == 4
    assert "no version" in folder.refusal("versions", "unpin")


def test_rollback_with_the_trainer_abandons_what_came_after(folder: Folder) -> None:
    chosen = folder.json("versions", "rollback", "1", "--trainer")
    assert chosen["branched"]
    assert folder.directory.live() == [1]
    decisions = folder.directory.decisions()
    assert (decisions.pinned, [version for _, version in decisions.branches]) == (1, [1])
    assert folder.states()[2] == ["abandoned"]
    assert "abandoned" in folder.refusal("rollback", "2")
    folder.commit(4, parent=1, decisions=decisions.generation)
    folder.run("versions", "unpin")
    assert folder.states()[4] == ["served"]


def test_a_held_version_is_served_once_it_is_released(folder: Folder) -> None:
    refusal = folder.refusal("rollback", "3")
    assert HELD in refusal
    assert "freshet versions release 3" in refusal
    assert folder.json("versions", "release", "3")["served"] == 3
    assert folder.states()[3] == ["served", "released"]
    assert folder.json("rollback", "3")["served"] == 3
    assert "released before" in folder.refusal("versions", "release", "3")
    assert "is not held" in folder.refusal("versions", "release", "2")


@pytest.mark.parametrize("command", [["rollback"], ["versions", "show"], ["versions", "verify"]])
def test_an_unknown_version_is_refused_with_those_there_are(
    folder: Folder, command: list[str]
) -> None:
    assert "1 to 3" in folder.refusal(*command, "9")


def test_what_is_damaged_is_neither_sound_nor_gone_back_to(folder: Folder) -> None:
    assert folder.json("versions", "verify")["sound"]
    name = folder.damage(2, "snapshot")
    assert name in folder.refusal("rollback", "2")
    ended = folder.run("versions", "verify", "--json")
    assert ended.exit_code == 1
    found = {one["number"]: one["problems"] for one in json.loads(ended.stdout)["versions"]}
    assert not found[1]
    assert len(found[2]) == len(found[3]) == 1  # version 3's chain has the same file
    assert name in found[2][0]
    drawn = folder.run("versions", "verify", "2")
    assert drawn.exit_code == 1
    assert "was altered" in drawn.stdout


def test_training_cannot_go_back_to_a_damaged_checkpoint(folder: Folder) -> None:
    name = folder.damage(2, "checkpoint")
    assert folder.json("rollback", "2")["served"] == 2  # servers do not need it
    assert name in folder.refusal("rollback", "2", "--trainer")


def test_a_chain_with_a_link_missing_does_not_fold(folder: Folder) -> None:
    whole = folder.directory.manifest(2)
    rows = SlotRows(torch.tensor([RESERVED_KEY]), torch.zeros(1, 4))
    orphan = Snapshot(4, {"dim": 4}, {}, {"item": rows}, 3, {"item": torch.tensor([7])})
    with folder.directory.begin(4, 0) as draft:
        for name in whole.snapshot:
            draft.share(name, whole.files[name])
        orphan.write(draft)
        draft.commit(
            Manifest(
                number=4, parent=3, created_at=0.0, watermark_ms=0, block=1, offsets={},
                topic_ids={},
            )
        )  # fmt: skip
    ended = folder.run("versions", "verify", "4", "--json")
    assert ended.exit_code == 1
    ((problem,),) = (one["problems"] for one in json.loads(ended.stdout)["versions"])
    assert "4" in problem
    assert problem in folder.refusal("rollback", "4") or "cannot be used" in folder.refusal(
        "rollback", "4"
    )


def test_rows_that_do_not_fold_are_found(folder: Folder) -> None:
    """A delta without its parent's rows; every file is what its manifest says."""
    whole, items = folder.directory.manifest(1), folder._items(4, parent=1)
    del items["items/free.tail"]
    with folder.directory.begin(4, 0) as draft:
        for name in (*whole.checkpoint, *whole.snapshot):
            draft.share(name, whole.files[name])
        Checkpoint(items, {}, 4, 1).write(draft)
        draft.commit(
            Manifest(
                number=4, parent=1, created_at=0.0, watermark_ms=0, block=1, offsets={},
                topic_ids={},
            )
        )  # fmt: skip
    ended = folder.run("versions", "verify", "4")
    assert ended.exit_code == 1
    assert "the checkpoint of version 4 does not fold: KeyError" in " ".join(ended.stdout.split())


def test_a_directory_is_named_by_url(folder: Folder) -> None:
    url = folder.directory.url
    ended = CliRunner().invoke(app, ["rollback", "1", "--url", url])
    assert ended.exit_code == 0
    assert folder.directory.target() == 1


def test_without_versions_it_says_what_to_do(tmp_path: Path) -> None:
    assert "holds no version" in Folder(tmp_path).run("versions", "ls").stderr


def test_decisions_are_the_directorys(folder: Folder) -> None:
    for decide in (Pin(2, at=1.0), Release(3, at=2.0), Pin(None, at=3.0), Branch(2, at=4.0)):
        folder.directory.decide(decide)
    listing = folder.json("versions", "ls")
    assert (listing["generation"], listing["pinned"], listing["served"]) == (4, None, 2)
    assert folder.states()[3] == ["abandoned", "released"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (59, "59.0 s"), (5400, "1.5 h"), (172_800, "2.0 d")]
)
def test_ages_are_rough(seconds: float, words: str) -> None:
    assert rough(seconds) == words


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name, command in _leaves():
        assert f"`freshet versions {name}" in text, name
        for parameter in command.params:
            for option in parameter.opts:
                assert not re.match("--", option) or f"`{option}" in text, f"{name} {option}"


def _leaves() -> Iterator[tuple[str, Any]]:
    group: Any = get_command(app)
    versions: Callable[..., Any] = group.commands["versions"]
    yield from versions.commands.items()  # type: ignore[attr-defined]
