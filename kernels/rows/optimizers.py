"""How a row moves by its gradient. g is the sum of the row's gradients in a batch.

All of them count the row's `steps` and keep `gradient_norm`, a running root of mean(g^2): the
first one as it is, then 0.9 * gradient_norm + 0.1 * sqrt(mean(g^2)).
"""

from dataclasses import dataclass

NORM_KEPT = 0.9
"""Share of the running gradient norm that stays at each step."""


@dataclass(frozen=True)
class Adagrad:
    """Row-wise Adagrad (Duchi, Hazan and Singer 2011; one sum per row as in DLRM).

    square += mean(g^2); row -= learning_rate * g / (sqrt(square) + eps).
    """

    learning_rate: float
    eps: float = 1e-8


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015) with one second moment per row, as FBGEMM's partial row-wise Adam.

    moment = beta1 * moment + (1 - beta1) * g; square = beta2 * square + (1 - beta2) * mean(g^2);
    row -= learning_rate * moment / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + eps), with t the
    row's own steps: a new id's first step has full size.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Sgd:
    """row -= learning_rate * g."""

    learning_rate: float


@dataclass(frozen=True)
class FrequencySgd:
    """Counter-based frequency-aware SGD (CF-SGD, Li et al., ICLR 2022, arXiv 2110.04844).

    row -= learning_rate / sqrt(max(1, c)) * g, with c the row's decayed count now.
    """

    learning_rate: float


Optimizer = Adagrad | Adam | Sgd | FrequencySgd


def check_optimizer(optimizer: Optimizer, moments: bool) -> None:
    """ValueError for Adam on a table without moments."""
    if isinstance(optimizer, Adam) and not moments:
        raise ValueError("Adam keeps a moment per row; make the table with moments=True")
