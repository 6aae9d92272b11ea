"""The dense half of a version: a network with its weights, and what the version says about it."""

from dataclasses import dataclass

import torch

from service.action_types import ActionTypes
from service.model.calibration import CALIBRATION, Calibration
from service.model.network import Network
from service.model.posterior import FACTOR, Posterior
from service.model.prior import Prior
from service.model.products import Codes
from service.model.settings import ModelSettings
from service.versions import ChannelCodes, Snapshot


@dataclass(frozen=True, eq=False)
class Model:
    """The dense half of a version and what it says about itself."""

    settings: ModelSettings
    types: ActionTypes
    has_action_heads: bool
    network: Network
    codes: Codes
    """Weights of the network as they were published, those that have a scale per channel."""
    prior: Prior
    calibration: Calibration
    posterior: Posterior | None
    """How sure the heads are, where the version says so."""

    @classmethod
    def of(cls, snapshot: Snapshot, before: "Model | None" = None) -> "Model":
        """The model of a snapshot; a delta may leave the weights to the one before it."""
        # Before there was this setting no category spoke.
        settings = ModelSettings.model_validate({"categories": 0} | snapshot.model["model"])
        types = ActionTypes.of_description(snapshot.model["actions"])
        if before is not None and settings != before.settings:
            raise ValueError("its model has other settings than the version that it changes")
        network, codes, posterior = _network(settings, types, snapshot, before)
        weights_P = network.prior.detach().numpy()
        prior = Prior.of(snapshot, settings, weights_P)
        if before is not None and prior.origin_ms != before.prior.origin_ms:
            raise ValueError("its counts have another origin than those that it changes")
        heads = bool(snapshot.model["action_heads"])
        # Before there was calibration chances were served as the heads have them.
        described = snapshot.model.get(CALIBRATION, {})
        calibration = Calibration.of_description(described, types.types)
        return cls(settings, types, heads, network, codes, prior, calibration, posterior)


def _network(
    settings: ModelSettings, types: ActionTypes, snapshot: Snapshot, before: Model | None
) -> tuple[Network, Codes, Posterior | None]:
    weight_A = torch.tensor([kind.weight for kind in types.types.values()])
    if before is not None and not snapshot.dense and types.codes == before.types.codes:
        posterior = before.posterior and before.posterior.weighing(weight_A)
        return before.network, before.codes, posterior
    network, dense = Network(settings, len(types.types)).eval(), snapshot.weights()
    factor_AZZ = dense.pop(FACTOR, None)
    network.load_state_dict(dense)
    codes = {name: kept for name, kept in snapshot.dense.items() if isinstance(kept, ChannelCodes)}
    posterior = None if factor_AZZ is None else Posterior(factor_AZZ, weight_A)
    if posterior is not None and posterior.width != settings.dim:
        raise ValueError(f"{FACTOR} is of heads {posterior.width} wide, dim is {settings.dim}")
    return network, codes, posterior
