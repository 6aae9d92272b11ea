"""Histories follow the log without a trainer, and start where a version left them."""

import threading

from service.metrics import Readings

CANDIDATES = [f"i{number}" for number in range(20)]


def scores(site, user, **more):
    answer = site.client.rank(user, CANDIDATES, at=2_000_000_000.0, **more)
    return {scored["item"]: scored["score"] for scored in answer["items"]}


def applied(site):
    return Readings(site.http.get("/metrics").text).get("history_records_total")


def test_an_action_changes_the_ranking_without_a_trainer(site, clicks):
    before, others = scores(site, "u1"), scores(site, "u2")
    site.client.act(clicks("u1", ["i3"]))
    site.until(lambda: scores(site, "u1") != before)
    assert scores(site, "u2") == others


def test_an_action_that_another_process_appended_changes_the_ranking(site, tmp_path):
    import msgspec

    from service.actions import Action
    from service.streams.local import LocalStream

    before = scores(site, "u1")
    other = LocalStream(tmp_path / "stream")
    action = Action(user="u1", item="i3", action="click", at=1_732_096_800.0)
    other.append("actions", 0, [msgspec.json.encode(action)], append_ms=1_732_096_800_000)
    site.until(lambda: scores(site, "u1") != before)
    other.close()


def test_a_repeated_action_id_counts_once(site, clicks):
    site.client.act(clicks("u1", ["i3"], id="a1"))
    site.until(lambda: applied(site) == 1)
    once = scores(site, "u1")
    site.client.act(clicks("u1", ["i3"], id="a1"))
    site.until(lambda: applied(site) == 2)
    assert scores(site, "u1") == once


def test_seen_items_are_left_out_of_recommendations(site, clicks):
    site.client.act(clicks("u1", ["i3", "i4"]))
    site.until(lambda: applied(site) == 2)
    unseen = [s["item"] for s in site.client.recommend("u1", n=40)["items"]]
    every = [s["item"] for s in site.client.recommend("u1", n=40, exclude_seen=False)["items"]]
    assert set(every) - set(unseen) == {"i3", "i4"}


def test_histories_are_restored_from_the_version_and_the_log_after_it(
    publish, run_site, clicks, segment
):
    publish(1)
    with run_site() as site:
        site.until_ready()
        site.client.act(clicks("u1", ["i1", "i2", "i3"]))
        site.until(lambda: applied(site) == 3)
        whole = scores(site, "u1")
    # A version that learned the first two: a new server reads the third from the log.
    publish(2, history=segment("u2", ["i5"]), offsets={"actions": {"0": 2}})
    with run_site() as site:
        site.until_ready()
        assert applied(site) == 1
        assert scores(site, "u2") != scores(site, "nobody")
        assert scores(site, "u1") not in (whole, scores(site, "nobody"))


def test_a_version_with_damaged_histories_lends_an_older_ones(publish, run_site, segment):
    publish(1, history=segment("u2", ["i5"]))
    manifest = publish(2, history=segment("u2", ["i6"]))
    (publish.data / "versions" / manifest.only("histories")).write_bytes(b"nothing")
    with run_site() as site:
        site.until_ready()
        assert scores(site, "u2") != scores(site, "nobody")


def test_a_log_that_ends_before_the_version_does_not_stop_the_server(publish, run_site, clicks):
    publish(1, offsets={"actions": {"0": 1000}})
    with run_site() as site:
        site.until_ready()
        before = scores(site, "u1")
        site.client.act(clicks("u1", ["i3"]))
        site.until(lambda: scores(site, "u1") != before)


def test_actions_and_rankings_at_once_lose_nothing(site, clicks):
    def act(number: int) -> None:
        for _ in range(10):
            site.client.act(clicks(f"u{number}", ["i1", "i2"]))
            site.client.rank(f"u{number}", CANDIDATES)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.until(lambda: applied(site) == 80)
