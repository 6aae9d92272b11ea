"""Secrets from files: what Docker, Kubernetes and systemd mount, instead of environment variables.

`FRESHET_NAME_FILE=/run/secrets/name` is `FRESHET_NAME` with the content of that file, without the
line's end. A variable can be seen by whoever may inspect a container; a file has an owner.
"""

from collections.abc import MutableMapping
from pathlib import Path

from service.errors import SettingsError

PREFIX, SUFFIX = "FRESHET_", "_FILE"


def read_secret_files(environment: MutableMapping[str, str]) -> None:
    """Put the content of every named file into the variable that it stands for, and forget the file
    (processes started from here are given the variable).

    Raises SettingsError for a file that cannot be read or is empty, and where both are set.
    """
    for name in [name for name in environment if _stands_for_a_file(name)]:
        variable, path = name.removesuffix(SUFFIX), Path(environment[name])
        if environment.get(variable):
            raise SettingsError(f"{variable} and {name} are both set; keep one of them")
        environment[variable] = _content(name, path)
        del environment[name]


def _stands_for_a_file(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def _content(name: str, path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name} = {path} cannot be read: {error}") from None
    if not content:
        raise SettingsError(f"{name} = {path} is empty; write the secret into it")
    return content
