"""When and by whom the revisions of a netstored's v3 keys were written (`GET /netstore/revisions`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.client.cluster import Refused
from netstore.client.faults import BadAnswer
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from netstore.client.transport import Transport

PATH: Final = "/netstore/revisions"

WINDOW: Final = 256
"""Revisions looked at first when an instant is searched for, the newest; then twice as many before them."""

_BEYOND: Final = 2**63 - 1
"""No revision is larger."""


class Origin(msgspec.Struct, frozen=True):
    """One command's revisions. `wall` is in nanoseconds since 1970, 0 if not known; `author` is empty if the
    cluster itself wrote them, as at the end of a lease, or somebody who is not known.
    """

    first: int
    last: int
    wall: int = msgspec.field(name="unixNanos")
    author: str


class _Page(msgspec.Struct, frozen=True):
    revision: int
    compacted: int = msgspec.field(name="compactedRevision")
    revisions: tuple[Origin, ...]
    next: int


class _Message(msgspec.Struct, frozen=True):
    message: str = ""


class NotKept(NetstoreError):  # noqa: N818 - named for what was found
    """The store keeps no times and authors: it is etcd, or a netstored of an earlier release."""

    def __init__(self) -> None:
        super().__init__("this store does not keep times: it is etcd, or a netstored of an earlier release")


class NotKnown(NetstoreError):  # noqa: N818 - named for what was found
    """No revision that can still be read is known to have been written by then."""


class OriginsClient:
    """The origins behind the endpoints of a transport. `NotKept` if the store has none; else the errors of
    `client.faults` and `cluster.Refused`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def of(self, revisions: Iterable[int]) -> dict[int, Origin]:
        """The origins of those of these revisions that have one."""
        found: dict[int, Origin] = {}
        known: tuple[Origin, ...] = ()
        at = 0
        for revision in sorted(set(revisions)):
            if not known or known[-1].last < revision:
                known, at = (await self._page(revision)).revisions, 0
            while at < len(known) and known[at].last < revision:
                at += 1
            if at < len(known) and known[at].first <= revision:
                found[revision] = known[at]
        return found

    async def at(self, wall: int) -> tuple[int, bool]:
        """The state at this instant: the revision of the last entry of the log whose time is not after it,
        and whether the time of the revision that follows is known. `NotKnown` if there is none, or if it is
        compacted.
        """
        newest = await self._page(_BEYOND)
        high, size = newest.revision, WINDOW
        above: Origin | None = None
        """The first one of those that were looked at already, which are later."""
        while high > max(0, newest.compacted - 1):
            low = max(1, high - size + 1)
            first: Origin | None = None
            last: Origin | None = None
            following: Origin | None = None
            async for origin in self._between(low, high):
                first = first or origin
                if origin.wall and origin.wall <= wall:
                    last, following = origin, None
                else:
                    following = following or origin
            if last is not None:
                if last.last < newest.compacted:
                    raise NotKnown(
                        f"that is revision {last.last}, and what is before {newest.compacted} is compacted"
                    )
                following = following or above
                is_next = following is not None and following.wall > 0 and following.first <= last.last + 1
                return last.last, is_next or last.last >= newest.revision
            above = first or above
            high, size = low - 1, 2 * size
        if above is None:
            raise NotKnown("the store does not know when any of its revisions was written")
        raise NotKnown(f"the oldest revision whose time is known is {above.first}, and it is later")

    async def _between(self, low: int, high: int) -> AsyncIterator[Origin]:
        start = low
        while start:
            page = await self._page(start)
            for origin in page.revisions:
                if origin.first > high:
                    return
                if origin.last >= low:
                    yield origin
            start = page.next if page.next <= high else 0

    async def _page(self, revision: int) -> _Page:
        reply = await self._transport.call("GET", f"{PATH}?from={revision}", write=False)
        if reply.status == 404:
            raise NotKept
        try:
            if reply.status >= 300:
                raise Refused(reply.status, msgspec.json.decode(reply.body, type=_Message).message)
            return msgspec.json.decode(reply.body, type=_Page)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BadAnswer(
                reply.endpoint, f"answered {reply.status}, and not as a netstored", status=reply.status
            ) from None
