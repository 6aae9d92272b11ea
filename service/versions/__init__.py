"""Numbered commits of everything: manifests, checkpoints for the trainer, snapshots for servers.

`VersionDirectory` keeps them, on a local path or any fsspec url, and with them what operators
decided; docs/formats.md describes every file field by field. Imports `kernels` and the plain parts
of `service` (errors, actions) only.
"""

from service.versions.channels import ChannelCodes
from service.versions.checkpoint import Checkpoint
from service.versions.decisions import Branch, Decision, Decisions, Erase, Pin, Release
from service.versions.directory import VersionDirectory
from service.versions.draft import Draft
from service.versions.ids import RowIds
from service.versions.manifest import FileEntry, Manifest
from service.versions.rows import SlotRows
from service.versions.snapshot import Snapshot, fold

__all__ = [
    "Branch",
    "ChannelCodes",
    "Checkpoint",
    "Decision",
    "Decisions",
    "Draft",
    "Erase",
    "FileEntry",
    "Manifest",
    "Pin",
    "Release",
    "RowIds",
    "SlotRows",
    "Snapshot",
    "VersionDirectory",
    "fold",
]
