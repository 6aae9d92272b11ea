"""The backends that every promise is tested on; Triton's is held against an oracle apart."""

import pytest


@pytest.fixture(params=["reference", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
