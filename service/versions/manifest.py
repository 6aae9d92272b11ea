"""The manifest of a version: what it holds, and by its creation the commit itself.

It is JSON for people, and its last member is the SHA-256 of all bytes before it: a flipped digit of
an offset would otherwise train actions twice.

Evolution follows msgspec's rules: a new field has a default, no field is renamed or retyped, and
readers ignore fields they do not know. A change that an older reader would misread raises FORMAT.
"""

import builtins
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from service.errors import VersionError
from service.versions.formats import FORMAT, Part, check_format
from service.versions.sealing import check_seal, sealed
from service.versions.storage import is_safe

PARTS = ("checkpoint", "snapshot", "histories")
"""What the files of a version are for. A file's name inside its draft begins with its part."""

FIRST_APPEND = "stream.first_append_seconds"
"""Among the metrics: when the oldest record that the version adds was appended, by the log's
clock."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class FileEntry(msgspec.Struct, frozen=True):
    """One file as it must be found: the SHA-256 of its content in hex, and its size."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Count

    @classmethod
    def of(cls, *parts: Part) -> "FileEntry":
        """The entry that describes this content, its parts one after another."""
        sha = hashlib.sha256()
        for part in parts:
            sha.update(part)
        return cls(sha.hexdigest(), sum(map(len, parts)))

    def problem(self, data: builtins.bytes) -> str | None:
        """Why this content is not the one described, or None."""
        if len(data) < self.bytes:
            return f"is truncated: {len(data)} of {self.bytes} bytes"
        if len(data) > self.bytes:
            return f"is too long: {len(data)} bytes instead of {self.bytes}"
        if hashlib.sha256(data).hexdigest() != self.sha256:
            return "was altered: its SHA-256 is not the manifest's"
        return None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A version. `files` and the three lists of names are filled in by `Draft.commit`.

    `created_at` is wall time in seconds since the epoch, for people and metrics only;
    `watermark_ms` is event time. `offsets` are the next records to read by topic and partition,
    `blocks` the records in each block since the parent, `settings` what the trainer ran with.

    `checkpoint` and `snapshot` are chains: a base, and what each later version changed. `step` is
    the file that turns the snapshot of version `snapshot_parent` into this one's: usually the last
    of the chain, and beside it where this version has a base of its own. `held` says why servers
    must not have it, `decisions` how many of the operators' decisions the trainer knew, and
    `precision` what was quantized: dense tensors, and rows as `slots/NAME`. `join_from` are the
    first records that a trainer has to reread, for impressions that wait or can be corrected.
    """

    number: Count
    parent: int | None
    created_at: float
    watermark_ms: int
    block: Count
    offsets: dict[str, dict[str, Count]]
    topic_ids: dict[str, str]
    format: int = FORMAT
    blocks: list[Count] = msgspec.field(default_factory=list)
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    counters: dict[str, int | float] = msgspec.field(default_factory=dict)
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    files: dict[str, FileEntry] = msgspec.field(default_factory=dict)
    checkpoint: list[str] = msgspec.field(default_factory=list)
    snapshot: list[str] = msgspec.field(default_factory=list)
    histories: list[str] = msgspec.field(default_factory=list)
    snapshot_parent: int | None = None
    step: str | None = None
    held: str | None = None
    decisions: Count = 0
    precision: dict[str, str] = msgspec.field(default_factory=dict)
    join_from: dict[str, dict[str, Count]] = msgspec.field(default_factory=dict)

    def part(self, name: str) -> list[str]:
        """The file names of one of PARTS, in the order they were written or shared."""
        if name not in PARTS:
            raise ValueError(f"part {name!r} of a version is unknown; known are {', '.join(PARTS)}")
        names: list[str] = getattr(self, name)
        return names

    @property
    def first_append_seconds(self) -> float | None:
        """When the oldest record that it adds to the version before was appended, if it says so."""
        return self.metrics.get(FIRST_APPEND)

    def next_offsets(self) -> dict[str, dict[int, int]]:
        """The next record to read after this version, by topic and partition number."""
        return {
            topic: {int(partition): offset for partition, offset in partitions.items()}
            for topic, partitions in self.offsets.items()
        }

    def encode(self) -> bytes:
        """The manifest as JSON. Raises ValueError for one that could not be read back (NaN)."""
        data = sealed(self)
        try:
            Manifest.decode(manifest_name(self.number), data)
        except VersionError as error:
            raise ValueError(
                f"a manifest that cannot be read back is not committed: {error}"
            ) from None
        return data

    @classmethod
    def decode(cls, where: str, data: bytes) -> "Manifest":
        """Read and check a manifest. Raises VersionError naming `where` and what is wrong."""
        try:
            check_format(where, _decode_head(data).format)
            check_seal(where, data)
            manifest = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise VersionError(f"{where} is not a manifest: {error}") from None
        for problem in _problems(manifest, where):
            raise VersionError(f"{where} {problem}")
        return manifest


class _Head(msgspec.Struct):
    """All that a manifest of any format has for certain."""

    format: int


# Made once, here: two threads that decode a type for the first time at once can crash msgspec.
_decode_head = msgspec.json.Decoder(_Head).decode
_decode = msgspec.json.Decoder(Manifest).decode


def manifest_name(number: int) -> str:
    """Where the manifest of a version stands."""
    return f"manifests/{number:08d}.json"


def _problems(manifest: Manifest, where: str) -> Iterable[str]:
    if manifest_name(manifest.number) != where:
        yield f"is the manifest of version {manifest.number}; someone renamed or copied it"
    for name in manifest.files:
        if not is_safe(name):
            yield f"names the file {name!r}, which could lie outside the directory"
    for part in PARTS:
        for name in manifest.part(part):
            if name not in manifest.files:
                yield f"lists {name!r} under {part} but has no SHA-256 for it"
    if manifest.step is not None and manifest.step not in manifest.files:
        yield f"names the step {manifest.step!r} but has no SHA-256 for it"
    for name in ("parent", "snapshot_parent"):
        before = getattr(manifest, name)
        if before is not None and not 0 <= before < manifest.number:
            yield f"has version {before} as its {name}, which does not come before it"
