"""One training step: gather rows, run the model, move dense weights and rows.

Everything but the draws of negatives happens on the learner's device. On a GPU the host runs ahead
of it and waits where it must know a number: before the model runs, for the table's checks of keys
and rows and for how many rows are distinct; before anything moves, for loss and norm, together.

Shapes: E visible events, Q query rows, S distinct items of the shared set, U distinct rows of the
step, D width, R target rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from service.device import CPU
from service.histories.rings import Longs
from service.model.network import Network
from service.model.watching import watching
from service.store import EmbeddingTable
from trainer.calibration import Calibrator, Heard
from trainer.categories import ItemCategories
from trainer.device import distinct, placed, sent
from trainer.examples import Batch
from trainer.information import Information
from trainer.moments import Moments, Sample
from trainer.negatives import NegativePool
from trainer.objective import action_loss, next_item_loss
from trainer.places import Places
from trainer.popularity import Popularity
from trainer.positions import PositionBias
from trainer.seen import seen_mask
from trainer.targets import TargetBatch

if TYPE_CHECKING:
    from trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Scored:
    """What the model made of a batch before it learned from it."""

    batch: Batch
    """On the CPU."""
    here: Batch
    """The same on the learner's device."""
    item_E: Tensor
    """Place of each visible event's item (`trainer.places`)."""
    users_QD: Tensor


@dataclass(frozen=True)
class _Prepared:
    """One batch, ready to be differentiated part by part."""

    given: list[Batch]
    parts: list[Batch]
    """The same on the learner's device."""
    item_E: list[Tensor]
    truth_Q: list[Tensor]
    rows_S: Tensor
    rows_U: Tensor
    """Places, as all these are."""
    now_ms: int
    vectors_UD: Tensor
    codes_UK: Tensor
    """Of the categories."""
    times_S: Tensor
    """How often each item is in the shared set."""
    log_expected_S: Tensor


@dataclass(frozen=True)
class _Result:
    """One part's share of the loss and of the gradients."""

    loss: Tensor
    scored: Scored
    rows_grad: Tensor
    grads: tuple[Tensor | None, ...]
    inputs: Sample | None
    """Of the layers' matrices, if anybody needs to know them."""


class _Served(NamedTuple):
    """Targets as a server has them before calibration."""

    rows_U: Tensor
    """Distinct rows."""
    own_UD: Tensor
    """Their vectors, to be differentiated by."""
    inputs_RD: Tensor
    """What the action heads read of each target."""
    logits_RA: Tensor
    """What they make of it."""


@dataclass(frozen=True)
class Step:
    """The outcome of one step: its mean loss, or why it was skipped."""

    loss: float
    trained: bool


Watch = Callable[[Scored], None]


class Learner:
    """The dense weights, the item rows, and everything that a step reads and writes."""

    def __init__(
        self,
        network: Network,
        items: EmbeddingTable,
        settings: TrainerSettings,
        device: torch.device = CPU,
    ) -> None:
        """`items` is a table on the device; the network is moved there."""
        self.network, self.items, self.settings = network.to(device), items, settings
        self.device = device
        self.categories = ItemCategories(network.categories)
        self.popularity = Popularity(network.settings.priors, device)
        self.pool = NegativePool(settings.pool_window, device)
        self.positions = PositionBias(network.actions.out_features, device)
        fits = settings.dense_precision == "int4"
        self.moments = Moments(self.network, device) if fits else None
        self.calibrator = Calibrator(network.actions.out_features)
        self.information: Information | None = None
        if settings.exploration:
            self.information = Information(network.actions, settings.exploration_half_life, device)
        self._dense = list(network.parameters())
        self._threads = ThreadPoolExecutor(thread_name_prefix="learner")
        prior = [network.prior, network.seen]
        named = [] if network.categories is None else [network.categories.weight]
        # What moves a whole head: a rate of one in a hundred is far from where heads begin.
        levels = [self.positions.bias_AP, network.actions.bias]
        apart = {id(p) for p in (*prior, *levels, *named)}
        dense = [p for p in network.parameters() if id(p) not in apart]
        self.optimizer = torch.optim.Adam(
            [
                {"params": dense, "lr": settings.learning_rate},
                {"params": prior, "lr": settings.prior_learning_rate},
                {"params": levels, "lr": settings.prior_learning_rate},
                # Last: the optimizer's state goes by numbers, and these came later.
                *({"params": [p], "lr": settings.learning_rate} for p in named),
            ],
            fused=True,
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The dense weights in the order in which the optimizer numbers them."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def learn(
        self, parts: list[Batch], seed: tuple[int, ...], now_ms: int, watch: Watch | None = None
    ) -> Step:
        """Train on the next items of one batch, its parts side by side on threads.

        A non-finite loss or gradient changes nothing. `watch` is told what the model thought of
        each part before anything moves.
        """
        batch = self._prepared(parts, seed, now_ms)
        results = self._side_by_side(self._differentiate, batch, range(len(parts)))
        if watch:
            for result in results:
                watch(result.scored)
        losses = [result.loss for result in results]
        grads = [_sum([result.grads[i] for result in results]) for i in range(len(self._dense))]
        rows_grad = _sum([result.rows_grad for result in results])
        assert rows_grad is not None
        step = self._descend(losses, grads, batch.rows_U, rows_grad)
        self._remember(step, [result.inputs for result in results])
        return step

    def _prepared(self, parts: list[Batch], seed: tuple[int, ...], now_ms: int) -> _Prepared:
        """What all parts share: the set of positives and negatives, and the rows of the step."""
        here = sent(parts, self.device)
        keys = [part.seen.item_E for part in here] + [part.truth_Q for part in here]
        places = Places.of(torch.cat(keys), self.items, self.categories)
        found = places.place_N.split([len(part) for part in keys])
        item_E, truth_Q = list(found[: len(here)]), list(found[len(here) :])
        shared = torch.cat([*truth_Q, self.pool.draw(self.settings.pool_draws, seed)])
        rows_S, times_S = distinct(shared)
        rows_U, _ = distinct(torch.cat([*item_E, rows_S]))
        return _Prepared(
            parts, here, item_E, truth_Q, rows_S, rows_U, now_ms,
            vectors_UD=self.items.gather(rows_U.clamp(min=0)),
            codes_UK=places.codes(rows_U, self.items, self.categories),
            times_S=times_S.float(),
            log_expected_S=self._log_expected(rows_S, len(shared)),
        )  # fmt: skip

    def _log_expected(self, rows_S: Tensor, set_size: int) -> Tensor:
        """What is taken from the logits of the shared set."""
        if self.settings.log_q:
            return self.pool.log_expected(rows_S.clamp(min=0), set_size)
        return torch.zeros(len(rows_S), device=self.device)

    def _differentiate(self, batch: _Prepared, number: int) -> _Result:
        """Loss and gradients of one part; the loss is its share of the batch's mean."""
        part, item_E, truth_Q = batch.parts[number], batch.item_E[number], batch.truth_Q[number]
        own_UD = batch.vectors_UD.detach().requires_grad_()
        vectors_UD = self.network.items(own_UD, batch.codes_UK)
        place_E = torch.searchsorted(batch.rows_U, item_E)
        place_S = torch.searchsorted(batch.rows_U, batch.rows_S)
        inputs = self._sample()
        with watching(inputs):
            encoded = self.network.encode(part.seen.window(place_E), vectors_UD)
            users_QD = self.network.users(encoded, part.queries)
        scored = Scored(batch.given[number], part, item_E, users_QD)
        vectors_SD = vectors_UD.index_select(0, place_S)
        asked_Q = torch.arange(len(truth_Q), device=self.device)
        logits_QS = self._logits(scored, asked_Q, vectors_SD, batch.rows_S, batch.now_ms)
        column_Q = torch.searchsorted(batch.rows_S, truth_Q)
        loss_Q = next_item_loss(logits_QS - batch.log_expected_S, column_Q, batch.times_S)
        loss = loss_Q.sum() / sum(map(len, batch.truth_Q))
        grads = torch.autograd.grad(loss, [own_UD, *self._dense], allow_unused=True)
        scored = replace(scored, users_QD=scored.users_QD.detach())
        return _Result(loss.detach(), scored, grads[0], grads[1:], inputs)

    def _sample(self) -> Sample | None:
        return None if self.moments is None else self.moments.sample()

    def _remember(self, step: Step, samples: list[Sample | None]) -> None:
        """Of a step that was skipped nothing stays."""
        if self.moments is not None and step.trained:
            self.moments.add([sample for sample in samples if sample is not None])

    def _side_by_side(
        self, work: Callable[[_Prepared, int], _Result], batch: _Prepared, numbers: range
    ) -> list[_Result]:
        """The work on every part, the first on this thread. torch lets go of the GIL."""
        others = [self._threads.submit(work, batch, number) for number in numbers[1:]]
        return [work(batch, numbers[0]), *(other.result() for other in others)]

    @torch.no_grad()
    def scores(self, scored: Scored, asked_N: Longs, rows_S: Longs, now_ms: int) -> Tensor:
        """Next-item scores [N, S] of some of a batch's query rows for items by table row.

        rows_S ascends without repeats.
        """
        here_S, here_N = placed(rows_S, self.device), placed(asked_N, self.device)
        codes_SK = Places(here_S, here_S[:0]).codes(here_S, self.items, self.categories)
        vectors_SD = self.network.items(self.items.gather(here_S), codes_SK)
        return self._logits(scored, here_N, vectors_SD, here_S, now_ms)

    def _logits(
        self, scored: Scored, asked_N: Tensor, vectors_SD: Tensor, rows_S: Tensor, now_ms: int
    ) -> Tensor:
        network, users_ND = self.network, scored.users_QD
        if len(asked_N) < len(users_ND):
            users_ND = users_ND[asked_N]
        prior_S = network.item_prior(self.popularity.counts(rows_S.clamp(min=0), now_ms))
        seen_NS = seen_mask(scored.here, scored.item_E, rows_S, asked_N)
        return network.next_item(users_ND, vectors_SD) + prior_S + network.seen * seen_NS

    def learn_actions(self, batch: TargetBatch) -> Step:
        """Train the action heads on shown items; the logits that are served lack what is added
        here for the position and for negatives that were left out. The calibrator hears what they
        were before anything moved."""
        given, batch = batch, sent(batch, self.device)
        begins = not self.network.actions.bias.any()
        if begins:
            self._begin_at(batch)
        inputs = self._sample()
        with watching(inputs):
            rows_U, own_UD, inputs_RD, logits_RA = self._served(batch)
        logits_RA = logits_RA - math.log(self.settings.keep_negatives)
        shown_P = self.positions.with_shown(batch.shown_P)
        if self.settings.position_bias:
            logits_RA = logits_RA + self.positions.logits(batch.position_R, shown_P)
        alone = batch.shown_P.sum() == 0
        loss = action_loss(logits_RA, batch.label_RA, batch.counted_RA, alone)
        loss = self.settings.action_weight * (loss + self.positions.penalty())
        weights = [own_UD, *self._dense, self.positions.bias_AP]
        rows_grad, *grads = torch.autograd.grad(loss, weights, allow_unused=True)
        step = self._descend([loss.detach()], grads, rows_U, rows_grad)
        self._remember(step, [inputs])
        if step.trained:
            if self.information is not None:
                self.information.add(inputs_RD.detach(), logits_RA.detach(), batch.counted_RA)
            self.positions.shown_P = shown_P
            if not begins:  # where the heads begin, they know the rates of this very batch
                self._tell(given, logits_RA.detach())
        elif begins:
            self.network.actions.bias.data.zero_()
        return step

    def _tell(self, batch: TargetBatch, learned_RA: Tensor) -> None:
        """Tell the calibrator of targets and the logits that the step was made of."""
        logits_RA = (learned_RA + math.log(self.settings.keep_negatives)).cpu()
        self.calibrator.hear(Heard(logits_RA, batch.label_RA, batch.weight_RA))

    @torch.no_grad()
    def _begin_at(self, batch: TargetBatch) -> None:
        """Heads that have learned nothing begin at the rates of their first targets."""
        followed_A = batch.label_RA.sum(0) + 0.5
        stayed_A = (batch.counted_RA * (1 - batch.label_RA)).sum(0) + 0.5
        log_odds_A = (followed_A / stayed_A).log() + math.log(self.settings.keep_negatives)
        self.network.actions.bias.copy_(log_odds_A)

    @torch.no_grad()
    def logits(self, batch: TargetBatch) -> Tensor:
        """Log odds of every action on every target, as a server has them before calibration,
        [R, A]."""
        return self._served(sent(batch, self.device)).logits_RA

    def chances(self, batch: TargetBatch) -> Tensor:
        """The same as chances."""
        return torch.sigmoid(self.logits(batch))

    def _served(self, batch: TargetBatch) -> _Served:
        keys = torch.cat([batch.seen.item_E, batch.item_R])
        places = Places.of(keys, self.items, self.categories)
        rows_U, _ = distinct(places.place_N)
        own_UD = self.items.gather(rows_U.clamp(min=0)).requires_grad_()
        codes_UK = places.codes(rows_U, self.items, self.categories)
        vectors_UD = self.network.items(own_UD, codes_UK)
        place_E, place_R = torch.searchsorted(rows_U, places.place_N).split(
            [len(batch.seen.item_E), len(batch.item_R)]
        )
        encoded = self.network.encode(batch.seen.window(place_E), vectors_UD)
        inputs_RD = self.network.action_inputs(encoded, place_R, vectors_UD, batch.targets)
        return _Served(rows_U, own_UD, inputs_RD, self.network.actions(inputs_RD))

    def observe(self, rows_N: Longs, now_ms: int) -> None:
        """Count the block's positives: only after it was scored and learned."""
        self.popularity.add(rows_N, now_ms)
        self.pool.push(rows_N)

    def forget(self, rows_N: Longs) -> None:
        """Rows that the table freed."""
        self.popularity.reset(rows_N)
        self.pool.forget(rows_N)

    def _descend(
        self,
        losses: list[Tensor],
        grads: Sequence[Tensor | None],
        rows_U: Tensor,
        rows_grad: Tensor,
    ) -> Step:
        """One step of every optimizer, unless anything is not finite: then nothing moves.

        grads: of the dense weights in the order of `_dense`, and of the positions' biases, if they
        are part of the step.
        """
        norm = torch.nn.utils.get_total_norm([rows_grad, *(g for g in grads if g is not None)])
        # The one time in a step that the host waits for all of it.
        *parts, total = torch.stack([*losses, norm]).tolist()
        loss = math.fsum(parts)
        if not math.isfinite(loss) or not math.isfinite(total):
            return Step(loss, trained=False)
        moved = [*self._dense, self.positions.bias_AP]
        for parameter, grad in zip_longest(moved, grads):
            parameter.grad = grad
        self.optimizer.step()
        self.items.update(rows_U.clamp(min=0), rows_grad)
        return Step(loss, trained=True)


def _sum(grads: Sequence[Tensor | None]) -> Tensor | None:
    """Their sum in order; None where no part has a gradient."""
    present = [grad for grad in grads if grad is not None]
    return sum(present[1:], present[0]) if present else None
