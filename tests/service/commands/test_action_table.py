"""Reading action files: what is kept, what is counted, what is refused."""

import csv
import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from service.actions import Action
from service.commands.action_rows import Columns
from service.commands.action_table import ActionTable, read_actions
from service.errors import InputError

HEADER = "user_id,item_id,timestamp,action\n"


def actions_of(table: ActionTable) -> list[Action]:
    return [msgspec.json.decode(p, type=Action) for p in table.payloads(0, len(table))]


def read_text(tmp_path: Path, text: str, name: str = "a.csv", **columns: str) -> ActionTable:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_actions(path, Columns(**columns))


def test_rows_come_out_in_event_time_order_and_equal_times_in_file_order(tmp_path: Path) -> None:
    table = read_text(tmp_path, HEADER + "1,a,30,click\n2,b,10,click\n3,c,30,buy\n4,d,10,buy\n")
    assert [action.user for action in actions_of(table)] == [2, 4, 1, 3]
    assert table.append_ms(0, 4) == [10_000, 10_000, 30_000, 30_000]
    assert table.types == ["click", "buy"]


def test_only_canonical_integers_become_integers(tmp_path: Path) -> None:
    raw = ["7", "-7", "0", "07", "+7", "-0", "7.0", "u7", "9223372036854775807", "9" * 19, "٣"]
    table = read_text(tmp_path, HEADER + "".join(f"{user},i,1,click\n" for user in raw))
    users = [action.user for action in actions_of(table)]
    assert users == [7, -7, 0, "07", "+7", "-0", "7.0", "u7", 2**63 - 1, "9" * 19, "٣"]


def test_the_reserved_key_stays_text(tmp_path: Path) -> None:
    table = read_text(tmp_path, HEADER + f"{-(2**63)},1,1,click\n")
    assert actions_of(table)[0].user == str(-(2**63))


def test_rows_that_cannot_be_used_are_counted_by_reason_and_stop_nothing(tmp_path: Path) -> None:
    bad = [
        "1,2",  # too short
        ",2,1,click",
        f"{'u' * 300},2,1,click",
        "1,2,soon,click",
        "1,2,nan,click",
        "1,2,-5,click",
        "1,2,1e300,click",
        "1,2,1,",
        "\udcff,2,1,click",
    ]
    table = read_text(tmp_path, HEADER + "\n".join(["1,2,3,click", *bad, "4,5,6,click"]) + "\n")
    assert len(table) == 2
    assert table.rejected == {
        "row is malformed": 1,
        "user is empty": 1,
        "user is longer than 256 bytes": 1,
        "time is not a number": 1,
        "time is not a finite number": 1,
        "time is not in seconds since the epoch (0 .. 2^40)": 2,
        "action is missing": 1,
        "user holds a lone surrogate, which is no character": 1,
    }


def test_a_field_too_long_for_csv_is_one_bad_row(tmp_path: Path) -> None:
    long = "x" * (csv.field_size_limit() + 1)
    table = read_text(tmp_path, HEADER + f"1,{long},1,click\n1,2,1,click\n")
    assert len(table) == 1
    assert table.rejected == {"row is malformed": 1}


def test_without_an_action_column_every_action_is_a_click(tmp_path: Path) -> None:
    table = read_text(tmp_path, "user_id,item_id,timestamp\n1,2,3\n")
    assert actions_of(table) == [Action(user=1, item=2, action="click", at=3.0)]


def test_columns_and_unit_can_be_named(tmp_path: Path) -> None:
    text = "when,who,what,how\n1500,u,i,like\n"
    table = read_text(tmp_path, text, user="who", item="what", time="when", action="how", unit="ms")
    assert actions_of(table) == [Action(user="u", item="i", action="like", at=1.5)]


def test_json_lines_are_read_and_a_wrong_line_is_counted(tmp_path: Path) -> None:
    lines = [
        '{"user_id": "u1", "item_id": 5, "timestamp": 2.5, "action": "buy", "more": [1]}',
        '{"user_id": 1, "item_id": 5, "timestamp": 1}',
        '{"user_id": true, "item_id": 5, "timestamp": 1}',
        '{"user_id": 1.0, "item_id": 5, "timestamp": 1}',
        '{"user_id": [1], "item_id": 5, "timestamp": 1}',
        '{"user_id": null, "item_id": 5, "timestamp": 1}',
        '{"user_id": 1, "item_id": 99999999999999999999, "timestamp": 1}',
        '{"user_id": 1, "item_id": 5, "timestamp": [1]}',
        '{"user_id": 1, "timestamp": 1}',
        '{"user_id": 1, "item_id": 5, "timestamp": 1',
        "[]",
    ]
    table = read_text(tmp_path, "\n".join(lines), "a.jsonl")
    assert actions_of(table) == [
        Action(user=1, item=5, action="click", at=1.0),
        Action(user="u1", item=5, action="buy", at=2.5),
    ]
    assert table.rejected == {
        "field 'user_id' is not text or an integer": 3,
        "user is missing": 1,
        "item is outside 64 bits": 1,
        "time is not a number": 1,
        "field 'item_id' is missing": 1,
        "row is malformed": 2,
    }


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_gzip_is_read(tmp_path: Path, name: str) -> None:
    row = {"user_id": 1, "item_id": 2, "timestamp": 3, "action": "click"}
    text = json.dumps(row) + "\n" if "json" in name else HEADER + "1,2,3,click\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    table = read_actions(tmp_path / name, Columns())
    assert actions_of(table) == [Action(user=1, item=2, action="click", at=3.0)]


def test_a_damaged_gzip_is_refused_with_the_rows_that_are_whole(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i * 7919 % 1013},{i},click\n" for i in range(20_000))
    whole = gzip.compress((HEADER + rows).encode())
    path = tmp_path / "a.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"is damaged after row (\d+).*--limit \1") as refused:
        read_actions(path, Columns())
    limit = int(str(refused.value).rsplit(" ", 1)[1])
    assert len(read_actions(path, Columns(), limit=limit)) == limit > 1000


def test_parquet_is_read_with_its_timestamps_and_nulls(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    pq = pytest.importorskip("pyarrow.parquet")
    moments = [datetime(2020, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC), None]
    columns = {"user_id": [1, 2, 3], "item_id": ["a", "b", "c"], "timestamp": moments}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for unit in ("s", "ms"):
        table = read_actions(tmp_path / "a.parquet", Columns(unit=unit))
        assert [(a.user, a.item, a.at) for a in actions_of(table)] == [
            (2, "b", 1577836800.0),
            (1, "a", 1577836801.0),
        ]
        assert table.rejected == {"time is not a number": 1}


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"freshet\[parquet\]"):
        read_actions(tmp_path / "a.parquet", Columns())


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match="is not a Parquet file"):
        read_actions(tmp_path / "a.parquet", Columns())


def test_what_is_wrong_with_a_whole_file_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_actions(tmp_path / "none.csv", Columns())
    with pytest.raises(InputError, match=r"format is unknown; use \.csv"):
        read_text(tmp_path, "", "a.txt")
    with pytest.raises(InputError, match=r"no column 'user_id'.*--user-column"):
        read_text(tmp_path, "")
    with pytest.raises(InputError, match=r"no column 'kind'.*--action-column"):
        read_text(tmp_path, HEADER, action="kind")
    with pytest.raises(InputError, match="no row that can be used: it has no rows"):
        read_text(tmp_path, HEADER)
    with pytest.raises(InputError, match="2 x time is not a number"):
        read_text(tmp_path, HEADER + "1,2,,click\n1,2,,click\n")
    with pytest.raises(InputError, match="time unit 'h' is unknown"):
        read_text(tmp_path, HEADER, unit="h")
    with pytest.raises(InputError, match="more than 64 action types"):
        read_text(tmp_path, HEADER + "".join(f"1,2,3,{i}\n" for i in range(65)))


def test_progress_tells_the_share_of_the_file_and_limit_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "1,2,3,click\n" * 120_000)
    shares: list[float] = []
    assert len(read_actions(path, Columns(), limit=110_000, progress=shares.append)) == 110_000
    assert len(shares) == 2
    assert 0 < shares[0] < shares[1] <= 1


@pytest.mark.skipif(
    "FRESHET_DATA" not in os.environ, reason="FRESHET_DATA does not name the real data"
)
def test_a_real_file_is_read_whole() -> None:
    table = read_actions(Path(os.environ["FRESHET_DATA"]) / "ml-100k.csv.gz", Columns())
    assert (len(table), len(table.users), len(table.items)) == (100_000, 943, 1_682)
    assert sorted(table.types) == ["1", "2", "3", "4", "5"]
    assert not table.rejected
