"""The static tables: what is trained on, how it is ranked, what the losses are."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from benchmarks.softmax import MASKED, TEMPERATURE, gathered_loss, shared_loss
from benchmarks.static import __main__ as command
from benchmarks.static.encoders import built
from benchmarks.static.ranking import quality
from benchmarks.static.sequences import Sequences, batches, located, read_sequences
from benchmarks.static.training import Learner, falling
from service.errors import InputError


def sequences_of(*users: list[int]) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    return Sequences(np.concatenate([np.array(user) for user in users]), offsets, 12)


@pytest.fixture
def vectors():
    random = torch.Generator().manual_seed(0)
    users_TD, vectors_ID = (normalize(torch.randn(n, 6, generator=random)) for n in (7, 13))
    return users_TD.requires_grad_(), vectors_ID.requires_grad_()


ITEM_T = torch.tensor([1, 5, 5, 12, 3, 2, 9])


def gradients(loss, leaves):
    return torch.autograd.grad(loss, leaves)


def test_the_shared_loss_over_all_items_is_the_softmax(vectors):
    users_TD, vectors_ID = vectors
    logits_TI = users_TD @ vectors_ID[1:].T / TEMPERATURE
    wanted = cross_entropy(logits_TI, ITEM_T - 1)
    found = shared_loss(users_TD, ITEM_T, vectors_ID, torch.randperm(12) + 1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients(found, vectors), gradients(wanted, vectors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_shared_loss_estimates_the_softmax_without_bias(vectors):
    users_TD, vectors_ID = (tensor.detach() * 0.2 for tensor in vectors)  # small logits
    whole = cross_entropy(users_TD @ vectors_ID[1:].T / TEMPERATURE, ITEM_T - 1)
    random = np.random.default_rng(0)
    draws = [torch.from_numpy(random.permutation(12)[:8] + 1) for _ in range(400)]
    losses = [float(shared_loss(users_TD, ITEM_T, vectors_ID, draw)) for draw in draws]
    assert np.mean(losses) == pytest.approx(float(whole), abs=0.01)


def test_gathered_negatives_that_hit_the_item_do_not_count(vectors):
    users_TD, vectors_ID = vectors
    negative_TM = torch.randint(1, 13, (7, 4), generator=torch.Generator().manual_seed(1))
    negative_TM[2, 1] = 5
    terms = []
    for t in range(7):
        logits = [users_TD[t] @ vectors_ID[ITEM_T[t]] / TEMPERATURE]
        for item in negative_TM[t]:
            hit = item == ITEM_T[t]
            logits.append(
                torch.tensor(MASKED) if hit else users_TD[t] @ vectors_ID[item] / TEMPERATURE
            )
        terms.append(torch.stack(logits).logsumexp(0) - logits[0])
    found = gathered_loss(users_TD, ITEM_T, vectors_ID, negative_TM)
    torch.testing.assert_close(found, torch.stack(terms).mean())


@pytest.mark.parametrize("vector", [float("nan"), 1.0])
def test_a_model_that_came_apart_hits_nothing(vector):
    model = Known()
    model.item_vectors = lambda: torch.full((40, 2), vector)
    found = quality(model, sequences_of([1, 2, 3], [2, 1, 2]), held_out=1, length=5)
    assert (found.hr_at_10, found.ndcg_at_10) == (0, 0)


def test_who_has_no_more_than_is_held_out_teaches_nothing():
    assert len(sequences_of([1], [2, 3, 4]).of(0, held_out=2)) == 0


def test_an_epoch_has_every_user_once_and_nothing_held_out():
    users = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 1], [2, 3]]
    windows = set()
    for epoch in range(20):
        seen = {}
        for batch in batches(sequences_of(*users), held_out=1, length=3, users=2, seed=(0, epoch)):
            for a, b in pairwise(batch.offsets.tolist()):
                first = int(batch.item_T[a])
                seen[first] = (batch.item_T[a:b].tolist(), batch.next_T[a:b].tolist())
        assert seen.pop(7) == ([7], [8])
        assert seen.pop(10) == ([10, 11], [11, 12])
        [(first, (items, following))] = seen.items()
        assert items + following[-1:] == list(range(first, first + 4))
        windows.add(first)
    assert windows == {1, 2}


def test_dealt_parts_hold_all_users():
    made = next(iter(batches(sequences_of([1, 2, 3], [4, 5], [6, 7, 8]), 0, 9, 3, (0,))))
    parts = made.dealt(2)
    assert sorted(np.concatenate([part.item_T for part in parts])) == sorted(made.item_T)
    assert sorted(len(part.offsets) - 1 for part in parts) == [1, 2]


class Known:
    """A user is at (1, 0); items lie on the circle, the first nearest."""

    def train(self, mode=True): ...
    def eval(self): ...
    def __call__(self, item_T, offsets):
        return torch.tensor([1.0, 0.0]).expand(len(item_T), 2)

    def item_vectors(self):
        angle = torch.arange(40) / 40
        return torch.stack([angle.cos(), angle.sin()], 1)


def test_ranks_leave_out_what_was_seen_and_padding():
    wanted = {(1, 2, 9, 3): 1, (5, 9, 13): 11, (20, 11): 11, (1, 2, 3, 14): 11, (1, 12): 11}
    for user, rank in wanted.items():
        found = quality(Known(), sequences_of(list(user)), held_out=1, length=5)
        hit = rank <= 10
        assert (found.hr_at_10, found.ndcg_at_10) == (hit, pytest.approx(hit / np.log2(rank + 1)))
    again = quality(Known(), sequences_of([3, 7, 3]), held_out=1, length=5)  # seen, and asked for
    assert again.ndcg_at_10 == pytest.approx(1 / 2)
    tenth = quality(Known(), sequences_of([30, 10]), held_out=1, length=5)
    assert tenth.ndcg_at_10 == pytest.approx(1 / np.log2(11))


@pytest.mark.parametrize("name", ["hstu", "sasrec"])
def test_threads_give_the_gradients_of_one(name):
    users = [list(np.random.default_rng(n).integers(1, 13, 5 + n)) for n in range(6)]
    made = next(iter(batches(sequences_of(*users), 0, 50, 6, (0,))))
    weights = []
    for threads in (1, 2):
        torch.manual_seed(0)
        model = built(name, 12)
        model.dropout = 0.0
        for module in model.modules():
            module.dropout = 0.0
        Learner(model, 12, "shared", 6, seed=0, threads=threads).learn(made, 1e-3)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    # AdamW divides by the gradient's size, so entries whose gradient is noise may differ.
    assert ((weights[0] - weights[1]).abs() > 1e-5).float().mean() < 0.01


def test_the_learning_rate_falls_to_zero():
    assert [falling(0), falling(1)] == pytest.approx([1, 0])


def test_an_unknown_file_is_named_with_the_remedy(monkeypatch):
    monkeypatch.delenv("FRESHET_DATA", raising=False)
    with pytest.raises(InputError, match=r"nothing-here .* FRESHET_DATA"):
        located("nothing-here")


def test_sequences_follow_their_column_and_not_the_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,seq_pos\nu,b,1\nv,c,0\nu,a,0\nv,b,1\n")
    found = read_sequences(path, "seq_pos")
    names = {tuple(found.of(u).tolist()) for u in range(2)}
    assert len(found) == 2
    assert len({n[0] for n in names}) == 2
    assert found.items == 3


def test_the_command_learns_what_is_there_to_learn(tmp_path, monkeypatch, capsys):
    """Users walk through ten items in a circle: the next is certain."""
    path = tmp_path / "walk.csv"
    rows = [f"{user},{(user + n) % 30},{n}" for user in range(60) for n in range(12)]
    path.write_text("user_id,item_id,seq_pos\n" + "\n".join(rows) + "\n")
    arguments = [
        "--data", str(path), "--models", "hstu", "--protocols", "clean", "--seeds", "2",
        "--epochs", "25", "--every", "25", "--count", "20", "--jobs", "1", "--json",
        "--out", str(tmp_path / "kept.jsonl"),
    ]  # fmt: skip
    for _ in range(2):  # the second time nothing is trained
        assert command.main(arguments) == 0
        figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        hr, ndcg, step = figures
        assert hr["figure"] == "static.walk.hr_at_10"
        assert hr["value"] > 0.9
        assert hr["runs"] == 2
        assert ndcg["value"] > 0.6
        assert step["unit"] == "ms"
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2
