"""Settings that a version is tied to: which may change between two starts, and what then moves."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from service.errors import ModelMismatch
from trainer.learner import Learner
from trainer.state import Tensors, named

WIDER = (
    "network/actions.weight", "network/actions.bias", "network/categories.weight",
    "network/categories.keys", "positions/bias", "calibration/sums", "information/sums",
)  # fmt: skip
"""Tensors with one row per action type, or category: they may become more."""


class Difference(NamedTuple):
    """One setting that is not what it was."""

    name: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.there} there, {self.here} here"

    @property
    def migrates(self) -> bool:
        """Whether a trainer can go on with the new value: action types that were added behind the
        others, more categories, longer histories, another threshold of admission."""
        match self.name:
            case "actions":
                return bool(self.here[: len(self.there)] == self.there)
            case "histories.capacity":
                return bool(self.there <= self.here)
            case "model.categories":
                return bool((self.there or 0) <= self.here)  # there were none once
        return self.name == "item.min_count"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
    """Every tied setting that is not what it was."""
    told, ours = dict(_flat(there)), dict(_flat(here))
    return [
        Difference(name, told.get(name), value)
        for name, value in ours.items()
        if told.get(name) != value
    ]


def check(number: int, found: list[Difference]) -> None:
    """Raise ModelMismatch naming the settings that a version cannot be continued with."""
    if refused := [str(one) for one in found if not one.migrates]:
        raise ModelMismatch(
            f"version {number} was made with other settings ({'; '.join(refused)}); "
            "restore them, or train anew into an empty version directory"
        )


def migrated(tensors: Tensors, learner: Learner) -> Tensors:
    """The tensors of a state, its action heads and categories widened to those of a fresh learner:
    heads of new action types and new categories start as if nothing had been learned."""
    weights = learner.network.state_dict(keep_vars=True)
    fresh = {f"network/{name}": weight for name, weight in weights.items()}
    fresh["positions/bias"] = learner.positions.bias_AP
    fresh["calibration/sums"] = learner.calibrator.state()["sums"]
    if learner.information is not None:
        fresh |= named({"information": learner.information.state()})
    places = {id(p): i for i, p in enumerate(learner.parameters)}
    tensors = dict(tensors)
    for name in WIDER:
        if name not in fresh:
            continue
        weight = fresh[name].detach().cpu()
        tensors[name] = _widened(tensors.get(name, weight[:0]), weight)
        for moment in ("exp_avg", "exp_avg_sq"):
            key = f"optimizer/{places.get(id(fresh[name]))}.{moment}"
            if key in tensors:
                tensors[key] = _widened(tensors[key], torch.zeros_like(weight))
    return tensors


def _widened(saved: Tensor, fresh: Tensor) -> Tensor:
    return torch.cat([saved, fresh[len(saved) :].to(saved.device)])


def _flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for section, values in settings.items():
        if isinstance(values, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in values.items())
        else:
            yield section, values
