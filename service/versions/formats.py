"""Which formats of files this release writes and reads."""

from service.errors import VersionError

FORMAT = 2
"""The format this release writes, of manifests, decisions and tensor files."""

OLDEST_FORMAT = 1
"""The oldest format this release still reads: the previous release's, or older."""


def check_format(where: str, number: int) -> None:
    """Raise VersionError unless this release reads files of format `number`."""
    if not OLDEST_FORMAT <= number <= FORMAT:
        raise VersionError(
            f"{where} has format {number}, this release reads formats {OLDEST_FORMAT} to {FORMAT}: "
            "read it with the release that wrote it, or publish a new version with this one"
        )


Part = bytes | memoryview
"""A piece of a file on its way into storage."""
