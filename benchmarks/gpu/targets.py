"""What is to be reached on a Hopper GPU, and which figure says whether it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """The least value of a figure with these settings."""

    words: str
    section: str
    figure: str
    least: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    wanted: str = ""

    def is_of(self, figure: Mapping[str, Any]) -> bool:
        """Whether this figure is the one meant."""
        settings = figure["settings"]
        return figure["figure"] == self.figure and all(
            settings.get(name) == value for name, value in self.settings.items()
        )


_LONG = {"length": 8192, "dtype": "bfloat16"}

TARGETS = (
    *(
        Target(
            f"attention with rab, forward and backward, beside FlashAttention-2 without it, "
            f"length 8,192, head dim {dim}, bf16",
            "attention", "attention.forward_backward_times_faster_than_flash", 1.0,
            {**_LONG, "dim": dim}, "1.0 (0.8 at least)",
        )
        for dim in (64, 128)
    ),
    *(
        Target(
            f"attention without rab, forward: share of the measured bf16 matrix-product rate, "
            f"length 8,192, head dim {dim}, causal operations counted once",
            "attention", "attention.without_rab.forward_share_of_matmul", share,
            {**_LONG, "dim": dim}, f"{share:.2f}",
        )
        for dim, share in ((128, 0.5), (64, 0.4))
    ),
    Target(
        "whole layer, forward and backward, beside a FlashAttention-2 Transformer layer of the "
        "same width, length 8,192, d=512, h=8, bf16, dense inputs",
        "layer", "layer.times_faster_than_transformer", 1.5,
        {"length": 8192, "dim": 512, "heads": 8}, "1.5",
    ),
    Target(
        "the same with stochastic length (alpha 1.6) on the same inputs",
        "layer", "layer.stochastic.times_faster_than_transformer", 5.3,
        {"length": 8192, "dim": 512, "heads": 8}, "5.3",
    ),
)  # fmt: skip
