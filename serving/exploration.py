"""Lists by Thompson sampling: what a request draws, and how probable what it shows had been.

Propensities have no closed form. The chance that an item is in the list is estimated by the share
of M further draws in which it is, k of M, as (k + 1/2) / (M + 1), which is never 0 nor 1: its
standard error is sqrt(p (1 - p) / M), and the halves move it by at most 1 / (2 M + 2).

Shapes: M draws, C candidates, N places of a list.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from service.draws import Draw

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

DIVERSE = 100
"""So many items of a request can be explored where they are to differ, too: each draw's list is
then made place by place."""


def draw_of(scale: float, request: str, user_key: int) -> Draw | None:
    """What a request draws; None where it does not explore. A request id of a user always draws
    the same."""
    if not scale:
        return None
    data = user_key.to_bytes(8, "little", signed=True) + request.encode(errors="surrogatepass")
    return Draw(scale, xxhash.xxh3_64_intdigest(data))


def propensities(listed_MC: Flags) -> Floats:
    """Chance [C] of each candidate to be listed, from which were, draw by draw; 1 where a list has
    room for all."""
    if listed_MC.all():
        return np.ones(listed_MC.shape[1])
    share: Floats = (listed_MC.sum(0) + 0.5) / (len(listed_MC) + 1)
    return share


def best(score_MC: Floats, count: int) -> Flags:
    """Which candidates are the `count` best of each draw, [M, C]; of equals the first."""
    places = score_MC.shape[1]
    if count >= places or not count:
        return np.full(score_MC.shape, bool(count))
    least_M1 = np.partition(score_MC, places - count, axis=1)[:, places - count, None]
    listed: Flags = score_MC >= least_M1
    if np.count_nonzero(listed) > count * len(score_MC):
        above_MC, equal_MC = score_MC > least_M1, score_MC == least_M1
        room_M1 = count - above_MC.sum(1, keepdims=True)
        listed = above_MC | (equal_MC & (equal_MC.cumsum(1) <= room_M1))
    return listed


def marked(places_MN: npt.NDArray[np.int64], candidates: int) -> Flags:
    """Which candidates stand in each draw's list, [M, C]."""
    listed = np.zeros((len(places_MN), candidates), np.bool_)
    np.put_along_axis(listed, places_MN, True, axis=1)
    return listed
