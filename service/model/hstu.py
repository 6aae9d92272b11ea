"""HSTU: a stack of layers over rows that carry limits.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3.

Shapes: B users, T history events, R asking rows, D model width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.attention import Events, Rows
from service.model.layer import FORMS, Form, KeysValues, Layer

if TYPE_CHECKING:
    from service.model.settings import ModelSettings


def window_start(last_visible: int, window: int) -> int:
    """Ordinal of the first event in the window of a row whose last visible event is given.

    It moves by a quarter of the window at a time, so that cached keys and values stay exact
    between two moves: `max(0, ceil((last + 1 - L) / (L / 4)) * L / 4)`.
    """
    quarter = window // 4
    return max(0, -((window - last_visible - 1) // quarter) * quarter)


def form_of(settings: "ModelSettings") -> Form:
    """The form of a model's layers."""
    form = replace(FORMS[settings.layer], weights=settings.weights)
    return form if settings.relative_bias else replace(form, bias=None)


class HSTU(nn.Module):
    """The stack of layers. A row of a user who shows nothing is answered like any other.

    recompute: keep only what enters and leaves a layer, and compute it again in the backward pass.
    """

    def __init__(
        self, settings: "ModelSettings", precision: torch.dtype = torch.float32,
        recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        s, form = settings, form_of(settings)
        self.layers = nn.ModuleList(
            Layer(form, s.dim, s.heads, s.qk_width, s.v_width, s.window, precision=precision)
            for _ in range(s.layers)
        )
        self.from_history = s.next_item_from == "history"
        self.recompute = recompute

    def history(self, x_TD: Tensor, events: Events) -> tuple[list[KeysValues], Tensor | None]:
        """Every layer's keys and values, and the last layer's rows if next items come from them."""
        rows, seen = history_rows(events), []
        *earlier, last = self._stack()
        for layer in earlier:
            x_TD, kv = self._run(layer.history, x_TD, rows, events)
            seen.append(kv)
        if self.from_history:
            x_TD, kv = self._run(last.history, x_TD, rows, events)
            return [*seen, kv], x_TD
        return [*seen, self._run(last.keys_values, x_TD)], None

    def ask(self, x_RD: Tensor, rows: Rows, events: Events, seen: list[KeysValues]) -> Tensor:
        """Query rows through every layer: [R, D]."""
        for layer, kv in zip(self._stack(), seen, strict=True):
            x_RD = self._run(layer.ask, x_RD, rows, events, kv)
        return x_RD

    def target(self, x_RD: Tensor, rows: Rows, events: Events, seen: list[KeysValues]) -> Tensor:
        """Target rows through every layer: [R, D]."""
        for layer, kv in zip(self._stack(), seen, strict=True):
            x_RD = self._run(layer.target, x_RD, rows, events, kv)
        return x_RD

    def _run(self, part: Callable[..., Any], *arguments: Any) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(part, *arguments, use_reentrant=False)
        return part(*arguments)

    def _stack(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))


def history_rows(events: Events) -> Rows:
    """History rows as asking rows: event j stands at position j and sees events 0 .. j."""
    total, device = len(events.at_ms), events.at_ms.device
    first_T = torch.repeat_interleave(events.offsets[:-1], events.offsets.diff(), output_size=total)
    position_T = torch.arange(total, device=device) - first_T
    return Rows(events.offsets, position_T, position_T + 1, events.at_ms)
