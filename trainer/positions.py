"""What the place in a list does to the chance of an action, learned apart from the items.

An item that always stands on top is acted on more than it deserves. Each position has a learned
bias per action type, which is added to the logits of target rows in training and to nothing when
serving: what is served is the chance at the average position, in log odds, of the lists that were
shown lately. (The top position as the reference would let the noise of one position into every
chance that is served.)

Shapes: R target rows, P positions, A action types.
"""

import torch
from torch import Tensor, nn

POSITIONS = 64
"""Positions told apart; those beyond count as the last."""
REMEMBERED = 0.99
"""Of the share of each position among shown items, from one batch to the next."""
PULL = 1e-5
"""Towards no bias: decides where items and positions cannot be told apart."""

Tensors = dict[str, Tensor]


class PositionBias:
    """The biases, and how often each position was shown lately."""

    def __init__(self, action_types: int, device: torch.device) -> None:
        self.bias_AP = nn.Parameter(torch.zeros(action_types, POSITIONS, device=device))
        self.shown_P = torch.zeros(POSITIONS, device=device)

    def with_shown(self, shown_P: Tensor) -> Tensor:
        """What `shown_P` will be after a batch."""
        return self.shown_P * REMEMBERED + shown_P

    def logits(self, position_R: Tensor, shown_P: Tensor) -> Tensor:
        """What is added to the logits of target rows, [R, A]; nothing at the average position."""
        share_P = shown_P / shown_P.sum().clamp(min=1e-6)
        centred_AP = self.bias_AP - (self.bias_AP @ share_P)[:, None]
        return centred_AP[:, position_R].T

    def penalty(self) -> Tensor:
        """A term of the loss."""
        return PULL * self.bias_AP.square().sum()

    def state(self) -> Tensors:
        """Copies on the CPU."""
        kept = {"bias": self.bias_AP.detach(), "shown": self.shown_P}
        return {name: tensor.to("cpu", copy=True) for name, tensor in kept.items()}

    @torch.no_grad()
    def load(self, state: Tensors) -> None:
        """Become what returned `state`; an empty one, of a version before there were biases, is
        nothing learned yet."""
        if "shown" in state:
            self.bias_AP.copy_(state["bias"])
            self.shown_P = state["shown"].to(self.shown_P.device, copy=True)
