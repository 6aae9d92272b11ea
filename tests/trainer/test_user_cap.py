"""How much of a block one user may teach."""

import numpy as np

from tests.trainer.rehearsal import GATE, Rehearsal, rings
from trainer.user_cap import UserCap


def test_the_first_ones_are_kept() -> None:
    user_T = np.array([1, 2, 1, 1, 2, 1, 3])
    positive_T = np.array([1, 1, 0, 1, 1, 1, 1], bool)
    beyond_T = UserCap(2, 0.0).beyond(user_T, positive_T)
    assert beyond_T.tolist() == [False, False, False, False, False, True, False]


def test_a_large_block_grants_a_share() -> None:
    user_T = np.repeat([1, 2], [100, 300])
    beyond_T = UserCap(4, 0.25).beyond(user_T, np.ones(400, bool))
    assert np.flatnonzero(beyond_T).tolist() == list(range(200, 400))


def test_nobody_and_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert len(UserCap(4, 0.25).beyond(none, none.astype(bool))) == 0


def test_what_is_beyond_the_cap_is_remembered_and_not_learned() -> None:
    gate = GATE.model_copy(update={"user_floor": 4, "user_share": 0.0})
    rehearsal = Rehearsal(gate)
    clicks = rings(640)
    clicks.user_T[:] = 7
    rehearsal.run(clicks.blocks())
    state = rehearsal.state
    assert state.counters["capped"] == 600
    assert state.counters["positives_trained"] == len(state.learner.pool) == 40
    assert state.counters["context_only"] == 0
    assert state.histories.live_events == 64
    count = rehearsal.metrics.registry.get_sample_value
    assert count("freshet_actions_total", {"outcome": "capped"}) == 600


def test_ordinary_users_are_not_touched() -> None:
    rehearsal = Rehearsal()
    rehearsal.run(rings(2_000).blocks())
    assert rehearsal.state.counters["capped"] == 0
