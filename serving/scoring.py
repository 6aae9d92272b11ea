"""What the engine does about a question: one ranking, all of it by one version.

Shapes: C candidates (K where they were found), N returned items, M draws, D width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.actions import Id
from service.model.ranker import Request, Scores
from serving import questions
from serving.catalogue import Catalogue
from serving.diversity import diverse
from serving.engine import Served, Tables, Together
from serving.explaining import Basis
from serving.exploration import Floats, best, marked, propensities
from serving.questions import Question, Ranking
from serving.retrieval import Search

RERANKED = 256
"""Items that retrieval hands to the ranking at least: action heads may change their order."""
MAX_SKIPPED = 10_000
"""And at most, where pages that are not remembered are gone through."""


class Rank(questions.Rank, Together):
    """Job: answers its question."""

    @property
    def rows(self) -> int:
        """Candidates."""
        return len(self.items)

    def __call__(self, tables: Tables) -> Ranking:
        """Score every candidate and return the best n of those that may be shown."""
        return self.together([self], tables)[0]

    @staticmethod
    def together(jobs: Sequence["Rank"], tables: Tables) -> list[Ranking]:
        """The rankings of several requests, by one version."""
        served, catalogue = tables.require_served(), tables.catalogue
        histories = tables.read([job.user_key for job in jobs])
        requests = [
            Request(history, job.key_C, job.at_ms, job.user_key, job.draw)
            for job, history in zip(jobs, histories, strict=True)
        ]
        ranker, codes_of = served.ranker, catalogue.codes_of(served.ranker)
        outcomes: list[str] = []
        every = ranker.rank_all(requests, codes_of, outcomes.append)
        for outcome in outcomes:
            tables.readings.count(outcome)
        bases = [
            Basis(tables, request, outcome) if job.explain else None
            for job, request, outcome in zip(jobs, requests, outcomes, strict=True)
        ]
        return [
            _shown(served, int(history.count_B[0]), job, scores, catalogue, why)
            for job, history, scores, why in zip(jobs, histories, every, bases, strict=True)
        ]


def _shown(
    served: Served, history: int, job: Rank, scores: Scores, catalogue: Catalogue,
    basis: Basis | None,
) -> Ranking:  # fmt: skip
    """The best candidates of those that may be shown."""
    may_C, order_C = catalogue.shown(job.key_C, job.at_ms), _order(scores)
    shown = order_C[torch.from_numpy(may_C)[order_C]]
    left_out = len(order_C) - len(shown)
    order_N, chances_C = shown[: job.n], None
    if scores.explored is not None:
        chances_C = np.zeros(len(may_C))
        listed = best(scores.explored.score_MC.numpy()[:, may_C], len(order_N))
        chances_C[may_C] = propensities(listed)
    return _ranking(served, history, job.items, scores, order_N, left_out, basis, chances_C)


class Recommend(questions.Recommend):
    """Job: answers its question."""

    def __call__(self, tables: Tables) -> Ranking:
        """Retrieve by exact search, then rank what was found.

        What other pages of the request were given is left out; in place of earlier pages of which
        nothing is known, what they would be given now, which ends after MAX_SKIPPED items.
        """
        asked = self.request, self.user_key
        given_E, missing = tables.pages.others(asked, self.page)
        served, catalogue = tables.require_served(), tables.catalogue
        ranker, (history,) = served.ranker, tables.read([self.user_key])
        seen_E = history.item_T if self.exclude_seen else history.item_T[:0]
        excluded_E = np.concatenate([self.exclude_key_E, seen_E, given_E])
        skip = min(missing * self.n, MAX_SKIPPED)
        codes_of = catalogue.codes_of(ranker)
        outcomes: list[str] = []
        search = Search(history, self.at_ms, excluded_E, self.wanted, self.user_key)
        found = search.best(
            ranker, catalogue, min(max(skip + self.n, RERANKED), MAX_SKIPPED), tables.crew,
            outcomes.append,
        )  # fmt: skip
        tables.readings.count(outcomes[0])
        request = Request(history, found.keys_K, self.at_ms, self.user_key, self.draw)
        why = Basis(tables, request, outcomes[0]) if self.explain else None
        (scores,) = ranker.rank_all([request], codes_of)
        vectors_KD = ranker.vectors(found.keys_K, codes_of) if self.diversity else None
        order_N, chances_K = self._listed(scores, vectors_KD, skip)
        tables.pages.put(asked, self.page, found.keys_K[order_N.numpy()])
        return _ranking(
            served, int(history.count_B[0]), found.ids, scores, order_N, 0, why, chances_K
        )

    def _listed(
        self, scores: Scores, vectors_KD: Tensor | None, skip: int
    ) -> tuple[Tensor, Floats | None]:
        """The candidates of the page in order, and where scores were drawn the chance of each
        candidate to be on it. vectors_KD: None where items need not differ."""
        end, explored = skip + self.n, scores.explored
        if vectors_KD is None:
            order_N = _order(scores)[skip:end]
            if explored is None:
                return order_N, None
            score_MK = explored.score_MC.numpy()
            return order_N, propensities(best(score_MK, end) & ~best(score_MK, skip))
        (order_N,) = diverse(scores.score_C[None], vectors_KD, end, self.diversity)[:, skip:]
        if explored is None:
            return order_N, None
        lists_MN = diverse(explored.score_MC, vectors_KD, end, self.diversity)[:, skip:]
        return order_N, propensities(marked(lists_MN.numpy(), len(vectors_KD)))


def job(question: Question) -> Rank | Recommend:
    """What answers a question."""
    kind = Rank if isinstance(question, questions.Rank) else Recommend
    return kind(**vars(question))


def _order(scores: Scores) -> Tensor:
    """Candidates by their score, best first; of equals the first."""
    return scores.score_C.argsort(descending=True, stable=True)


def _ranking(
    served: Served,
    history: int,
    items: Sequence[Id],
    scores: Scores,
    order_N: Tensor,
    left_out: int = 0,
    basis: Basis | None = None,
    chances_C: Floats | None = None,
) -> Ranking:
    heads, explored = scores.actions, scores.explored
    explained = None if basis is None else basis.of(order_N.tolist())
    if explained is not None and explored is not None:
        explained = explained.with_moves(_values(explored.moved_C[order_N]))
    return Ranking(
        served=served.version,
        history=history,
        items=[items[place] for place in order_N.tolist()],
        score_N=_values(scores.score_C[order_N]),
        next_item_N=_values(scores.next_item_C[order_N]),
        actions=_picked(heads, order_N),
        left_out=left_out,
        explained=explained,
        propensity_N=None if chances_C is None else _values(torch.from_numpy(chances_C)[order_N]),
    )


def _picked(heads: dict[str, Tensor] | None, order_N: Tensor) -> dict[str, list[float]] | None:
    if heads is None:
        return None
    return {name: _values(value_C[order_N]) for name, value_C in heads.items()}


def _values(score_N: Tensor) -> list[float]:
    # Six decimals are what fp32 holds of a logit; more digits only make answers longer.
    values: list[float] = score_N.double().round(decimals=6).tolist()
    return values
