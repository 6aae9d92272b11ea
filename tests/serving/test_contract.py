"""The server keeps to its OpenAPI document, whatever schemathesis makes of it.

No 5xx, no status, header, media type or body that is not in the document; what breaks a schema is
refused and what keeps it is taken; keys are asked for; other methods get 405.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.commands import key_file
from service.keys import SCOPES, new_key

HOOKS = Path(__file__).with_name("contract.py")
REPLACED = "negative_data_rejection,positive_data_acceptance"
"""By the two checks of contract.py, which ask these first."""


@pytest.fixture
def keyed(publish, run_site, tmp_path):
    """A ready server that needs keys, and a key that opens everything."""
    publish(1)
    publish(2)
    key = new_key("all", SCOPES)
    key_file.add(tmp_path / "keys.toml", key)
    with run_site(serving={"keys": "keys.toml", "item_filters": ["language"]}) as site:
        site.until_ready()
        yield site, key.token


def cases_that_hold(site, token, folder, *options):
    """Run schemathesis; how many cases it made. Fails with its report if one does not hold."""
    done = subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
            "run", f"{site.http.base_url}/openapi.json", "--no-color", "--seed", "1",
            "--header", f"X-API-Key: {token}", "--exclude-checks", REPLACED,
            "--generation-database", "none", "--request-timeout", "30", "--continue-on-failure",
            "--suppress-health-check", "too_slow",
            *options,
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
    [cases] = re.findall(r"^\s*(\d+) generated, \d+ passed", done.stdout, re.MULTILINE)
    return int(cases)


def test_two_hundred_cases_hold(keyed, tmp_path):
    assert (
        cases_that_hold(*keyed, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "40")
        > 300
    )


@pytest.mark.long
def test_fifty_thousand_cases_hold(keyed, tmp_path):
    assert cases_that_hold(*keyed, tmp_path, "--max-examples", "7000") >= 50_000
