"""Where the models of a server compute."""

from service.device import Device, chosen
from service.errors import SettingsError
from service.model.precision import on
from serving.settings import ServingSettings


def computing(settings: ServingSettings) -> Device:
    """Where models compute. Raises SettingsError where that is not to be had."""
    device = chosen(settings.device, "serving.device")
    if settings.dense not in ("auto", *on(device)):
        raise SettingsError(
            f"setting serving.dense = {settings.dense!r} runs on the CPU alone; set it to "
            f'{", ".join(on(device))} or auto, or serving.device to "cpu"'
        )
    return device
