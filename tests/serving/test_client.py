"""The Python client: no torch, plain dicts, and errors that say what the server said."""

import subprocess
import sys

import httpx
import pytest

from service.client import Client, RequestError


def test_the_client_needs_no_torch():
    check = "import sys, service.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_error_answer_raises_with_status_field_and_detail(site):
    with pytest.raises(RequestError, match=r"422 .*\(items\[0\]\): must not be empty") as caught:
        site.client.rank("u1", [""])
    assert caught.value.status == 422
    assert caught.value.problem["field"] == "items[0]"


def test_an_answer_that_is_no_json_still_tells_its_status():
    def gateway(_: httpx.Request) -> httpx.Response:
        return httpx.Response(502, text="bad gateway")

    client = Client()
    client._http = httpx.Client(base_url="http://x", transport=httpx.MockTransport(gateway))
    with client, pytest.raises(RequestError, match="502 Bad Gateway: bad gateway"):
        client.versions()


def test_a_server_that_is_not_there_is_not_ready():
    with Client("http://127.0.0.1:1") as client:
        assert not client.ready()
