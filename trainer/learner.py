"""One training step: gather rows, run the model, move dense weights and rows.

Shapes: E visible events, Q query rows, S distinct items of the shared set, U distinct rows of the
step, D width, R target rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.histories.rings import Longs
from service.model.network import Network
from service.store import EmbeddingTable
from trainer.examples import Batch, TargetBatch
from trainer.negatives import NegativePool
from trainer.objective import action_loss, next_item_loss
from trainer.popularity import Popularity
from trainer.seen import seen_mask
from trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Scored:
    """What the model made of a batch before it learned from it."""

    batch: Batch
    item_E: Longs
    """Table row of each visible event's item."""
    users_QD: Tensor


@dataclass(frozen=True)
class Step:
    """The outcome of one step: its mean loss, or why it was skipped."""

    loss: float
    trained: bool


Watch = Callable[[Scored], None]


class Learner:
    """The dense weights, the item rows, and everything that a step reads and writes."""

    def __init__(self, network: Network, items: EmbeddingTable, settings: TrainerSettings) -> None:
        self.network, self.items, self.settings = network, items, settings
        self.popularity = Popularity(network.settings.priors)
        self.pool = NegativePool(settings.pool_window)
        prior = [network.prior, network.seen]
        dense = [p for name, p in network.named_parameters() if name not in ("prior", "seen")]
        self.optimizer = torch.optim.Adam(
            [
                {"params": dense, "lr": settings.learning_rate},
                {"params": prior, "lr": settings.prior_learning_rate},
            ],
            fused=True,
        )

    def learn(
        self, batch: Batch, seed: tuple[int, ...], now_ms: int, watch: Watch | None = None
    ) -> Step:
        """Train on the batch's next items. A non-finite loss or gradient changes nothing.

        `watch` is told what the model thought of the batch before anything moves.
        """
        item_E = self.items.lookup(batch.seen.item_E).numpy()
        truth_Q = self.items.lookup(batch.truth_Q).numpy()
        shared = np.concatenate([truth_Q, self.pool.draw(self.settings.pool_draws, seed)])
        rows_S, times_S = np.unique(shared, return_counts=True)
        rows_U, place = np.unique(np.concatenate([item_E, rows_S]), return_inverse=True)
        vectors_UD = self.items.gather(torch.from_numpy(rows_U)).requires_grad_()
        place_E, place_S = torch.from_numpy(place).split([len(item_E), len(rows_S)])

        encoded = self.network.encode(batch.seen.window(place_E), vectors_UD)
        users_QD = self.network.users(encoded, batch.queries)
        scored = Scored(batch, item_E, users_QD)
        logits_QS = self._logits(
            scored, np.arange(len(truth_Q)), vectors_UD.index_select(0, place_S), rows_S, now_ms
        )
        if watch:
            watch(Scored(batch, item_E, users_QD.detach()))
        corrected_QS = logits_QS - self.pool.log_expected(rows_S, len(shared))
        column_Q = torch.from_numpy(np.searchsorted(rows_S, truth_Q))
        loss = next_item_loss(corrected_QS, column_Q, torch.from_numpy(times_S).float()).mean()
        return Step(float(loss.detach()), self._descend(loss, rows_U, vectors_UD))

    @torch.no_grad()
    def scores(self, scored: Scored, asked_N: Longs, rows_S: Longs, now_ms: int) -> Tensor:
        """Next-item scores [N, S] of some of a batch's query rows for items by table row.

        rows_S ascends without repeats.
        """
        vectors_SD = self.items.gather(torch.from_numpy(rows_S))
        return self._logits(scored, asked_N, vectors_SD, rows_S, now_ms)

    def _logits(
        self, scored: Scored, asked_N: Longs, vectors_SD: Tensor, rows_S: Longs, now_ms: int
    ) -> Tensor:
        network, users_ND = self.network, scored.users_QD
        if len(asked_N) < len(users_ND):
            users_ND = users_ND[torch.from_numpy(asked_N)]
        prior_S = network.item_prior(self.popularity.counts(rows_S, now_ms))
        seen_NS = seen_mask(scored.batch, scored.item_E, rows_S, asked_N)
        return network.next_item(users_ND, vectors_SD) + prior_S + network.seen * seen_NS

    def learn_actions(self, batch: TargetBatch) -> Step:
        """Train the action heads on shown items."""
        keys = torch.cat([batch.seen.item_E, batch.item_R])
        rows_U, place = np.unique(self.items.lookup(keys).numpy(), return_inverse=True)
        vectors_UD = self.items.gather(torch.from_numpy(rows_U)).requires_grad_()
        place_E, place_R = torch.from_numpy(place).split(
            [len(batch.seen.item_E), len(batch.item_R)]
        )
        encoded = self.network.encode(batch.seen.window(place_E), vectors_UD)
        logits_RA = self.network.action_logits(encoded, place_R, vectors_UD, batch.targets)
        loss = self.settings.action_weight * action_loss(logits_RA, batch.label_RA)
        return Step(float(loss.detach()), self._descend(loss, rows_U, vectors_UD))

    def observe(self, rows_N: Longs, now_ms: int) -> None:
        """Count the block's positives: only after it was scored and learned."""
        self.popularity.add(rows_N, now_ms)
        self.pool.push(rows_N)

    def forget(self, rows_N: Longs) -> None:
        """Rows that the table freed."""
        self.popularity.reset(rows_N)
        self.pool.forget(rows_N)

    def item_prior(self, rows_N: Longs, now_ms: int) -> Tensor:
        """The prior [N] of item rows as of a time, as a snapshot carries it."""
        with torch.no_grad():
            return self.network.item_prior(self.popularity.counts(rows_N, now_ms))

    def _descend(self, loss: Tensor, rows_U: Longs, vectors_UD: Tensor) -> bool:
        """One step of every optimizer, unless anything is not finite: then nothing moves."""
        self.optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            return False
        loss.backward()
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        rows_grad = vectors_UD.grad
        assert rows_grad is not None
        norm = torch.nn.utils.get_total_norm([*grads, rows_grad])
        if not torch.isfinite(norm):
            return False
        self.optimizer.step()
        self.items.update(torch.from_numpy(rows_U), rows_grad)
        return True
