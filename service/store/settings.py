"""What one slot keeps for its ids, and how much memory all slots may take."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kernels.rows import Adagrad, Adam, FrequencySgd, Optimizer, Sgd
from service.settings import Section

_OPTIMIZERS = {"adagrad": Adagrad, "adam": Adam, "sgd": Sgd, "frequency_sgd": FrequencySgd}


class SlotSettings(Section):
    """What one slot (user ids, item ids, ...) keeps for its ids. Seconds are event time."""

    dim: int = Field(64, ge=1, le=4096)
    """Width of a vector."""
    min_count: int = Field(1, ge=1, lt=2**31)
    """Occurrences that earn an id its row."""
    probability: float | None = Field(None, gt=0, le=1)
    """Chance of each occurrence to earn its id a row, instead of `min_count`."""
    waiting_seconds: float = Field(7 * 86_400.0, gt=0, allow_inf_nan=False)
    """An id that waits for `min_count` is forgotten one to two of these after its last
    occurrence."""
    max_waiting: int = Field(1_000_000, ge=2)
    """Most ids that wait for `min_count`; beyond it, the older half is forgotten early."""
    ttl_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Time without an occurrence after which an id loses its row; None: rows stay."""
    optimizer: Literal["adagrad", "adam", "sgd", "frequency_sgd"] = "adagrad"
    """How rows move; adagrad and adam keep one second moment per row."""
    learning_rate: float = Field(0.02, gt=0, allow_inf_nan=False)
    """The optimizer's."""
    init_scale: float = Field(0.01, ge=0, allow_inf_nan=False)
    """Standard deviation of a new row's components."""
    half_life_seconds: float = Field(7 * 86_400.0, ge=0.001, le=1e11)
    """Time in which a count of occurrences decays to its half; counts stay finite while the times
    between two watermarks span less than 56 half-lives."""
    grace_seconds: float = Field(3600.0, ge=0, allow_inf_nan=False)
    """Time after its admission in which a row is not evicted."""

    @property
    def moments(self) -> bool:
        """Whether a row has a first moment."""
        return self.optimizer == "adam"

    def built_optimizer(self) -> Optimizer:
        """The optimizer, ready to step."""
        kind: type[Optimizer] = _OPTIMIZERS[self.optimizer]
        return kind(self.learning_rate)

    @model_validator(mode="after")
    def _one_rule_of_admission(self) -> Self:
        if self.probability is not None and self.min_count > 1:
            raise ValueError(
                f"probability = {self.probability} and min_count = {self.min_count} exclude each "
                "other; set only one of them"
            )
        return self


class CapSettings(Section):
    """How much memory the store's rows, indexes, counters and histories may take together."""

    max_bytes: int | None = Field(None, ge=1)
    """Bytes of all; None: no limit."""
    when_full: Literal["evict", "refuse"] = "evict"
    """What a new id meets: the least important rows leave, or it is refused."""
