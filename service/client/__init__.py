"""The Python client of the HTTP API, blocking and asynchronous. Needs httpx, not torch."""

from service.client.asynchronous import AsyncClient
from service.client.blocking import Client
from service.client.questions import API_KEY, RequestError

__all__ = ["API_KEY", "AsyncClient", "Client", "RequestError"]
