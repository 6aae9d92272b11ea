"""Which actions a product has, what each means for learning, and how a score is put together."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator

from service.settings import Section

MAX_ACTION_TYPES = 64


class ActionType(Section):
    """One type of action.

    positive: whether it is what the next-item head predicts; otherwise it only enters histories.
    weight: of this action's logit in a candidate's score.
    """

    positive: bool = True
    weight: float = Field(1.0, ge=-100, le=100)


class ActionTypes(Section):
    """Section [actions]: the types by name, in the order of their codes.

    A score is `next_item_weight * next_item + sum weight * logit(action)`, a product of experts in
    log space; a stream without impressions has no action heads and ranks by next item alone.
    """

    types: dict[str, ActionType] = Field(
        default_factory=lambda: {
            "click": ActionType(),
            "view": ActionType(weight=0.0),
            "like": ActionType(),
            "buy": ActionType(),
            "hide": ActionType(positive=False, weight=-1.0),
        },
        min_length=1,
        max_length=MAX_ACTION_TYPES,
    )
    next_item_weight: float = Field(1.0, ge=0, le=100)

    @field_validator("types")
    @classmethod
    def _has_a_positive(cls, types: dict[str, ActionType]) -> dict[str, ActionType]:
        if not any(kind.positive for kind in types.values()):
            raise ValueError("at least one action type must be positive: nothing would be learned")
        return types

    @property
    def codes(self) -> dict[str, int]:
        """Code of each type: what a history event stores."""
        return {name: code for code, name in enumerate(self.types)}

    def described(self) -> dict[str, Any]:
        """As JSON whose readers may sort an object's keys: the order is said apart."""
        return {**self.model_dump(mode="json"), "order": list(self.types)}

    @classmethod
    def of_description(cls, described: Mapping[str, Any]) -> Self:
        """The types that `described` themselves. Raises KeyError or ValueError for what did not."""
        types = {name: described["types"][name] for name in described["order"]}
        return cls(types=types, next_item_weight=described["next_item_weight"])
