"""The `traceparent` header of W3C Trace Context, taken only where its form is right."""

import re
from collections.abc import Iterable

_FORM = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)


def traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The one valid value among ASGI headers; None without one.

    Version 00 has exactly four fields; later versions may have more, which are cut off. Zeros are
    no ids, and version ff is none.
    """
    values = [value for name, value in headers if name == b"traceparent"]
    found = _FORM.fullmatch(values[0]) if len(values) == 1 else None
    if found is None or found["version"] == b"ff" or (found["version"] == b"00" and found["more"]):
        return None
    if not (found["trace"].strip(b"0") and found["parent"].strip(b"0")):
        return None
    return values[0][:55].decode()
