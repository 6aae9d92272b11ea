"""What a store says it holds is what it costs: within 5 % of the growth of resident memory."""

import pytest

from tests.service.store.resident import in_a_process


@pytest.mark.parametrize(
    ("what", "count", "size"), [("table", 300_000, 64), ("histories", 200_000, 256)]
)
def test_reported_bytes_are_what_resident_memory_grew_by(what: str, count: int, size: int) -> None:
    grown, reported = in_a_process(f"load_{what}", count, size)
    assert abs(grown - reported) <= 0.05 * grown
