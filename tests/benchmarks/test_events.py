"""Reading actions: global order, dense numbers, and what is refused."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.protocol import Events, read_events
from service.commands.action_rows import Columns
from service.errors import InputError

ROWS = [("ann", 7, 3.0), ("bob", 7, 1.0), ("ann", 5, 1.0), ("ann", 7, 2.5)]


def write_csv(path: Path, header: str = "user_id,item_id,timestamp") -> Path:
    text = "\n".join([header, *(",".join(map(str, row)) for row in ROWS)]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_events_are_ordered_by_time_and_equal_times_keep_the_order_of_the_file(tmp_path):
    events = read_events(write_csv(tmp_path / "a.csv"), Columns())
    assert events.at_ms_T.tolist() == [1000, 1000, 2500, 3000]
    assert events.user_T.tolist() == [0, 1, 1, 1], "bob came first, then ann"
    assert events.item_T.tolist() == [0, 1, 0, 0]
    assert events.previous_T.tolist() == [-1, -1, 1, 2]
    assert (events.users, events.items, len(events)) == (2, 2, 4)


def test_gzip_parquet_and_other_column_names_read_the_same(tmp_path):
    plain = read_events(write_csv(tmp_path / "a.csv"), Columns())
    users, items, times = zip(*ROWS, strict=True)
    table = pa.table({"who": users, "what": items, "when": times, "other": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    names = Columns("who", "what", "when")
    for other in (
        read_events(write_csv(tmp_path / "a.csv.gz"), Columns()),
        read_events(write_csv(tmp_path / "b.csv", "who,what,when"), names),
        read_events(tmp_path / "a.parquet", names),
    ):
        for column in ("user_T", "item_T", "at_ms_T", "previous_T"):
            assert np.array_equal(getattr(other, column), getattr(plain, column))


def test_rows_that_cannot_be_used_are_refused_with_their_number_not_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,timestamp\n1,2,3\n4,,6\n")
    with pytest.raises(InputError, match="cannot be used: 1 x "):
        read_events(path, Columns())


def test_no_event_and_columns_of_unequal_length_are_refused():
    none_T, one_T = np.zeros(0, np.int64), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="0, 0 and 0"):
        Events.of(none_T, none_T, none_T)
    with pytest.raises(ValueError, match="1, 1 and 0"):
        Events.of(one_T, one_T, none_T)


def test_the_first_events_keep_their_numbers():
    random = np.random.default_rng(1)
    events = Events.of(*(random.integers(0, 9, 50) for _ in range(3)))
    first = events.first(20)
    assert len(first) == 20
    assert np.array_equal(first.item_T, events.item_T[:20])
    assert first.items == first.item_T.max() + 1
    assert first.previous_T.max() < 20


@pytest.mark.skipif(
    "FRESHET_DATA" not in os.environ, reason="FRESHET_DATA does not name the real data"
)
def test_a_real_file_has_its_published_counts_in_time_order():
    events = read_events(Path(os.environ["FRESHET_DATA"]) / "ml-100k.csv.gz", Columns())
    assert (len(events), events.users, events.items) == (100_000, 943, 1_682)
    assert (np.diff(events.at_ms_T) >= 0).all()
