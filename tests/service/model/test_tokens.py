"""What goes into the model: gaps, hours, and users without any history."""

import torch
from torch import Tensor

from kernels.attention import Events, Rows
from service.model.tokens import HOUR_MS, NO_GAP, Tokens, Window

DIM = 8
DAY_MS = 24 * HOUR_MS
NIGHT_MS = 20_000 * DAY_MS


def tokens() -> Tokens:
    torch.manual_seed(1)
    return Tokens(DIM)


def history(at_ms: list[int], before_ms: list[int]) -> tuple[Tokens, Tensor]:
    made = tokens()
    count = len(at_ms)
    window = Window(
        Events(torch.tensor([0, count]), torch.tensor(at_ms)), torch.arange(count),
        torch.full((count,), 2), torch.tensor(before_ms),
    )  # fmt: skip
    return made, made.history(window, torch.zeros(count, DIM)) - made.action[2]


def asking(limits: list[int], offsets: list[int], at_ms: int) -> Rows:
    limit = torch.tensor(limits, dtype=torch.int64)
    return Rows(torch.tensor(offsets), limit, limit, torch.full_like(limit, at_ms))


def test_the_first_event_ever_has_no_gap_and_a_windows_first_event_keeps_its_own() -> None:
    made, first = history([NIGHT_MS + 3000], [-1])
    torch.testing.assert_close(first[0], made.gap[NO_GAP] + made.hour[0])
    made, moved = history([NIGHT_MS + 3000], [NIGHT_MS])
    torch.testing.assert_close(moved[0], made.gap[4] + made.hour[0])


def test_an_event_before_the_one_in_front_of_it_has_a_gap_of_nothing() -> None:
    made, late = history([NIGHT_MS], [NIGHT_MS + DAY_MS])
    torch.testing.assert_close(late[0], made.gap[0] + made.hour[0])


def test_the_hour_of_day_turns_at_its_last_millisecond() -> None:
    at_ms = [NIGHT_MS - 1, NIGHT_MS, NIGHT_MS + HOUR_MS - 1, NIGHT_MS + HOUR_MS]
    made, found = history(at_ms, at_ms)
    torch.testing.assert_close(found - made.gap[0], made.hour[[23, 0, 0, 1]])


def test_a_users_token_differs_by_item_and_by_action() -> None:
    made = tokens()
    window = Window(
        Events(torch.tensor([0, 3]), torch.full((3,), NIGHT_MS)), torch.tensor([1, 0, 0]),
        torch.tensor([4, 4, 63]), torch.full((3,), -1),
    )  # fmt: skip
    items = torch.eye(2, DIM)
    found = made.history(window, items)
    torch.testing.assert_close(found[0] - found[1], (items[1] - items[0]) * DIM**0.5)
    torch.testing.assert_close(found[2] - found[1], made.action[63] - made.action[4])


def test_a_query_carries_its_last_visible_event_and_the_time_since() -> None:
    made, x_TD = tokens(), torch.randn(5, DIM)
    events = Events(torch.tensor([0, 2, 5]), NIGHT_MS + 1000 * torch.arange(5))
    found = made.query(x_TD, asking([1, 3, 2], [0, 1, 3], NIGHT_MS + 7000), events)
    for row, last in enumerate([0, 4, 3]):
        seconds = 7 - last  # buckets of 7, 3 and 4 seconds
        bucket = {7: 6, 3: 4, 4: 4}[seconds]
        torch.testing.assert_close(
            found[row], x_TD[last] + made.ask[0] + made.ask_gap[bucket] + made.ask_hour[0]
        )


def test_users_without_history_start_alike_beside_others_and_alone() -> None:
    made, expected = tokens(), tokens().start[0] + tokens().ask_hour[3]
    at_ms = NIGHT_MS + 3 * HOUR_MS
    nobody = Events(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int64))
    alone = made.query(torch.zeros(0, DIM), asking([0], [0, 1], at_ms), nobody)
    torch.testing.assert_close(alone[0], expected)
    events = Events(torch.tensor([0, 0, 2, 2]), torch.tensor([NIGHT_MS, NIGHT_MS]))
    beside = made.query(torch.ones(2, DIM), asking([0, 0, 1, 0], [0, 1, 3, 4], at_ms), events)
    for row in (0, 1, 3):
        torch.testing.assert_close(beside[row], expected)


def test_a_target_is_its_item_not_yet_acted_on_at_the_time_of_the_list() -> None:
    made, items = tokens(), torch.randn(3, DIM)
    rows = asking([0, 0], [0, 2], NIGHT_MS + HOUR_MS)
    found = made.target(torch.tensor([2, 2]), items, rows)
    expected = items[2] * DIM**0.5 + made.pending[0] + made.ask_hour[1]
    torch.testing.assert_close(found, expected.expand(2, DIM))
