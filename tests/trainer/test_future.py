"""An event dated 2099 is turned away at the door: it expires nothing and nobody, and leaves no
trace in what was learned."""

import copy

import msgspec
import torch

from service.actions import Action
from tests.trainer.workshop import Told, Workshop, settings, told

MALFORMED = b'{"user": 1, "item"'
FROM_2099 = msgspec.json.encode(
    Action(user=3, item="i3", action="click", at=4_070_908_800, id="from 2099", request=None)
)
SECTIONS = settings(store={"item": {"ttl_seconds": 3600}}, histories={"ttl_seconds": 3600})


def with_events_of_2099(story: Told) -> Told:
    """The same story, with an event of 2099 where a record could not be read."""
    changed = copy.deepcopy(story)
    changed.payloads["actions"] = [
        (at_ms, FROM_2099 if payload == MALFORMED else payload)
        for at_ms, payload in changed.payloads["actions"]
    ]
    return changed


def test_an_event_dated_2099_expires_nothing_and_teaches_nothing(workshop: Workshop) -> None:
    story = told(400)
    trainers = []
    for name, each in (("plain", story), ("future", with_events_of_2099(story))):
        shop = Workshop(workshop.root / name, SECTIONS)
        shop.tell(each)
        trainers.append(shop.train())
    plain, future = (trainer.teacher.state for trainer in trainers)
    assert story.rejected == future.counters["rejected_too_early"] > 0
    assert len(future.items) == len(plain.items) > 30
    assert len(future.histories) == len(plain.histories) == 20
    assert trainers[0].position.watermark_ms == trainers[1].position.watermark_ms
    expected, found = plain.items.state(), future.items.state()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
