"""Items over HTTP on a real server: posted, filtered, hidden, expired, deleted, and read anew."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.actions import partition_of_key
from service.client import RequestError
from service.items import Item, item_key
from service.metrics import Readings
from service.streams import LocalStream
from tests.serving.conftest import ITEMS, Publisher, Site


def readings(site: Site) -> Readings:
    return Readings(site.http.get("/metrics").text)


def put(site: Site, *items: dict[str, Any]) -> None:
    """Post items and wait until the server knows them."""
    before = readings(site)
    told = sum(before.by_label("items_total", "outcome").values())
    answer = site.client.put_items(items)
    assert answer == {"accepted": len(items), "rejected": []}

    def known() -> bool:
        return sum(readings(site).by_label("items_total", "outcome").values()) >= told + len(items)

    site.until(known)


def recommended(site: Site, **options: Any) -> list[Any]:
    options = {"n": 100} | options
    return [one["item"] for one in site.client.recommend("u1", **options)["items"]]


def test_filters_and_items_without_a_row(site: Site) -> None:
    put(
        site,
        {"item": "i1", "categories": ["news", "sport"]},
        {"item": "i2", "categories": ["news"]},
        {"item": "fresh", "categories": ["news"], "features": {"language": "en"}},
        {"item": 77, "categories": ["film"]},
    )
    assert set(recommended(site)) == {*ITEMS, "fresh", 77}
    assert set(recommended(site, categories=["news"])) == {"i1", "i2", "fresh"}
    assert set(recommended(site, categories=["sport", "film"])) == {"i1", 77}
    assert set(recommended(site, categories=["news"], exclude_categories=["sport"])) == {
        "i2",
        "fresh",
    }
    assert set(recommended(site, exclude_categories=["news"])) == {*ITEMS, 77} - {"i1", "i2"}
    assert recommended(site, categories=["nothing"]) == []
    assert set(recommended(site, categories=["news"], exclude=["fresh"])) == {"i1", "i2"}
    found = readings(site)
    assert found.get("catalogue_items") == 4
    assert found.get("catalogue_unseen_items") == 2
    site.client.act([{"user": "u1", "item": "fresh", "action": "click"}])
    site.until(lambda: "fresh" not in recommended(site, categories=["news"]))


def test_hidden_and_expired_items_are_never_returned(site: Site) -> None:
    now = time.time()
    put(
        site,
        {"item": "i1", "hidden": True},
        {"item": "i2", "expires_at": now + 3600},
        {"item": "gone", "expires_at": now - 1},
    )
    assert set(recommended(site)) == {*ITEMS} - {"i1"}
    assert set(recommended(site, at=now + 3601)) == {*ITEMS} - {"i1", "i2"}
    ranked = site.client.rank("u1", ["i0", "i1", "i2", "gone", "who"])
    assert {one["item"] for one in ranked["items"]} == {"i0", "i2", "who"}
    assert ranked["left_out"] == 2
    nothing = site.client.rank("u1", ["i1", "gone"])
    assert (nothing["items"], nothing["left_out"]) == ([], 2)
    put(site, {"item": "i1"}, {"item": "gone", "deleted": True})
    assert set(recommended(site)) == {*ITEMS}
    assert site.client.rank("u1", ["gone"])["left_out"] == 0


def test_features_are_filtered_by_where_a_server_was_told_to(
    publish: Publisher, run_site: Callable[..., Any]
) -> None:
    publish(1)
    with run_site(serving={"item_filters": ["language"]}) as site:
        site.until_ready()
        put(
            site,
            {"item": "i1", "features": {"language": "en", "pages": 3}},
            {"item": "i2", "features": {"language": "de"}},
        )
        assert recommended(site, features={"language": "en"}) == ["i1"]
        assert recommended(site, features={"language": "fr"}) == []
        with pytest.raises(RequestError, match=r"features\.pages.*language.*item_filters"):
            recommended(site, features={"pages": 3})


def test_bad_items_are_rejected_one_by_one(site: Site) -> None:
    answer = site.client.put_items(
        [
            {"item": "ok"},
            {"item": ""},
            {"item": "i1", "categories": ["x" * 200]},
            {"item": "i1", "colour": "red"},
            {"item": "i1", "at": time.time() + 86_400},
            {"item": "i1", "features": {"a": [1]}},
        ]
    )
    assert answer["accepted"] == 1
    assert [(one["index"], one["field"]) for one in answer["rejected"]] == [
        (1, "item"), (2, "categories[0]"), (3, "colour"), (4, "at"), (5, "features[...]"),
    ]  # fmt: skip


def test_a_server_that_starts_knows_what_was_posted_before_it_is_ready(
    publish: Publisher, run_site: Callable[..., Any], tmp_path: Path
) -> None:
    publish(1)
    stream = LocalStream(tmp_path / "stream")
    records = [Item(item=f"n{n}", categories=["c"]) for n in range(5000)]
    stream.append("items", 0, [msgspec.json.encode(one) for one in records])
    stream.append("items", 0, [b"no JSON", b"", b'{"item": "i1", "hidden": true}'])
    stream.close()
    with run_site() as site:
        site.until_ready()
        assert "i1" not in recommended(site, n=1000)
        found = readings(site)
        assert found.get("catalogue_items") == 5001
        assert found.get("items_total", outcome="rejected") == 2
        assert len(recommended(site, n=1000, categories=["c"])) == 1000


def test_records_of_an_item_lie_in_one_partition_whatever_wrote_them(
    publish: Publisher, run_site: Callable[..., Any]
) -> None:
    publish(1)
    with run_site(stream={"partitions": 3}) as site:
        site.until_ready()
        put(site, *({"item": one} for one in ITEMS), {"item": 7}, {"item": "7"})
        stream = site.server.stream
        for partition in range(3):
            for record in stream.read("items", partition, 0, 100):
                item = msgspec.json.decode(record.payload, type=Item).item
                assert partition_of_key(item_key(item), 3) == partition


def test_a_version_gives_a_row_to_an_item_that_was_found_without_one(
    site: Site, publish: Publisher
) -> None:
    put(site, {"item": "late", "hidden": True}, {"item": "next", "categories": ["c"]})
    publish(2, items=[*ITEMS, "late", "next"])
    site.until_version(2)
    assert readings(site).get("catalogue_unseen_items") == 0
    assert set(recommended(site)) == {*ITEMS, "next"}
    put(site, {"item": "late"})
    assert set(recommended(site)) == {*ITEMS, "next", "late"}
