"""A version that is small and quick to write, for tests of what it is written to."""

import torch

from service.versions import Manifest, VersionDirectory


def commit(directory: VersionDirectory, number: int, floats: int = 100) -> Manifest:
    """Version `number`: a file of its own of 4 bytes per float, and its parent's shared one."""
    with directory.begin(number) as draft:
        draft.write("checkpoint/base.safetensors", {"weights": torch.full((floats,), number)})
        if number - 1 in directory.numbers():
            parent = directory.manifest(number - 1)
            draft.share(parent.histories[0], parent.files[parent.histories[0]])
        else:
            draft.write("histories/0.safetensors", {"item": torch.arange(9)})
        return draft.commit(
            Manifest(
                number=number,
                parent=number - 1 or None,
                created_at=0.0,
                watermark_ms=0,
                block=number,
                offsets={"actions": {"0": 100 * number}},
                topic_ids={},
            )
        )


def weights(directory: VersionDirectory, number: int) -> list[float]:
    """The distinct values of the file that only this version wrote, its bytes checked."""
    manifest = directory.verify(number)
    found: list[float] = directory.read(number, manifest.checkpoint[0])["weights"].unique().tolist()
    return found
