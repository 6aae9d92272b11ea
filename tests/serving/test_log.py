"""What is posted goes into the log, and what was returned is logged as shown."""

import resource
import signal

import msgspec

from service.actions import Action, Impression, partition_of
from service.metrics import Readings
from service.streams.local import LocalStream

JSON = {"Content-Type": "application/json"}


def records(site, topic, kind):
    """Every record of a topic, decoded, by partition."""
    stream = site.server.stream
    return [
        msgspec.json.decode(record.payload, type=kind)
        for partition in range(stream.partitions(topic))
        for record in stream.read(topic, partition, 0, 1000)
    ]


def metrics(site) -> Readings:
    return Readings(site.http.get("/metrics").text)


def test_accepted_actions_are_in_the_log_when_the_answer_comes(site, clicks):
    answer = site.client.act([*clicks("u1", ["i1"], id="a1"), {"user": "u1"}])
    assert answer == {
        "accepted": 1,
        "rejected": [{"index": 1, "field": "item", "reason": "is missing"}],
    }
    (action,) = records(site, "actions", Action)
    assert (action.user, action.item, action.action, action.id) == ("u1", "i1", "click", "a1")
    assert metrics(site).get("actions_appended_total") == 1


def test_another_process_can_read_what_was_posted(site, clicks, tmp_path):
    site.client.act(clicks("u1", ["i1", "i2"]))
    other = LocalStream(tmp_path / "stream")
    assert len(other.read("actions", 0, 0, 10)) == 2
    other.close()


def test_a_user_has_one_partition(publish, run_site, clicks):
    publish(1)
    with run_site(stream={"partitions": 4}) as site:
        site.until_ready()
        users = [f"u{number}" for number in range(20)]
        site.client.act([action for user in users for action in clicks(user, ["i1", "i2"])])
        for partition in range(4):
            for record in site.server.stream.read("actions", partition, 0, 100):
                user = msgspec.json.decode(record.payload, type=Action).user
                assert partition_of(user, 4) == partition


def test_a_batch_of_bad_actions_is_answered_but_goes_nowhere(site):
    answer = site.client.act([{"user": "u1", "item": "i1", "action": "stare"}])
    assert answer["accepted"] == 0
    assert records(site, "actions", Action) == []


def test_a_full_disk_is_503_and_the_server_goes_on(site, clicks):
    site.client.act(clicks("u1", ["i1"]))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        response = site.http.post("/v1/actions", json={"actions": clicks("u1", ["i2"])})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert response.status_code == 503
    assert response.json()["type"] == "urn:freshet:problem:log-unavailable"
    assert site.client.act(clicks("u1", ["i3"]))["accepted"] == 1
    assert [action.item for action in records(site, "actions", Action)] == ["i1", "i3"]


def test_posted_impressions_are_in_the_log(site):
    shown = {"request": "r1", "user": "u1", "items": ["i1", "i2"], "positions": [0, 1]}
    answer = site.client.impressions([shown, {"request": "r2", "user": "u1", "items": []}])
    assert answer["accepted"] == 1
    assert answer["rejected"][0]["field"] == "items"
    (impression,) = records(site, "impressions", Impression)
    assert impression.positions == [0, 1]


def test_what_was_returned_is_logged_as_shown(site, clicks):
    site.client.act(clicks("u1", ["i1", "i2", "i3"]))
    site.until(lambda: metrics(site).get("history_records_total") == 3)
    answer = site.client.rank("u1", ["i4", "i5", "i6"], n=2, at=1_732_096_800.5)
    (impression,) = site.until(lambda: records(site, "impressions", Impression))
    assert impression == Impression(
        request=answer["request_id"],
        user="u1",
        at=1_732_096_800.5,
        items=[scored["item"] for scored in answer["items"]],
        history=3,
        version=1,
    )


def test_logging_what_was_returned_can_be_turned_off(publish, run_site):
    publish(1)
    with run_site(serving={"log_impressions": False}) as site:
        site.until_ready()
        site.client.rank("u1", ["i1"])
        server = site.server
    assert server.metrics.impressions_dropped_total._value.get() == 0
    reopened = LocalStream(server.stream.root)
    assert reopened.bounds("impressions", 0) == (0, 0)
    reopened.close()


def test_impressions_that_wait_are_flushed_when_the_server_stops(publish, run_site, tmp_path):
    publish(1)
    with run_site() as site:
        site.until_ready()
        for _ in range(20):
            site.client.rank("u1", ["i1"])
    stream = LocalStream(tmp_path / "stream")
    assert stream.bounds("impressions", 0) == (0, 20)
    stream.close()


def test_metrics_count_requests_by_route_and_status_without_unknown_paths(site):
    site.client.rank("u1", ["i1"])
    site.http.get("/secret/path")
    read = metrics(site)
    assert read.get("requests_total", route="/v1/rank", status="200") == 1
    assert read.get("requests_total", route="other", status="404") == 1
    assert read.get("request_seconds_count", route="/v1/rank") == 1
    assert read.get("version") == 1
    assert read.get("version_age_seconds") > 0
    assert "secret" not in site.http.get("/metrics").text
