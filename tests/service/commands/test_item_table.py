"""Reading item files: what is kept, what is counted, what is refused."""

import gzip
import json
from pathlib import Path

import pytest

from service.commands.item_table import ItemColumns, read_items
from service.errors import InputError
from service.items import Item

AT = 1000.0


def read(path: Path, categories: str = "categories") -> list[Item]:
    return read_items(path, ItemColumns(categories=categories), AT).items


def test_a_csv_file_has_categories_with_bars_between(tmp_path: Path) -> None:
    file = tmp_path / "items.csv.gz"
    text = "item_id,title,genres,hidden,expires_at\n1,A,Film|News|Film,,\ni9,B,,yes,1500\n"
    file.write_bytes(gzip.compress(text.encode()))
    assert read(file, "genres") == [
        Item(item=1, at=AT, categories=["Film", "News"]),
        Item(item="i9", at=AT, hidden=True, expires_at=1500.0),
    ]


def test_json_lines_may_have_lists(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    rows = [{"item_id": 7, "categories": ["a"]}, {"item_id": "7", "categories": "a|b"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert read(file) == [
        Item(item=7, at=AT, categories=["a"]),
        Item(item=7, at=AT, categories=["a", "b"]),
    ]


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    rows = [
        b'{"item_id": 1}', b"no json", b'{"item_id": ""}', b'{"item_id": 2, "categories": [1]}',
        b'{"item_id": 3, "expires_at": "soon"}', b'{"item_id": 4, "expires_at": -1}',
    ]  # fmt: skip
    file.write_bytes(b"\n".join(rows))
    table = read_items(file, ItemColumns(), AT)
    assert [one.item for one in table.items] == [1]
    assert sum(table.rejected.values()) == 5
    assert table.rejected["item is empty"] == 1
    assert table.rejected["expires_at is no number"] == 1


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.csv")
    (tmp_path / "items.xls").write_text("x")
    with pytest.raises(InputError, match="format is unknown"):
        read(tmp_path / "items.xls")
    (tmp_path / "items.csv").write_text("id,name\n1,a\n")
    with pytest.raises(InputError, match="column 'item_id' is missing"):
        read(tmp_path / "items.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"item_id\n1\n" * 999)[:-20])
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "cut.csv.gz")
