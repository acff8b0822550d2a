"""That the past which a watch tells is whole, whatever the store's pace and the version of an etcd."""

from __future__ import annotations

import random
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trio

from netstore.client.faults import BadAnswer
from netstore.client.grpc import Status
from netstore.client.keyspace import KeySpace
from netstore.client.past import told
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from trio.testing import MockClock

    from netstore.client.v3 import V3Client

KEY = b"/k"
KNOWN = b"/other"
LAST = 100
"""The newest revision."""


class Store:
    """A store with one deleted key and perhaps another one, that sends what is past in rounds, as etcd does:
    each watch that is behind is sent a few revisions, in any order of the watches.
    """

    def __init__(self, revisions: Sequence[int], *, version: str, seed: int = 0, known: int = 7) -> None:
        self.revisions = revisions
        self.known = known
        """When the other key was written; 0: it was not."""
        self.denies = False
        self.pause = 0.0
        """Seconds that an answer is under way."""
        self.most = 2
        """Revisions that a round tells a watch."""
        self.compacted_to = 0
        self.is_silent = False
        self.is_proxied = False
        """A request for progress is not answered."""
        self.revision = LAST
        """That it is at."""
        self.refuses = ""
        self.asked = 0
        """Requests for progress."""
        self._version = version
        self._chance = random.Random(seed)  # noqa: S311 - repeatable
        self._out: deque[tuple[float, pb.WatchResponse]] = deque()
        """Answers, and when they arrive."""
        self._behind: dict[int, tuple[bytes, int]] = {}
        self._ids = 0

    @property
    def is_early(self) -> bool:
        """Whether a request for progress is answered ahead of events."""
        return self._version == "3.4.23"

    async def version(self) -> str:
        if not self._version:
            raise Status("http://store", 12, "unknown method")
        return self._version

    async def compacted(self, _key: bytes) -> int:
        return self.compacted_to

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        if request.range_end and self.denies:
            raise Status("http://store", 7, "etcdserver: permission denied")
        answer = pb.RangeResponse(header=header())
        if request.range_end and self.known:
            answer.kvs.add(key=KNOWN, mod_revision=self.known)
        return answer

    @asynccontextmanager
    async def watch(self, request: pb.WatchCreateRequest) -> AsyncIterator[Store]:
        await self.send(pb.WatchRequest(create_request=request))
        yield self

    async def send(self, request: pb.WatchRequest) -> None:
        if request.HasField("create_request"):
            create = request.create_request
            id_, self._ids = self._ids, self._ids + 1
            refusal = self.refuses
            head = pb.ResponseHeader(revision=self.revision)
            answer = pb.WatchResponse(header=head, watch_id=id_, created=True, canceled=bool(refusal))
            answer.cancel_reason = refusal
            self._send(answer)
            self._behind[id_] = create.key, create.start_revision
        elif request.HasField("progress_request"):
            self.asked += 1
            if self.is_proxied:
                return
            if self.is_early:
                self._out.appendleft((0.0, pb.WatchResponse(header=header(), watch_id=-1)))
            elif not self._behind:
                self._send(pb.WatchResponse(header=header(), watch_id=-1))

    async def answer(self) -> pb.WatchResponse:
        if self.is_silent and not self._out:
            await trio.sleep_forever()
        if self._chance.random() < 0.5:
            self._round()
        while not self._out:
            await trio.sleep(0.1)  # fixed: by the clock of the test
            self._round()
        await trio.sleep_until(self._out[0][0])
        return self._out.popleft()[1]

    def _send(self, answer: pb.WatchResponse) -> None:
        self._out.append((trio.current_time() + self.pause, answer))

    def _round(self) -> None:
        behind = list(self._behind.items())
        self._chance.shuffle(behind)
        for id_, (key, start) in behind:
            if start < self.compacted_to:
                compacted = self.compacted_to
                self._send(pb.WatchResponse(watch_id=id_, canceled=True, compact_revision=compacted))
                del self._behind[id_]
                continue
            all_ = self.revisions if key == KEY else [self.known]
            rest = [each for each in all_ if each >= start]
            if rest:
                answer = pb.WatchResponse(header=header(), watch_id=id_)
                for each in rest[: self.most]:
                    answer.events.add(kv=kv_pb2.KeyValue(key=key, mod_revision=each))
                self._send(answer)
            if len(rest) > self.most:
                self._behind[id_] = key, rest[self.most]
            else:
                del self._behind[id_]


def header() -> pb.ResponseHeader:
    return pb.ResponseHeader(revision=LAST)


async def revisions(store: Store, start: int = 1) -> list[int]:
    """What is told of the key."""
    request = pb.WatchCreateRequest(key=KEY, start_revision=start)
    return [
        event.kv.mod_revision
        async for answer in told(cast("V3Client", store), request, LAST)
        for event in answer.events
    ]


@pytest.mark.parametrize(
    "version", ["3.4.23", "3.4.30", "3.5.12", "3.4.31", "3.5.13", "3.6.0", "3.6.0-rc.1", ""]
)
async def test_all_of_the_past_is_told(version: str, autojump_clock: MockClock) -> None:
    for seed in range(20):
        wanted = sorted(random.Random(seed).sample(range(2, LAST - 1), seed % 8))  # noqa: S311 - repeatable
        assert await revisions(Store(wanted, version=version, seed=seed)) == wanted
        store = Store(wanted, version=version, seed=seed)
        store.compacted_to = 50
        assert await revisions(store, 51) == [each for each in wanted if each > 50]
        if wanted:  # its own events are known changes
            store = Store(wanted, version=version, seed=seed, known=0)
            store.denies = bool(seed % 2)
            assert await revisions(store) == wanted


@pytest.mark.parametrize("version", ["3.4.23", "3.5.30"])
async def test_a_slow_store_tells_all_states_of_a_deleted_key(
    version: str, autojump_clock: MockClock
) -> None:
    store = Store([5, 9], version=version)
    store.pause = 2.5
    past = await KeySpace(cast("V3Client", store)).past(KEY, 100)
    assert ([each.mod_revision for each in past.states], past.last) == ([5, 9], LAST)


async def test_a_store_that_is_not_as_far_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    store = Store([5], version="3.5.30")
    behind = [pb.ResponseHeader(revision=LAST - 1)] * 3
    real = Store.answer

    async def lagging(self: Store) -> pb.WatchResponse:
        answer = await real(self)
        if answer.watch_id == -1 and behind:
            answer.header.CopyFrom(behind.pop())
        return answer

    monkeypatch.setattr(Store, "answer", lagging)
    assert await revisions(store) == [5]
    assert (store.asked >= 4, behind) == (True, [])


@pytest.mark.parametrize("version", ["3.4.23", "3.5.30"])
async def test_a_past_without_an_end_fails_in_words(version: str, autojump_clock: MockClock) -> None:
    store = Store([5], version=version)
    store.is_silent = True
    with pytest.raises(BadAnswer, match="the store has told nothing more of its history for 60 s") as caught:
        await revisions(store)
    assert caught.value.fix == "repeat this later, or at another member"


async def test_a_store_behind_a_proxy_that_drops_requests_for_progress(autojump_clock: MockClock) -> None:
    for seed in range(20):
        wanted = sorted(random.Random(seed).sample(range(2, LAST - 1), seed % 8))  # noqa: S311 - repeatable
        for known in {7, 7 * (not wanted)}:
            store = Store(wanted, version="3.5.30", seed=seed, known=known)
            store.is_proxied = True
            begun = trio.current_time()
            assert await revisions(store) == wanted
            assert trio.current_time() - begun < 10


async def test_a_long_past_that_still_arrives_is_not_cut(autojump_clock: MockClock) -> None:
    for version in ("3.4.23", "3.5.30"):
        store = Store(range(2, LAST - 1), version=version)
        store.most = 1
        real = store._round

        async def slow(real: Callable[[], None] = real, store: Store = store) -> pb.WatchResponse:
            while not store._out:
                await trio.sleep(3)  # fixed: by the clock of the test
                real()
            return store._out.popleft()[1]

        store.answer = slow  # type: ignore[method-assign]  # slowed down
        begun = trio.current_time()
        assert await revisions(store) == list(range(2, LAST - 1))
        assert trio.current_time() - begun > 200


async def test_watches_made_before_the_store_has_the_revision_prove_nothing(
    autojump_clock: MockClock,
) -> None:
    store = Store([5], version="3.4.23")
    store.revision = LAST - 1
    with pytest.raises(BadAnswer, match="nothing more of its history for 60 s"):
        await revisions(store)


async def test_an_etcd_that_cannot_prove_it_is_told(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    store = Store([], version="3.4.23", known=0)
    monkeypatch.setattr(Store, "answer", _created_only)
    with pytest.raises(BadAnswer, match=r"cannot prove that there is nothing: it is etcd 3\.4\.23") as caught:
        await revisions(store)
    assert "a user who may read some key" in caught.value.fix


async def _created_only(self: Store) -> pb.WatchResponse:
    if self._out:
        return self._out.popleft()[1]
    await trio.sleep_forever()
    raise AssertionError


async def test_a_watch_that_is_refused_is_told(autojump_clock: MockClock) -> None:
    store = Store([5], version="3.5.30")
    store.refuses = "permission denied"
    with pytest.raises(BadAnswer, match="ended the watch: permission denied"):
        await revisions(store)


async def test_what_is_compacted_meanwhile_is_the_only_answer(autojump_clock: MockClock) -> None:
    store = Store([5], version="3.5.30")
    store.compacted_to = 50
    request = pb.WatchCreateRequest(key=KEY, start_revision=1)
    answers = [answer async for answer in told(cast("V3Client", store), request, LAST)]
    assert [answer.compact_revision for answer in answers] == [50]
