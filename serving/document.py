"""`python -m serving.document` prints the OpenAPI document of a server with default settings."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from service.settings import Settings
from serving.app import describe
from serving.routes import router
from serving.whole import whole_server


def document() -> dict[str, Any]:
    """What /openapi.json answers."""
    with tempfile.TemporaryDirectory() as folder:
        _, server = whole_server(Path(folder), Settings({}))
        return describe(router(server)).openapi()


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(document())).decode())
