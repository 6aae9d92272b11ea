"""The figures of several processes as those of one."""

from service.metrics import Readings, ServingMetrics
from serving.workers import figures
from serving.workers.figures import Sum


def process(requests: int, in_flight: int, keys: int) -> ServingMetrics:
    metrics = ServingMetrics()
    metrics.requests_total.labels("/v1/rank", "200").inc(requests)
    for _ in range(requests):
        metrics.request_seconds.labels("/v1/rank").observe(0.003)
    metrics.requests_in_flight.set(in_flight)
    metrics.keys.set(keys)
    return metrics


def engine() -> ServingMetrics:
    metrics = process(0, 0, 3)
    metrics.version.set(41)
    metrics.redis_up.set(0)
    metrics.ready.set(1)
    return metrics


def whole(*workers) -> Readings:
    total = Sum()
    total.add(figures.families(engine().registry))
    for families in workers:
        total.add(families)
    return Readings(total.text().decode())


def test_what_is_counted_is_added_and_what_the_engine_alone_knows_is_its_own():
    found = whole(*(figures.of_worker(process(*one).registry) for one in [(5, 2, 3), (7, 1, 3)]))
    assert found.get("requests_total", route="/v1/rank", status="200") == 12
    assert found.get("request_seconds_count", route="/v1/rank") == 12
    assert found.get("request_seconds_bucket", route="/v1/rank", le="0.002") == 0
    assert found.get("request_seconds_bucket", route="/v1/rank", le="0.004") == 12
    assert found.get("requests_in_flight") == 3
    assert found.get("keys") == 3
    assert (found.get("version"), found.get("ready"), found.get("redis_up")) == (41, 1, 0)


def test_names_kinds_and_help_are_those_of_one_process():
    total = Sum()
    for _ in range(2):
        total.add(figures.families(process(1, 0, 0).registry))

    def described(text: bytes) -> list[str]:
        return [line for line in text.decode().splitlines() if line.startswith("#")]

    assert described(total.text()) == described(process(1, 0, 0).text())


def test_counters_begin_when_the_first_of_them_did():
    first, second = process(1, 0, 0), process(1, 0, 0)
    total = Sum()
    for one in (second, first):
        total.add(figures.families(one.registry))
    text = first.text().decode()
    line = next(line for line in text.splitlines() if "requests_created{" in line)
    assert line in total.text().decode()
