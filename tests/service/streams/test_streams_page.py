"""docs/streams.md describes the settings and the bytes that there are."""

import re

import pytest

from service.streams import LocalStreamSettings, frames
from service.streams.segment import INDEX_STEP_BYTES


@pytest.fixture
def page(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "streams.md").read_text()


def test_every_setting_is_described_with_its_default(page: str) -> None:
    for name, field in LocalStreamSettings.model_fields.items():
        assert f"| `{name}` | {field.default} |" in page, name


def test_the_example_frame_is_what_is_written(page: str) -> None:
    block = re.search(r"```\n((?:[0-9a-f]{2}[ \n])+)```", page)
    assert block is not None
    (body,) = frames.bodies([b"one", b"", b"three"], [1000, 1000, 1007])
    assert bytes.fromhex(block.group(1)) == body.header(41) + body.data


def test_the_sizes_named_are_those_of_the_code(page: str) -> None:
    assert f"at most {frames.MAX_PAYLOAD_BYTES // 2**20} MiB" in page
    assert f"would pass {frames.FRAME_BYTES // 2**10} KiB" in page
    assert f"byte i x {INDEX_STEP_BYTES}" in page
