"""A data directory to train in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainer.workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """As the trainer's main function sets it: so small a model on two threads waits for itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
