"""Puts a trainer together: new, or from the newest complete version of its directory."""

import logging
from pathlib import Path
from typing import Any

import torch

from service.action_types import ActionTypes
from service.errors import ModelMismatch, OffsetError, SettingsError, VersionError
from service.histories.local import LocalHistories
from service.histories.segments import segments_of
from service.histories.settings import HistorySettings
from service.intake import Intake, IntakeSettings
from service.metrics import TrainerMetrics
from service.model.network import Network
from service.model.settings import ModelSettings
from service.settings import Settings
from service.store import Budget, EmbeddingTable
from service.store.ids import OriginalIds
from service.store.settings import CapSettings, SlotSettings
from service.streams import Stream
from service.versions import Checkpoint, Manifest, VersionDirectory
from trainer.device import chosen
from trainer.inspection import Inspection
from trainer.joiner import Joiner
from trainer.learner import Learner
from trainer.loop import Trainer, committed
from trainer.publish import Publisher
from trainer.settings import TrainerSettings
from trainer.state import State
from trainer.teaching import Teacher

_log = logging.getLogger(__name__)


class StoreSettings(CapSettings):
    """Section [store]: the cap on memory, and one table per slot."""

    item: SlotSettings = SlotSettings()


class Plan:
    """Every setting that a trainer needs, and those that its versions are tied to."""

    def __init__(self, settings: Settings) -> None:
        self.types = settings.section("actions", ActionTypes)
        self.intake = settings.section("intake", IntakeSettings)
        self.histories = settings.section("histories", HistorySettings)
        self.model = settings.section("model", ModelSettings)
        self.trainer = settings.section("trainer", TrainerSettings)
        self.store = settings.section("store", StoreSettings)
        self.item = self.store.item.model_copy(update={"dim": self.model.dim})
        self.device = chosen(self.trainer.device)
        if self.device.backend == "triton" and self.item.optimizer not in ("adagrad", "adam"):
            raise SettingsError(
                f"setting store.item.optimizer = {self.item.optimizer!r} runs on the CPU alone; "
                'set it to "adagrad" or "adam", or trainer.device to "cpu"'
            )
        if self.histories.capacity <= self.model.window:
            raise SettingsError(
                f"setting histories.capacity = {self.histories.capacity} must be above "
                f"model.window = {self.model.window}: a window needs its events and one before it"
            )

    def tied(self) -> dict[str, Any]:
        """What a checkpoint can only be continued with: another value makes another model."""
        return {
            "model": self.model.model_dump(mode="json"),
            "actions": list(self.types.types),
            "item": self.item.model_dump(mode="json", include={"dim", "min_count", "optimizer"}),
            "histories": self.histories.model_dump(mode="json", include={"capacity"}),
        }

    def fresh_state(self) -> State:
        """Nothing learned yet. The same seed gives the same weights."""
        torch.manual_seed(self.trainer.seed)
        network = Network(
            self.model, len(self.types.types),
            precision=getattr(torch, self.trainer.precision), recompute=self.trainer.recompute,
        )  # fmt: skip
        budget = Budget(self.store)
        table = EmbeddingTable(
            self.item, self.trainer.seed, self.device.backend, self.trainer.threads,
            str(self.device.torch), budget,
        )  # fmt: skip
        histories = LocalHistories(self.histories, budget)
        learner = Learner(network, table, self.trainer, self.device.torch)
        joiner = Joiner(int(self.trainer.join_seconds * 1000))
        return State(learner, histories, joiner, OriginalIds(), budget)


def build(
    settings: Settings, stream: Stream, versions: VersionDirectory, inspection: Path
) -> Trainer:
    """A trainer that goes on after the newest complete version, or starts anew without one.

    Raises ModelMismatch for a version of other settings and OffsetError if the stream no longer
    holds the records that come next.
    """
    plan, metrics = Plan(settings), TrainerMetrics()
    state = plan.fresh_state()
    publisher = Publisher(
        versions, plan.tied(), plan.histories.capacity, plan.trainer.keep_versions,
        stream.sync, committed(metrics),
    )  # fmt: skip
    newest = _newest_complete(versions)
    intake = Intake(stream, plan.intake, plan.types)
    if newest is not None:
        manifest, checkpoint = newest
        _check_tied(plan, manifest)
        _check_topics(stream, manifest)
        segments = segments_of(versions, manifest)
        state.load(checkpoint.tensors, segments, manifest.block, manifest.counters)
        state.histories.cursor = checkpoint.meta["history_cursor"]
        publisher.resume(manifest, checkpoint.meta["segment_levels"])
        intake = Intake(
            stream, plan.intake, plan.types, manifest.next_offsets(), manifest.watermark_ms,
            checkpoint.meta["largest_ms"],
        )  # fmt: skip
        metrics.version.set(manifest.number)
        _log.info("resumed after version %d, block %d", manifest.number, manifest.block)
    teacher = Teacher(state, plan.types, plan.trainer, metrics, Inspection(inspection))
    return Trainer(stream, intake, teacher, publisher, plan.trainer, metrics)


def _newest_complete(versions: VersionDirectory) -> tuple[Manifest, Checkpoint] | None:
    """The newest version whose trainer half can be read; damaged ones are passed over, loudly."""
    numbers = versions.numbers()
    for number in reversed(numbers):
        try:
            manifest = versions.verify(number, "histories")
            return manifest, Checkpoint.read(versions, number)
        except VersionError as error:
            _log.error("version %d cannot be resumed from: %s", number, error)
    if numbers:
        raise VersionError(
            f"none of the versions {numbers} can be resumed from; restore one from a backup, or "
            "move the version directory away to train anew from the earliest record"
        )
    return None


def _check_tied(plan: Plan, manifest: Manifest) -> None:
    ours, theirs = plan.tied(), manifest.settings
    if different := [
        f"{part}: {theirs.get(part)} there, {ours[part]} here"
        for part in ours
        if ours[part] != theirs.get(part)
    ]:
        raise ModelMismatch(
            f"version {manifest.number} was made with other settings ({'; '.join(different)}); "
            "restore them, or train anew into an empty version directory"
        )


def _check_topics(stream: Stream, manifest: Manifest) -> None:
    for topic, identity in manifest.topic_ids.items():
        if stream.topic_id(topic) != identity:
            raise OffsetError(
                f"topic {topic} is not the one that version {manifest.number} was trained from "
                "(it was deleted and made again); train anew into an empty version directory"
            )
