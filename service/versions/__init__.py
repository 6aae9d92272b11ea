"""Numbered commits of everything: manifests, checkpoints for the trainer, snapshots for servers.

`VersionDirectory` keeps them, on a local path or any fsspec url; docs/formats.md describes every
file field by field. Imports `kernels` and the plain parts of `service` (errors, actions) only.
"""

from service.versions.channels import ChannelCodes
from service.versions.checkpoint import Checkpoint
from service.versions.directory import Draft, VersionDirectory
from service.versions.manifest import FileEntry, Manifest
from service.versions.rows import SlotRows
from service.versions.snapshot import Snapshot

__all__ = [
    "ChannelCodes",
    "Checkpoint",
    "Draft",
    "FileEntry",
    "Manifest",
    "SlotRows",
    "Snapshot",
    "VersionDirectory",
]
