"""The dense half of a version: a network with its weights, and what the version says about it."""

from dataclasses import dataclass

from service.action_types import ActionTypes
from service.model.calibration import CALIBRATION, Calibration
from service.model.network import Network
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

    @classmethod
    def of(cls, snapshot: Snapshot, before: "Model | None" = None) -> "Model":
        """The model of a snapshot; a delta may leave the weights to the one before it."""
        # Before there was this setting no category spoke.
        settings = ModelSettings.model_validate({"categories": 0} | snapshot.model["model"])
        types = ActionTypes.of_description(snapshot.model["actions"])
        if before is not None and settings != before.settings:
            raise ValueError("its model has other settings than the version that it changes")
        network, codes = _network(settings, types, snapshot, before)
        weights_P = network.prior.detach().numpy()
        prior = Prior.of(snapshot, settings, weights_P)
        if before is not None and prior.origin_ms != before.prior.origin_ms:
            raise ValueError("its counts have another origin than those that it changes")
        heads = bool(snapshot.model["action_heads"])
        # Before there was calibration chances were served as the heads have them.
        described = snapshot.model.get(CALIBRATION, {})
        calibration = Calibration.of_description(described, types.types)
        return cls(settings, types, heads, network, codes, prior, calibration)


def _network(
    settings: ModelSettings, types: ActionTypes, snapshot: Snapshot, before: Model | None
) -> tuple[Network, Codes]:
    if before is not None and not snapshot.dense and types.codes == before.types.codes:
        return before.network, before.codes
    network = Network(settings, len(types.types)).eval()
    network.load_state_dict(snapshot.weights())
    dense = snapshot.dense.items()
    return network, {name: kept for name, kept in dense if isinstance(kept, ChannelCodes)}
