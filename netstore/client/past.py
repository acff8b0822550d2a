"""The past of a range of v3 keys, read by a watch up to a revision, with proof that all of it was told.

A watch tells its events in the order of their revisions, so an event of the wanted revision or a later one
ends the past. Where there is none, the store is asked:

* For progress (v3 API, progress_request). The answer has a revision up to which every watch of the stream has
  been told everything; a store that is not as far gives none, and is asked again.
* etcd before 3.4.31, and 3.5 before 3.5.13, answer that ahead of events, or not at all. They send the past in
  rounds, each with all watches that are behind (512 at most), and a stream keeps its order. So other watches
  on the same stream, of a change that is known to be there, each made when the one before was answered, are
  answered in different rounds: when two that were made after the last event of the first watch are, that has
  been in a round that had nothing for it. Each must be made when the store had the wanted revision.

etcd's grpc-proxy passes on the version of the store behind it, but no request for progress. So where none is
answered for a while, the second way is taken.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, Protocol

import trio

from netstore.client.faults import TIMEOUT, BadAnswer
from netstore.client.grpc import PERMISSION_DENIED, UNIMPLEMENTED, Status
from netstore.client.v3 import PAST_SECONDS
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from netstore.client.v3 import V3Client, WatchCall

_ASK_SECONDS: Final = 0.2
"""Pause between two requests for progress. The Kubernetes API server asks each 0.1 s."""

_PATIENCE: Final = 2.0
"""Seconds without events and without an answer after which requests for progress are given up."""

_FENCES: Final = 2

_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})")


async def told(
    client: V3Client, request: pb.WatchCreateRequest, last: int
) -> AsyncGenerator[pb.WatchResponse, None]:
    """The answers of a watch of the past, with events or, as the only one, a `compact_revision`; until all
    events up to revision `last` have been told, and perhaps later ones.

    BadAnswer if the store tells nothing more for `PAST_SECONDS`, or cannot prove it.
    """
    seen = max(request.start_revision - 1, 1)  # nothing is written at revision 1
    if seen >= last:
        return
    deadline = trio.current_time() + PAST_SECONDS
    proof = await _proof(client, request, last)
    async with client.watch(request) as watch:
        created = await _answer(watch, deadline, deadline)
        _check(created)
        reached = last if created is None else min(created.header.revision, last)
        while created is not None and seen < last:
            if trio.current_time() >= proof.due:
                proof = await proof.ask(watch)
            answer = await _answer(watch, min(proof.due, deadline), deadline)
            if answer is None:
                continue
            if (revision := min(answer.header.revision, last)) > reached:
                reached = revision
                deadline = trio.current_time() + PAST_SECONDS
            if answer.watch_id != created.watch_id:
                if await proof.ends(watch, answer):
                    return
                continue
            if not answer.compact_revision:
                _check(answer)
            if answer.events:
                revision = answer.events[-1].kv.mod_revision
                if revision > seen:
                    deadline = trio.current_time() + PAST_SECONDS
                seen = revision
                proof.void(answer)
            if answer.events or answer.compact_revision:
                yield answer
            if answer.compact_revision:
                return


async def _answer(watch: WatchCall, until: float, deadline: float) -> pb.WatchResponse | None:
    """The next answer; None if there is none until that time. BadAnswer if that is the deadline."""
    with trio.move_on_at(until):
        return await watch.answer()
    if until >= deadline:
        raise BadAnswer(
            "the store",
            f"has told nothing more of its history for {PAST_SECONDS:g} s, and not that it ends",
            fix="repeat this later, or at another member",
        )
    return None


def _check(answer: pb.WatchResponse | None) -> None:
    if answer is not None and answer.canceled:
        raise BadAnswer("the store", f"ended the watch: {answer.cancel_reason or 'without reason'}")


class _Proof(Protocol):
    """Asks a store whether a watch has told its past."""

    due: float
    """When to ask next."""

    async def ask(self, watch: WatchCall) -> _Proof:
        """Ask on the stream of the watch; how to go on."""

    def void(self, answer: pb.WatchResponse) -> None:
        """The watch told these events."""

    async def ends(self, watch: WatchCall, answer: pb.WatchResponse) -> bool:
        """Whether this answer, which is not of the watch, proves that nothing is missing."""


class _Progress:
    """See the module: requests for progress."""

    def __init__(self, last: int, otherwise: Callable[[], Awaitable[_Fences]]) -> None:
        """`otherwise` makes what is asked instead if there is no answer."""
        self.due = -math.inf
        self._last = last
        self._otherwise = otherwise
        self._first: pb.WatchResponse | None = None
        """The first events of the watch."""
        self._told = math.inf
        """When the last answer came, or the first request was sent."""

    async def ask(self, watch: WatchCall) -> _Proof:
        now = trio.current_time()
        if now >= self._told + _PATIENCE:
            fences = await self._otherwise()
            if self._first is not None:
                fences.void(self._first)
            return await fences.ask(watch)
        self._told = min(self._told, now)
        await watch.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
        self.due = trio.current_time() + _ASK_SECONDS
        return self

    def void(self, answer: pb.WatchResponse) -> None:
        """What was answered stays true."""
        self._first = self._first or answer
        self._told = trio.current_time()

    async def ends(self, _watch: WatchCall, answer: pb.WatchResponse) -> bool:
        is_progress = not (answer.created or answer.canceled or answer.events)
        if is_progress:
            self._told = trio.current_time()
        return is_progress and answer.header.revision >= self._last


class _Fences:
    """See the module: watches of a known change, one after the other."""

    def __init__(self, last: int, known: pb.WatchCreateRequest | None, version: str) -> None:
        self.due = -math.inf
        self._last = last
        self._known = known
        """None: there is none yet; the first event of the watch will be."""
        self._version = version
        self._is_waited_for = False
        self._id = -1
        """Of the one that is not answered yet."""
        self._is_void = False
        """It was made before the last event, or before the store had the wanted revision."""
        self._is_behind = False
        """The store had not the wanted revision."""
        self._passed = 0

    async def ask(self, watch: WatchCall) -> _Proof:
        if self._known is not None:
            await watch.send(pb.WatchRequest(create_request=self._known))
            self._is_void = False
            self.due = math.inf
        elif self._is_waited_for:
            raise BadAnswer(
                "the store",
                "has told nothing of what was asked for, and cannot prove that there is nothing:"
                f" it is etcd {self._version or 'of unknown version'}, and etcd proves it from 3.4.31 and"
                " 3.5.13 on, and not through a proxy",
                fix="repeat this as a user who may read some key that exists",
            )
        else:
            self._is_waited_for = True
            self.due = trio.current_time() + TIMEOUT
        return self

    def void(self, answer: pb.WatchResponse) -> None:
        self._passed = 0
        self._is_void = True
        if self._known is None:
            first = answer.events[0].kv
            self._known = pb.WatchCreateRequest(key=first.key, start_revision=first.mod_revision)
            self.due = -math.inf

    async def ends(self, watch: WatchCall, answer: pb.WatchResponse) -> bool:
        if answer.created:
            _check(answer)
            self._id = answer.watch_id
            self._is_behind = answer.header.revision < self._last
            self._is_void |= self._is_behind
        elif answer.watch_id == self._id and (answer.events or answer.compact_revision):
            if answer.events:
                cancel = pb.WatchCancelRequest(watch_id=self._id)
                await watch.send(pb.WatchRequest(cancel_request=cancel))
            self._id = -1
            self._passed += not self._is_void
            self.due = trio.current_time() + _ASK_SECONDS if self._is_behind else -math.inf
        return self._passed == _FENCES


async def _proof(client: V3Client, request: pb.WatchCreateRequest, last: int) -> _Proof:
    """How this store proves it. BadAnswer if it cannot."""
    try:
        version = await client.version()
    except Status as status:
        if status.code not in (UNIMPLEMENTED, PERMISSION_DENIED):
            raise
        version = ""

    async def fences() -> _Fences:
        return _Fences(last, await _known_change(client, request), version)

    return _Progress(last, fences) if _tells_progress(version) else await fences()


async def _known_change(client: V3Client, request: pb.WatchCreateRequest) -> pb.WatchCreateRequest | None:
    """A watch of the past that will be told something; None if nothing is known that this user may read."""
    if request.start_revision > 2:  # what was before is compacted, which a watch of it is told
        return pb.WatchCreateRequest(key=request.key, start_revision=1)
    for key, end in ((request.key, request.range_end), (b"\0", b"\0")):
        try:
            answer = await client.range(pb.RangeRequest(key=key, range_end=end, limit=1, keys_only=True))
        except Status as status:
            if status.code != PERMISSION_DENIED:
                raise
            continue
        for each in answer.kvs:
            return pb.WatchCreateRequest(key=each.key, start_revision=each.mod_revision)
    return None


def _tells_progress(version: str) -> bool:
    """Whether an etcd of this version answers a request for progress when it is true, for each watch."""
    found = _VERSION.fullmatch(version)
    number = tuple(map(int, found.groups())) if found else (0, 0, 0)
    return number >= (3, 4, 31) and not (3, 5, 0) <= number < (3, 5, 13)
