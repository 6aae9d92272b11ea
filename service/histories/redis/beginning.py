"""Where the writer begins: behind what Redis contains, or behind a version that fills it."""

import logging
from collections.abc import Mapping

from service.errors import OffsetError
from service.histories.erased import Erased
from service.histories.redis.progress import Progress
from service.histories.redis.reducer import source_of
from service.histories.redis.rules import Rules
from service.histories.redis.seeding import seed
from service.histories.redis.store import HistoryStore
from service.histories.starting import TOPIC, alone, intake_after, newest_histories
from service.intake import Intake
from service.metrics import HistoryMetrics
from service.streams import Stream
from service.versions import Manifest, VersionDirectory

log = logging.getLogger(__name__)


class Beginning:
    """Finds it, as often as it is asked."""

    def __init__(
        self,
        stream: Stream,
        directory: VersionDirectory,
        store: HistoryStore,
        rules: Rules,
        metrics: HistoryMetrics,
    ) -> None:
        self._stream, self._directory, self._store = stream, directory, store
        self._rules, self._metrics = rules, metrics

    def of(self, topic_id: str, erased: Erased, obeyed: int) -> tuple[Intake, Progress]:
        """The log from where the values in Redis end, and how far they go.

        An empty Redis is filled first, with nothing of what is erased. Raises RedisAway,
        StreamError, and OSError or VersionError while the versions cannot be listed.
        """
        progress = self._store.progress(topic_id)
        if progress is not None:
            try:
                return self._resumed(progress), progress
            except OffsetError as error:
                log.error("the log does not go on where the histories in Redis end: %s", error)
        return self._seeded(topic_id, erased, obeyed)

    def _resumed(self, progress: Progress) -> Intake:
        """The log from where the values end; partitions that are new from their first record."""
        offsets = {
            partition: progress.offsets.get(partition, self._stream.bounds(TOPIC, partition)[0])
            for partition in range(self._stream.partitions(TOPIC))
        }
        largest_ms = {f"{TOPIC}:{p}": at_ms for p, at_ms in progress.largest_ms.items()}
        settings, types = alone(self._rules.intake), self._rules.types
        intake = Intake(
            self._stream, settings, types, {TOPIC: offsets}, progress.watermark_ms, largest_ms,
            merged=False,
        )  # fmt: skip
        log.info("histories in Redis are continued", extra={"fields": {"offsets": offsets}})
        return intake

    def _seeded(self, topic_id: str, erased: Erased, obeyed: int) -> tuple[Intake, Progress]:
        """1. write the values of the newest version; 2. say that they end where it does."""
        found, users = newest_histories(self._directory), 0
        manifest = found[0] if found else None
        intake = self._after(manifest)
        if found is not None:
            ends, settings = _ends(found[0], topic_id), self._rules.histories
            watermark_ms = found[0].watermark_ms
            users = seed(self._store, settings, found[1], watermark_ms, ends, erased)
        progress = progress_of(intake, Progress.new_epoch(), obeyed)
        self._store.begin(topic_id, progress)
        self._metrics.history_seeded_total.inc(users)
        fields = {"users": users, "version": manifest and manifest.number}
        log.info("histories in Redis begin anew", extra={"fields": fields})
        return intake, progress

    def _after(self, manifest: Manifest | None) -> Intake:
        settings, types = alone(self._rules.intake), self._rules.types
        try:
            return intake_after(self._stream, settings, types, manifest)
        except OffsetError as error:
            # Another log than the one that was trained on: better its history than none.
            log.error("the log does not go on where the version ends: %s", error)
            return intake_after(self._stream, settings, types, None)


def progress_of(intake: Intake, epoch: str, obeyed: int) -> Progress:
    """That everything the intake handed out is contained."""
    largest_ms = {int(name.rpartition(":")[2]): at_ms for name, at_ms in intake.largest_ms.items()}
    return Progress(epoch, intake.offsets[TOPIC], largest_ms, intake.watermark_ms, obeyed)


def _ends(manifest: Manifest, topic_id: str) -> Mapping[int, int]:
    """By source, where a version ends in this log."""
    if manifest.topic_ids.get(TOPIC) != topic_id:
        return {}
    ends = manifest.next_offsets().get(TOPIC, {})
    return {source_of(topic_id, partition): offset for partition, offset in ends.items()}
