"""Section [trainer]: how blocks are cut and how the model learns."""

from typing import Literal

from pydantic import Field

from service.settings import Section


class TrainerSettings(Section):
    """What decides the course of training. A run repeats bit for bit only with the same values,
    but versions are tied to none: each may change from one start to the next."""

    seed: int = Field(0, ge=0)
    block_records: int = Field(512, ge=1, le=1_000_000, description="records in a full block")
    block_ms: int = Field(500, ge=1, description="live: a block is cut after this long")
    row_budget: int = Field(16_384, ge=64, description="model rows in a batch")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Adam's, dense weights")
    prior_learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's, weights of the prior")
    pool_window: int = Field(8_192, ge=1, description="recent positives that negatives come from")
    pool_draws: int = Field(1_024, ge=0, description="negatives drawn from the pool per batch")
    action_weight: float = Field(1.0, ge=0, description="weight of the action heads' loss")
    join_seconds: float = Field(60.0, gt=0, description="how long an impression waits for actions")
    correct_seconds: float = Field(
        300.0, ge=0, description="after that: how long a late action still corrects it"
    )
    join_memory_bytes: int = Field(
        2**26, ge=2**16, description="open impressions beyond this go to disk"
    )
    keep_negatives: float = Field(
        1.0, gt=0, le=1, description="share of shown and not acted on items that is learned"
    )
    exploration: bool = Field(
        False, description="keep how sure the action heads are, for servers that explore"
    )
    exploration_half_life: float = Field(
        100_000.0, gt=0, description="shown items after which their evidence counts a half"
    )
    exploration_prior: float = Field(
        1.0, gt=0, description="standard deviation of an action's log odds without evidence"
    )
    position_bias: bool = Field(
        True, description="learn what the place in a list does, apart from the items"
    )
    sweep_rows: int = Field(
        4_096, ge=1, description="rows and users looked at for expiry per block"
    )
    publish_seconds: float = Field(2.0, gt=0, description="at least this between two versions")
    publish_clock: str = Field(
        "wall", pattern="^(wall|event)$", description="which seconds: a replay counts event time"
    )
    dense_seconds: float = Field(
        20.0, ge=0, description="event time between changes of the dense weights that servers get"
    )
    snapshot: Literal["fp32", "fp16", "int8", "int4"] = Field(
        "int8", description="precision of what servers get; the gate raises it where it must"
    )
    dense: Literal["fp32", "fp16", "int8", "int4"] | None = Field(
        None, description="the same of dense weights, where it is another; int4 is fitted"
    )
    base_every: int = Field(64, ge=1, description="deltas behind a base, at most")
    keep_versions: int = Field(64, ge=2)
    evaluate_rows: int = Field(64, ge=0, description="events of every fourth block scored first")
    threads: int = Field(1, ge=1, le=64, description="threads that share a batch")
    nice: int = Field(
        0, ge=0, le=19, description="how far servers on the same machine go before: as nice(1)"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where model and item table live")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the model's matrix products; weights stay float32"
    )
    recompute: bool = Field(
        False, description="compute activations again in the backward pass instead of keeping them"
    )
    log_q: bool = Field(True, description="correct sampled logits by the log of expected counts")
    stochastic_length: float | None = Field(
        None, gt=1, le=2, description="alpha: long histories are shortened in most examples"
    )

    @property
    def dense_precision(self) -> Literal["fp32", "fp16", "int8", "int4"]:
        """Of the dense weights that servers get."""
        return self.dense or self.snapshot
