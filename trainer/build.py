"""Puts a trainer together: new, or from the newest complete version of its directory."""

import logging
from pathlib import Path
from typing import Any

import torch

from service.action_types import ActionTypes
from service.device import chosen
from service.errors import SettingsError
from service.histories.erased import Erased
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.metrics import TrainerMetrics
from service.model.network import Network
from service.model.settings import ModelSettings
from service.redis.announcements import Announcer
from service.redis.settings import redis_of
from service.settings import Settings
from service.store import Budget, EmbeddingTable
from service.store.ids import OriginalIds
from service.store.settings import CapSettings, SlotSettings
from service.streams import Stream
from service.versions import VersionDirectory
from trainer.candidates import Standard
from trainer.gate import Gate
from trainer.gate_settings import GateSettings
from trainer.inspection import Inspection
from trainer.joining import Joiner, JoinRules
from trainer.joining.rereading import Source
from trainer.joining.resuming import resume_joining, warn_of_short_retention
from trainer.joining.waiting import Waiting
from trainer.learner import Learner
from trainer.loop import Trainer
from trainer.migration import check, differences, migrated
from trainer.operators import Operators
from trainer.publish import Publisher
from trainer.resuming import newest_complete, start_after, survived_erasure
from trainer.settings import TrainerSettings
from trainer.state import State, part_of
from trainer.teaching import Teacher
from trainer.user_cap import UserCap
from trainer.writing import Rules, Writer

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
        self.gate = settings.section("gate", GateSettings)
        self.item = self.store.item.model_copy(update={"dim": self.model.dim})
        self.device = chosen(self.trainer.device, "trainer.device")
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

    def rules(self) -> JoinRules:
        """How long what waits for what."""
        seconds = (
            self.trainer.join_seconds, self.trainer.correct_seconds, self.intake.max_future_seconds
        )  # fmt: skip
        return JoinRules(*(int(one * 1000) for one in seconds))

    def fresh_state(self, joining: Path | None = None) -> State:
        """Nothing learned yet. The same seed gives the same weights.

        joining: folder of what the joiner does not hold in memory; without one it holds all.
        """
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
        joiner = Joiner(self.rules(), Waiting(joining, self.trainer.join_memory_bytes))
        return State(learner, histories, joiner, OriginalIds(), budget)

    def fresh_gate(self, learner: Learner, metrics: TrainerMetrics) -> Gate:
        """A gate that has judged nothing yet."""
        return Gate(self.gate, learner, len(self.types.types), metrics)


def build(
    settings: Settings,
    stream: Stream,
    versions: VersionDirectory,
    inspection: Path,
    begin: str | None = None,
) -> Trainer:
    """A trainer that goes on after the newest complete version, or starts anew without one.

    `begin`: where to go on if the stream no longer holds what comes next (`start_after`). Raises
    ModelMismatch for a version of other settings, OffsetError if records are lost.
    """
    plan, metrics = Plan(settings), TrainerMetrics()
    state = plan.fresh_state(inspection.parent / "join")
    gate = plan.fresh_gate(state.learner, metrics)
    rules = Rules(plan.tied(), plan.histories.capacity, plan.trainer)
    redis = redis_of(settings)
    announce = [] if redis is None else [Announcer(redis, metrics.announcements_total)]
    writer = Writer(versions, gate, rules, stream, *announce)
    decisions = versions.decisions()
    resumed, obeyed = newest_complete(versions), decisions
    intake = Intake(stream, plan.intake, plan.types)
    if resumed is not None:
        manifest, meta = resumed.manifest, resumed.meta
        obeyed = versions.decisions_until(manifest.decisions)
        found = differences(manifest.settings, plan.tied())
        check(manifest.number, found)
        start = start_after(stream, manifest, begin)
        tensors = migrated(resumed.tensors, state.learner)
        state.load(tensors, resumed.segments, manifest.block, manifest.counters)
        state.histories.cursor = meta["history_cursor"]
        if start.lost:
            state.counters["records_lost"] += start.lost
        gate.load(part_of(tensors, "gate"))
        writer.resume(manifest, meta, Standard.of(versions, manifest, meta))
        writer.whole = writer.whole or bool(found)
        if survived_erasure(versions, manifest):
            writer.forget(manifest.number)
            writer.remove_old()
        intake = Intake(
            stream, plan.intake, plan.types, start.offsets, manifest.watermark_ms,
            meta["largest_ms"],
        )  # fmt: skip
        source = Source(
            stream, plan.intake, plan.types, manifest.topic_ids, Erased.of(obeyed.erased)
        )
        lost = resume_joining(
            state.joiner, part_of(tensors, "joiner"), manifest, source, start.offsets
        )
        if lost:
            state.counters["join_lost"] += lost
        metrics.version.set(manifest.number)
        _log.info("resumed after version %d, block %d", manifest.number, manifest.block)
    else:
        state.joiner.begin(intake.offsets)
    warn_of_short_retention(stream, state.joiner)
    cap = UserCap(plan.gate.user_floor, plan.gate.user_share)
    teacher = Teacher(state, plan.types, plan.trainer, metrics, Inspection(inspection), cap)
    teacher.observers.append(gate.observe)
    publisher = Publisher(writer, gate, metrics)
    operators = Operators(versions, decisions, obeyed)
    return Trainer(stream, intake, teacher, publisher, operators, plan.trainer, metrics)
