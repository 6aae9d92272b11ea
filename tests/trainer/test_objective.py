"""Losses against naive loops."""

import math

import pytest
import torch

from trainer.objective import action_loss, next_item_loss


def naive(logits: list[float], truth: int, occurrences: list[int]) -> float:
    """Softmax over the set, item by item; the truth's other occurrences are no negatives."""
    total = math.exp(logits[truth])
    for item, logit in enumerate(logits):
        if item != truth:
            total += occurrences[item] * math.exp(logit)
    return math.log(total) - logits[truth]


@pytest.mark.parametrize(("rows", "items"), [(1, 1), (3, 2), (17, 31)])
def test_the_next_item_loss_is_a_softmax_over_the_shared_set(rows: int, items: int) -> None:
    make = torch.Generator().manual_seed(rows)
    logits_QS = torch.randn(rows, items, generator=make, dtype=torch.float64) * 5
    truth_Q = torch.randint(items, (rows,), generator=make)
    times_S = torch.randint(1, 5, (items,), generator=make)
    loss_Q = next_item_loss(logits_QS, truth_Q, times_S.double())
    expected = [
        naive(row, truth, times_S.tolist())
        for row, truth in zip(logits_QS.tolist(), truth_Q.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss_Q, torch.tensor(expected, dtype=torch.float64))


def test_other_occurrences_of_the_true_item_change_nothing() -> None:
    logits_QS = torch.tensor([[1.0, 2.0, -1.0]])
    truth_Q = torch.tensor([1])
    once = next_item_loss(logits_QS, truth_Q, torch.tensor([1.0, 1.0, 1.0]))
    often = next_item_loss(logits_QS, truth_Q, torch.tensor([1.0, 99.0, 1.0]))
    assert torch.equal(once, often)


def test_the_gradient_is_that_of_the_naive_loss() -> None:
    make = torch.Generator().manual_seed(1)
    logits_QS = torch.randn(4, 6, generator=make, dtype=torch.float64, requires_grad=True)
    truth_Q = torch.tensor([0, 5, 2, 2])
    times_S = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 4.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: next_item_loss(x, truth_Q, times_S), (logits_QS,))
    next_item_loss(logits_QS, truth_Q, times_S).sum().backward()
    weights_QS = times_S * logits_QS.detach().exp()
    for row, truth in enumerate(truth_Q.tolist()):
        weights_QS[row, truth] = logits_QS.detach()[row, truth].exp()
    expected = weights_QS / weights_QS.sum(1, keepdim=True)
    expected[torch.arange(4), truth_Q] -= 1
    torch.testing.assert_close(logits_QS.grad, expected)


def test_a_confident_right_answer_costs_nothing_and_nothing_overflows() -> None:
    logits_QS = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    loss_Q = next_item_loss(logits_QS, torch.tensor([0, 0]), torch.ones(2))
    torch.testing.assert_close(loss_Q, torch.tensor([0.0, 2e4]))


def test_the_action_loss_is_the_mean_cross_entropy() -> None:
    logits_RA = torch.tensor([[0.5, -2.0], [3.0, 0.0]], dtype=torch.float64)
    label_RA = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    terms = [
        -math.log(p if y else 1 - p)
        for x, y in zip(logits_RA.flatten().tolist(), label_RA.flatten().tolist(), strict=True)
        for p in [1 / (1 + math.exp(-x))]
    ]
    every_RA, no = torch.ones_like(label_RA), torch.tensor(False)
    assert float(action_loss(logits_RA, label_RA, every_RA, no)) == pytest.approx(sum(terms) / 4)


def test_terms_that_do_not_count_are_not_in_the_mean_and_a_correction_exchanges_the_label() -> None:
    logits_RA = torch.tensor([[0.5], [3.0], [-1.0]], dtype=torch.float64)
    label_RA = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    counted_RA = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    learned = math.log1p(math.exp(-0.5))  # a positive
    corrected = 1.0  # loss(1) - loss(0) of the third: minus its logit; the second is left out
    loss = float(action_loss(logits_RA, label_RA, counted_RA, torch.tensor(False)))
    assert loss == pytest.approx((learned + corrected) / 2)
