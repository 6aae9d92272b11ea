"""Action types: codes in order of naming, and what no product can have."""

import json

import pytest
from pydantic import ValidationError

from service.action_types import MAX_ACTION_TYPES, ActionType, ActionTypes
from service.model.tokens import MAX_ACTIONS


def test_codes_follow_the_order_of_naming() -> None:
    types = ActionTypes(types={"z": ActionType(), "a": ActionType(positive=False)})
    assert types.codes == {"z": 0, "a": 1}
    assert ActionTypes().codes == {"click": 0, "view": 1, "like": 2, "buy": 3, "hide": 4}


def test_a_code_fits_every_model_and_every_history_record() -> None:
    assert MAX_ACTION_TYPES <= MAX_ACTIONS
    assert MAX_ACTION_TYPES <= 256
    most = {f"a{n}": ActionType() for n in range(MAX_ACTION_TYPES)}
    assert max(ActionTypes(types=most).codes.values()) == MAX_ACTION_TYPES - 1
    with pytest.raises(ValidationError, match="at most 64"):
        ActionTypes(types=most | {"one more": ActionType()})


def test_types_that_teach_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least one action type must be positive"):
        ActionTypes(types={"hide": ActionType(positive=False)})
    with pytest.raises(ValidationError, match="at least 1"):
        ActionTypes(types={})


def test_types_survive_the_way_into_a_version_with_their_order() -> None:
    """Whose headers are objects with sorted keys: codes, and with them heads, follow the order."""
    types = ActionTypes(types={"z": ActionType(weight=-2), "a": ActionType()}, next_item_weight=3)
    again = ActionTypes.of_description(json.loads(json.dumps(types.described(), sort_keys=True)))
    assert again == types
    assert again.codes == types.codes == {"z": 0, "a": 1}


@pytest.mark.parametrize("weight", [101, -101, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        ActionType(weight=weight)
    with pytest.raises(ValidationError, match="weight"):
        ActionTypes(next_item_weight=weight)
