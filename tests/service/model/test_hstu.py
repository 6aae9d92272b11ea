"""Rows with limits: nothing depends on batch neighbours or on later events."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kernels.attention import Events, Rows
from service.model.hstu import window_start
from service.model.network import Encoded, Network
from service.model.settings import ModelSettings
from service.model.tokens import Window

NetworkOf = Callable[..., Network]

NOW_MS = 1_732_096_800_000
DIM = 16
# Unit vectors and keys of order 1 in fp32, matrix products blocked by their number of rows.
CLOSE = {"rtol": 0.0, "atol": 1e-5}

VARIANTS: list[dict[str, Any]] = [
    {}, {"next_item_from": "history"}, {"weights": "softmax"}, {"relative_bias": False},
    {"weights": "softmax", "relative_bias": False, "next_item_from": "history"},
    {"layer": "research"}, {"layer": "research", "weights": "softmax"}, {"layer": "production"},
]  # fmt: skip
each_variant = pytest.mark.parametrize("model", VARIANTS, ids=str)


@dataclass(frozen=True)
class User:
    """One user's visible events, and rows that ask: of the next item, or about items."""

    item_T: Tensor
    action_T: Tensor
    at_ms_T: Tensor
    limit_R: Tensor
    asked_R: Tensor

    def first(self, events: int) -> "User":
        return User(
            self.item_T[:events], self.action_T[:events], self.at_ms_T[:events],
            self.limit_R.clamp(max=events), self.asked_R,
        )  # fmt: skip


def user(events: int, rows: int, seed: int) -> User:
    make = np.random.default_rng([seed, 3])
    at_ms = NOW_MS - 10**9 + np.cumsum(10 ** make.uniform(2, 7, events)).astype(np.int64)
    return User(
        torch.from_numpy(make.integers(0, 30, events)),
        torch.from_numpy(make.integers(0, 5, events)),
        torch.from_numpy(at_ms),
        torch.from_numpy(make.integers(0, events + 1, rows)),
        torch.from_numpy(make.integers(0, 30, rows)),
    )


def ends(counts: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64)


def vectors() -> Tensor:
    return torch.randn(30, DIM, generator=torch.Generator().manual_seed(5))


def encoded(network: Network, users: list[User]) -> Encoded:
    """All users' histories in one batch, as a trainer packs them."""
    before = [
        torch.cat([torch.tensor([-1]), u.at_ms_T[:-1]]) if len(u.at_ms_T) else u.at_ms_T
        for u in users
    ]
    window = Window(
        Events(ends([len(u.item_T) for u in users]), torch.cat([u.at_ms_T for u in users])),
        torch.cat([u.item_T for u in users]),
        torch.cat([u.action_T for u in users]),
        torch.cat(before),
    )
    return network.encode(window, vectors())


def answers(network: Network, users: list[User]) -> tuple[Tensor, Tensor]:
    """Next-item vectors and action logits of every row of all users."""
    limit_R = torch.cat([u.limit_R for u in users])
    rows = Rows(ends([len(u.limit_R) for u in users]), limit_R, limit_R, NOW_MS + 1000 * limit_R)
    read = encoded(network, users)
    asked_R = torch.cat([u.asked_R for u in users])
    return network.users(read, rows), network.action_logits(read, asked_R, vectors(), rows)


@each_variant
@torch.inference_mode()
def test_no_answer_depends_on_who_shares_the_batch(
    network_of: NetworkOf, model: dict[str, Any]
) -> None:
    network = network_of(**model)
    sizes = [(0, 2), (1, 1), (16, 5), (0, 0), (7, 0), (63, 63), (2, 9), (0, 3)]
    users = [user(events, rows, seed) for seed, (events, rows) in enumerate(sizes)]
    together = answers(network, users)
    alone = [answers(network, [one]) for one in users]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, **CLOSE)


@each_variant
@torch.inference_mode()
def test_no_row_depends_on_the_rows_beside_it(network_of: NetworkOf, model: dict[str, Any]) -> None:
    network = network_of(**model)
    whole = user(20, 12, 1)
    together = answers(network, [whole])
    for r in range(12):
        one = User(
            whole.item_T, whole.action_T, whole.at_ms_T, whole.limit_R[r, None],
            whole.asked_R[r, None],
        )  # fmt: skip
        for found, expected in zip(answers(network, [one]), together, strict=True):
            torch.testing.assert_close(found[0], expected[r], **CLOSE)


@each_variant
@torch.inference_mode()
def test_appended_events_leave_earlier_keys_and_values_as_they_are(
    network_of: NetworkOf, model: dict[str, Any]
) -> None:
    network, whole = network_of(**model | {"next_item_from": "history"}), user(63, 0, 2)
    full = encoded(network, [whole])
    for events in (1, 2, 15, 16, 40, 62):
        part = encoded(network, [whole.first(events)])
        for short, long in zip(part.seen, full.seen, strict=True):
            torch.testing.assert_close(short.k, long.k[:events], rtol=0, atol=2e-6)
            torch.testing.assert_close(short.v, long.v[:events], rtol=0, atol=2e-6)
        assert part.last_TD is not None
        assert full.last_TD is not None
        torch.testing.assert_close(part.last_TD, full.last_TD[:events], **CLOSE)


@each_variant
@torch.inference_mode()
def test_a_row_sees_the_events_below_its_limit_and_no_other(
    network_of: NetworkOf, model: dict[str, Any]
) -> None:
    network, whole = network_of(**model), user(12, 0, 4)
    for limit in (0, 1, 11, 12):
        asking = [limit], [3]
        long, short = (
            User(u.item_T, u.action_T, u.at_ms_T, *(torch.tensor(column) for column in asking))
            for u in (whole, whole.first(limit))
        )
        for a, b in zip(answers(network, [long]), answers(network, [short]), strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


@torch.inference_mode()
def test_next_items_from_history_are_the_last_visible_events_own_row(network_of: NetworkOf) -> None:
    network, whole = network_of(next_item_from="history"), user(9, 4, 6)
    read, (found, _) = encoded(network, [whole]), answers(network, [whole])
    assert read.last_TD is not None
    for r, limit in enumerate(whole.limit_R.tolist()):
        row = read.last_TD[limit - 1] if limit else network.tokens.start[0]
        torch.testing.assert_close(found[r], torch.nn.functional.normalize(row, dim=0), **CLOSE)


@each_variant
def test_every_weight_that_the_answers_need_has_a_finite_gradient(
    network_of: NetworkOf, model: dict[str, Any]
) -> None:
    network = network_of(**model)
    users, logits = answers(network, [user(20, 9, 1), user(0, 3, 2)])
    (users.sum() + logits.square().sum()).backward()
    unused = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    from_rows = {"tokens.ask", "tokens.ask_gap"} if "next_item_from" in model else set()
    assert unused == {"seen", "prior", "categories.weight"} | from_rows
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_the_window_starts_where_the_formula_says_and_moves_by_quarters() -> None:
    for window in (4, 8, 16, 52, 256):
        quarter, earlier = window // 4, 0
        for last in range(-1, 5 * window):
            start = window_start(last, window)
            assert start == max(0, math.ceil((last + 1 - window) / quarter) * quarter)
            assert start - earlier in (0, quarter)
            assert start % quarter == 0
            assert min(last + 1, 3 * window // 4 + 1) <= last + 1 - start <= window
            earlier = start


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 30}, {"window": 0}, {"window": 10_000}, {"dim": 2}, {"layers": 0}, {"heads": 0},
        {"qk_width": 3}, {"v_width": 1000}, {"temperature": 0}, {"temperature": float("nan")},
        {"next_item_from": "both"}, {"priors": ["soon"]}, {"width": 8}, {"layer": "public"},
        {"weights": "relu"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_no_model_can_have_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ModelSettings(**wrong)


def test_settings_survive_the_way_into_a_version_and_back() -> None:
    settings = ModelSettings(dim=48, priors=(60.0,), next_item_from="history")
    assert ModelSettings.model_validate(settings.model_dump(mode="json")) == settings
