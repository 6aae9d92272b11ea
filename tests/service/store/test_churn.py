"""Ids come and go, twenty times what is alive at once: resident memory reaches a plateau."""

import pytest

from tests.service.store.resident import in_a_process

TIMES = 20
KINDS = ["table", "full_table", "histories"]


def expect_plateau(kind: str, capacity: int) -> None:
    """Beyond the first half, neither resident memory nor what is reported of it grows by 2 %.

    Measured against what the store itself takes, not against the whole process.
    """
    sizes = in_a_process(f"churn_{kind}", capacity, TIMES)
    own = sizes[-1][1]
    for measured in zip(*sizes, strict=True):
        half = len(measured) // 2
        assert max(measured[half:]) - max(measured[:half]) < 0.02 * own
        assert measured[-1] - measured[half] < 0.02 * own


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_reused_for_the_ids_that_come(kind: str) -> None:
    expect_plateau(kind, 10_000)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_reused_for_millions_of_ids(kind: str) -> None:
    expect_plateau(kind, 500_000)
