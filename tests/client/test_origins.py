"""The revision at an instant, from the origins that a store still has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest
import trio

from netstore.client.origins import NotKnown, OriginsClient
from netstore.client.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.client.transport import Transport

NEWEST = 1000
PAGE = 100


class Store:
    """Answers as a store with these revisions, the time of each of which is its number."""

    def __init__(self, revisions: Sequence[int], compacted: int) -> None:
        self._revisions = revisions
        self._compacted = compacted

    async def call(self, method: str, path: str, *, write: bool) -> Reply:
        assert (method, write) == ("GET", False)
        found = [each for each in self._revisions if each >= int(path.partition("=")[2])]
        told = [{"first": each, "last": each, "unixNanos": each, "author": "a"} for each in found[:PAGE]]
        document = {
            "revision": NEWEST,
            "compactedRevision": self._compacted,
            "revisions": told,
            "next": found[PAGE] if len(found) > PAGE else 0,
        }
        return Reply("http://a", 200, json.dumps(document).encode())


def at(instant: int, revisions: Sequence[int], compacted: int = 0) -> tuple[int, bool]:
    client = OriginsClient(cast("Transport", Store(revisions, compacted)))
    return trio.run(client.at, instant)


def test_the_time_of_the_revision_that_follows_makes_it_sure() -> None:
    for instant in (1, 500, 744, 745, 800, 998, 999, NEWEST):
        assert at(instant, range(1, NEWEST + 1)) == (instant, True)
    unknown = [each for each in range(1, NEWEST + 1) if not 801 <= each <= 850]
    assert at(800, unknown) == (800, False)
    assert at(799, unknown) == (799, True)
    assert at(900, range(1, 901)) == (900, False), "the newest ones are not known"


def test_what_is_compacted_is_not_taken_for_the_oldest_state() -> None:
    kept = range(790, NEWEST + 1)
    with pytest.raises(NotKnown, match="that is revision 800, and what is before 900 is compacted"):
        at(800, kept, compacted=900)
    assert at(900, kept, compacted=900) == (900, True)
    with pytest.raises(NotKnown, match="the oldest revision whose time is known is"):
        at(5, kept)
    with pytest.raises(NotKnown, match="does not know when any"):
        at(5, [])
