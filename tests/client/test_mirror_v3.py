"""A mirror is equal to its source at the end, whatever happened on the way; real stores on both sides."""

from __future__ import annotations

import random
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from netstore.client import mirror, mirror_v3
from netstore.client.faults import Unreachable
from netstore.client.grpc import Channel
from netstore.client.mirror import NotMirrored, OneWay, Proof, Told
from netstore.client.mirror_v3 import Mirror, Scope
from netstore.client.v3 import V3Client
from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client as SyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.twins import Twins

ALL = Scope(b"", b"", b"mirrored")
LIMIT = 20.0
UNSHOWN = "SOURCE does not show the last change that was copied, .* it cannot be shown that SOURCE"
"""How a source is refused that has compacted, or forgotten, the last change."""


@pytest.fixture(
    scope="module",
    params=[pytest.param("etcd", marks=[pytest.mark.peer("etcd"), pytest.mark.slow]), "netstored"],
)
def stores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, Daemon]]:
    """A source, and a netstored as the target."""
    start = start_etcd if request.param == "etcd" else start_netstored
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    with start(one) as source, start_netstored(other) as target:
        yield source, target


@asynccontextmanager
async def open_clients(*stores: Daemon) -> AsyncIterator[tuple[V3Client, V3Client]]:
    """Clients of both."""
    async with trio.open_nursery() as nursery:
        one, other = (V3Client(Channel(nursery, daemon.url)) for daemon in stores)
        yield one, other
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def clients(stores: tuple[Daemon, Daemon]) -> AsyncIterator[tuple[V3Client, V3Client]]:
    """Clients of both, of stores that have no key."""
    async with open_clients(*stores) as both:
        for client in both:
            request = pb.TxnRequest()
            gone = request.success.add().request_delete_range
            gone.key = gone.range_end = b"\0"
            await client.txn(request)
        yield both


async def put(client: V3Client, *pairs: tuple[bytes, bytes | None]) -> int:
    request = pb.TxnRequest()
    for key, value in pairs:
        operation = request.success.add()
        if value is None:
            operation.request_delete_range.key = key
        else:
            operation.request_put.key, operation.request_put.value = key, value
    return (await client.txn(request)).header.revision


async def content(client: V3Client, checkpoint: bytes = ALL.checkpoint) -> dict[bytes, bytes]:
    answer = await client.range(pb.RangeRequest(key=b"\0", range_end=b"\0"))
    return {pair.key: pair.value for pair in answer.kvs if pair.key != checkpoint}


async def compact(client: V3Client, revision: int) -> None:
    request = pb.CompactionRequest(revision=revision, physical=True).SerializeToString()
    await client.channel.unary("/etcdserverpb.KV/Compact", request, write=True)


class Log:
    """What a mirror tells."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.troubles: list[str] = []
        self._changed = trio.Event()

    def __call__(self, told: Told) -> None:
        self.told.append(told)
        self._changed.set()

    def trouble(self, text: str) -> None:
        self.troubles.append(text)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(seconds(LIMIT)):
            while not condition():
                self._changed = trio.Event()
                await self._changed.wait()

    async def reached(self, revision: int) -> None:
        await self.until(lambda: bool(self.told) and self.told[-1].revision >= revision)


def run(work: Callable[[], Any]) -> None:
    async def limited() -> None:
        with trio.fail_after(seconds(3 * LIMIT)):
            await work()

    trio.run(limited)


def mirrored(one: V3Client, other: V3Client, log: Log, scope: Scope = ALL, **more: Any) -> Mirror:
    more.setdefault("notice", log.trouble)
    return Mirror(one, other, scope, log, log.trouble, **more)


async def compare(work: OneWay) -> None:
    """Compare all, after a proof."""
    await work._compare(await work._prove())


async def shows_last(work: OneWay) -> bool:
    return await work._shows_last(Proof(work._breaks))


def test_it_copies_once(stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_v3, "FIRST_PAGE", 7)
    monkeypatch.setattr(mirror_v3, "MOST_BYTES", 5_000)

    async def work() -> None:
        async with clients(stores) as (one, other):
            for start in range(0, 250, 50):
                await put(
                    one, *((b"k%03d" % number, b"v" * number * 3) for number in range(start, start + 50))
                )
            log = Log()
            await mirrored(one, other, log).copy()
            assert await content(other) == await content(one)
            assert log.told[-1].written == 250
            revision = await put(one, (b"k001", b"new"), (b"k002", None), (b"z", b""))
            await mirrored(one, other, log).copy()
            assert await content(other) == await content(one)
            assert log.told[-1] == Told(revision, 2, 1)

    run(work)


def test_it_follows_and_goes_on_where_it_was(stores: tuple[Daemon, Daemon]) -> None:
    chance = random.Random(5)  # noqa: S311 - repeatable

    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"before", b"1"))
            for _ in range(3):
                log = Log()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(mirrored(one, other, log).follow)
                    revision = 0
                    for _ in range(40):
                        keys = {b"k%d" % chance.randrange(20) for _ in range(chance.randrange(1, 9))}
                        pairs = (
                            (key, None if chance.random() < 0.3 else b"%d" % chance.randrange(99))
                            for key in keys
                        )
                        revision = await put(one, *pairs, (b"last", b"%d" % chance.randrange(999_999)))
                    await log.reached(revision)
                    assert await content(other) == await content(one)
                    nursery.cancel_scope.cancel()
                await put(one, (b"while it was away", b"%d" % chance.randrange(999)))

    run(work)


def test_what_was_compacted_while_it_was_away_is_compared(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"), (b"gone", b"1"))
            await mirrored(one, other, Log()).copy()
            await put(one, (b"gone", None))
            revision = await put(one, (b"b", b"2"))
            await compact(one, revision)
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log).follow)
                await log.reached(revision)
                assert await content(other) == {b"a": b"1", b"b": b"2"}
                nursery.cancel_scope.cancel()

    run(work)


def counted(monkeypatch: pytest.MonkeyPatch, kind: type[OneWay], *methods: str) -> list[str]:
    """The calls of methods of a mirror, which do what they did."""
    calls: list[str] = []

    def count(method: str) -> None:
        do = getattr(kind, method)

        async def counting(self: OneWay, *more: Any) -> Any:
            calls.append(method)
            return await do(self, *more)

        monkeypatch.setattr(kind, method, counting)

    for method in methods:
        count(method)
    return calls


def test_a_source_is_asked_once_after_a_new_connection(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs = counted(monkeypatch, Mirror, "_shows_last")

    async def work() -> None:
        async with clients(stores) as (one, other), open_clients(*stores) as (again, _):
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            log = Log()
            following = mirrored(one, other, log)
            await following._begin()
            following._source = again  # not connected yet
            proofs.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(following._follow)
                await log.reached(await put(one, (b"b", b"1")))
                nursery.cancel_scope.cancel()
            assert len(proofs) == 1
            assert log.troubles == []

    run(work)


def test_a_prefix_in_the_place_of_another(stores: tuple[Daemon, Daemon]) -> None:
    scope = Scope(b"/a/", b"/copy/", b"checkpoint")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"/a/x", b"1"), (b"/b/x", b"2"))
            await put(other, (b"own", b"stays"))
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log, scope).follow)
                await log.until(lambda: len(log.told) >= 2)
                revision = await put(one, (b"/a/y", b"3"), (b"/b/y", b"4"))
                await log.reached(revision)
                nursery.cancel_scope.cancel()
            assert await content(other, b"checkpoint") == {
                b"/copy/x": b"1",
                b"/copy/y": b"3",
                b"own": b"stays",
            }

    run(work)


def test_a_key_that_would_have_no_name_is_refused(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            scope = Scope(b"/f/", b"", b"c")
            await put(one, (b"/f/a", b"1"))
            refused = pytest.raises(NotMirrored, match=r"the key '/f/' of SOURCE .* by --target-prefix")
            async with trio.open_nursery() as nursery:
                log = Log()

                async def follow() -> None:
                    with refused:
                        await mirrored(one, other, log, scope).follow()

                nursery.start_soon(follow)
                await log.reached(1)
                await put(one, (b"/f/", b"1"))
            with pytest.raises(NotMirrored, match=r"the key '/f/' of SOURCE .* by --target-prefix"):
                await mirrored(one, other, Log(), scope).copy()
            with pytest.raises(NotMirrored, match=r"the key '/f/' of SOURCE .* by --target-prefix"):
                await mirrored(one, other, Log(), scope).follow()
            await put(one, (b"/f/", None))
            again = mirrored(one, other, Log(), scope)
            await again._begin()
            await again._add(Proof(again._breaks), mirror_v3._Batch(), b"", b"1")  # an event of the past
            await again.copy()
            assert await content(other, b"c") == {b"a": b"1"}

    run(work)


def test_what_is_there_is_kept_unless_it_may_be_replaced(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            await put(other, (b"theirs", b"x"))
            with pytest.raises(NotMirrored, match="TARGET has keys already, such as 'theirs'"):
                await mirrored(one, other, Log()).copy()
            assert await content(other) == {b"theirs": b"x"}
            await mirrored(one, other, Log(), overwrite=True).copy()
            assert await content(other) == {b"a": b"1"}

    run(work)


def test_a_checkpoint_of_something_else_is_refused(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await mirrored(one, other, Log(), Scope(b"/a/", b"/a/", b"c")).copy()
            with pytest.raises(NotMirrored, match=r"is a mirror of cluster .*, prefix '/a/'"):
                await mirrored(one, other, Log(), Scope(b"/b/", b"/b/", b"c")).copy()
            await put(other, (b"c", b"text"))
            with pytest.raises(NotMirrored, match="TARGET has something else in that key"):
                await mirrored(one, other, Log(), Scope(b"/b/", b"/b/", b"c")).copy()

    run(work)


@pytest.mark.parametrize(
    "changed",
    [
        {"keys": "xy"},
        {"keys": "2f\n"},
        {"revision": -1},
        {"revision": 2**63},
        {"sequence": -1},
        {"witness": {"key": "2", "revision": 3, "created": 3}},
        {"witness": {"key": "61", "revision": 3, "created": 3}},
        {"witness": {"key": "2f", "revision": 2**64, "created": 3}},
        {"witness": {"key": "2f", "revision": 3, "created": -3}},
        {"witness": {"key": "2f", "revision": 3, "created": 3, "version": 2**63}},
    ],
)
def test_a_damaged_checkpoint_is_refused(changed: dict[str, Any]) -> None:
    sound = mirror.Checkpoint("1", "2f", 4, "w", 1, witness=mirror.Witness("2f", 3, 3))
    assert mirror.parse_checkpoint(msgspec.json.encode(sound), "'c'", "1", b"/") == sound
    damaged = msgspec.json.encode(msgspec.to_builtins(sound) | changed)
    with pytest.raises(NotMirrored, match=r"checkpoint 'c': TARGET has something else .* is damaged"):
        mirror.parse_checkpoint(damaged, "'c'", "1", b"/")


def test_a_store_is_not_copied_into_itself(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, _):
            with pytest.raises(NotMirrored, match="SOURCE and TARGET are the same store"):
                await mirrored(one, one, Log()).copy()
            with pytest.raises(NotMirrored, match="SOURCE and TARGET are the same store"):
                await mirrored(one, one, Log(), Scope(b"/a/", b"/b/", b"/a/c")).copy()
            assert await content(one, b"") == {}, "the checkpoint was removed again"
            await put(one, (b"/a/x", b"1"))
            await mirrored(one, one, Log(), Scope(b"/a/", b"/b/", b"c")).copy()
            assert (await content(one, b"c"))[b"/b/x"] == b"1"

    run(work)


def test_what_shows_that_two_are_one_store_is_written_again_where_it_was_removed(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, _):
            txn, calls = one.txn, []

            async def remove_first(request: pb.TxnRequest) -> pb.TxnResponse:
                answer = await txn(request)
                calls.append(request)
                if len(calls) == 1:
                    await put(one, (request.success[0].request_put.key, None))
                return answer

            monkeypatch.setattr(one, "txn", remove_first)
            with pytest.raises(NotMirrored, match="SOURCE and TARGET are the same store"):
                await mirrored(one, one, Log()).copy()
            assert await content(one, b"") == {}

    run(work)


def test_what_a_run_has_left_that_was_to_show_whether_two_are_one_is_no_key_to_lose(
    alike: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with open_clients(*alike) as (one, other):
            txn = other.txn

            async def put_and_end(request: pb.TxnRequest) -> pb.TxnResponse:
                await txn(request)
                raise KeyboardInterrupt

            monkeypatch.setattr(other, "txn", put_and_end)
            for _ in range(12):
                with pytest.raises(KeyboardInterrupt):
                    await mirrored(one, other, Log()).copy()
            monkeypatch.setattr(other, "txn", txn)
            assert len(await content(other)) == 12
            await put(one, (b"k", b"1"))
            assert await mirrored(one, other, Log())._is_bare()
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one)
            assert not await mirrored(one, other, Log())._is_bare()

    run(work)


def test_two_stores_that_were_begun_with_the_same_flags_are_two(
    alike: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with open_clients(*alike) as (one, other):
            headers = [
                (await each.range(pb.RangeRequest(key=b"x"))).header.cluster_id for each in (one, other)
            ]
            assert headers[0] == headers[1]
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            await put(one, (b"b", b"1"))
            kept = mirrored(one, other, Log())
            await kept.copy()
            assert await content(other) == await content(one) == {b"a": b"1", b"b": b"1"}
            with pytest.raises(NotMirrored, match="SOURCE and TARGET are the same store"):
                await mirrored(other, other, Log()).copy()
            assert await content(other) == await content(one)
            await kept._save()

    run(work)


def test_a_source_that_went_back_does_not_empty_the_target(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            # As if the source had been at a later revision, with another key, when it was copied last.
            ahead = mirrored(one, other, Log())
            await ahead._begin()
            await ahead._write(
                Proof(ahead._breaks), [(b"last copy", b"1")], ahead.copied + 100_000, ahead._witness
            )
            wanted = rf"SOURCE went back from revision {ahead.copied} to \d+: .* with --overwrite to let"
            for work in (mirrored(one, other, Log()).copy, mirrored(one, other, Log()).follow):
                with pytest.raises(NotMirrored, match=wanted):
                    await work()
            assert await content(other) == {b"a": b"1", b"last copy": b"1"}

    run(work)


def test_a_source_that_goes_back_while_it_is_copied_is_refused(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            first = mirrored(one, other, Log())
            await first._begin()
            await first._write(Proof(first._breaks), [(b"copied", b"1")], 0, None)
            first._seen += 100_000
            with pytest.raises(NotMirrored, match="SOURCE went back"):
                await compare(first)
            assert await content(other) == {b"copied": b"1"}
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            following._seen += 100_000
            with pytest.raises(NotMirrored, match="SOURCE went back"):
                await following._follow()

    run(work)


def test_a_target_that_may_go_back_is_compared(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            # As if the source had been at a later revision, with another key, when it was copied last.
            ahead = mirrored(one, other, Log())
            await ahead._begin()
            await ahead._write(
                Proof(ahead._breaks), [(b"lost", b"1")], ahead.copied + 100_000, ahead._witness
            )
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log, overwrite=True).follow)
                await log.until(lambda: bool(log.told) and 0 < log.told[-1].revision < 100_000)
                assert "made equal to it all the same" in log.troubles[0]
                assert await content(other) == {b"a": b"1"}
                revision = await put(one, (b"b", b"2"))
                await log.reached(revision)
                assert await content(other) == {b"a": b"1", b"b": b"2"}
                nursery.cancel_scope.cancel()

    run(work)


def test_another_cluster_is_not_copied(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            work = mirrored(one, other, Log())
            await work._begin()
            work._source = other
            with pytest.raises(NotMirrored, match="another cluster answers at the address of the source"):
                await compare(work)

    run(work)


def write_keys(daemon: Daemon, prefix: bytes, count: int) -> None:
    """Write as many keys, each at a revision of its own."""
    client = SyncClient(daemon.url)
    for number in range(count):
        client.kv.Put(pb.PutRequest(key=b"%s%d" % (prefix, number), value=prefix))
    client.close()


def test_a_source_that_was_begun_anew_is_told_from_the_one_before(twins: Twins) -> None:
    write_keys(source := twins.begin(), b"first", 5)

    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await mirrored(one, other, Log()).copy()

    run(copy)
    write_keys(source := twins.begin(), b"second", 9)
    wanted = (
        "the key 'first4' was version 1 at revision 6, .* SOURCE it was not there: SOURCE is not the store"
    )

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            for work in (mirrored(one, other, Log()).copy, mirrored(one, other, Log()).follow):
                with pytest.raises(NotMirrored, match=wanted):
                    await work()
            assert set(await content(other)) == {b"first%d" % number for number in range(5)}
            await compact(one, 8)
            with pytest.raises(NotMirrored, match=UNSHOWN):
                await mirrored(one, other, Log()).copy()
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log, overwrite=True).follow)
                await log.reached(10)
                await log.until(lambda: log.told[-1].deleted == 5)
                assert await content(other) == await content(one)
                nursery.cancel_scope.cancel()

    run(refused)


def test_a_source_that_is_replaced_while_it_is_followed_ends_the_mirror(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.05,))
    write_keys(source := twins.begin(), b"first", 5)

    async def work() -> None:
        async with open_clients(source, twins.target) as (one, other):
            log = Log()
            ended: list[NotMirrored] = []

            async def follow() -> None:
                try:
                    await mirrored(one, other, log).follow()
                except NotMirrored as error:
                    ended.append(error)
                log.trouble("ended")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await log.reached(6)
                await trio.to_thread.run_sync(
                    lambda: twins.begin(write=lambda hidden: write_keys(hidden, b"second", 20))
                )
                await log.until(lambda: "ended" in log.troubles)
            assert "SOURCE is not the store that was copied" in str(ended[0])
            assert set(await content(other)) == {b"first%d" % number for number in range(5)}

    run(work)


def test_a_source_that_was_put_back_to_a_copy_is_told_from_the_one_before(twins: Twins) -> None:
    write_keys(twins.begin(), b"shared", 3)
    before = twins.copy("before")
    write_keys(source := twins.begin(of=before), b"first", 5)

    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await mirrored(one, other, Log()).copy()

    run(copy)
    write_keys(source := twins.begin(of=before), b"second", 9)

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            with pytest.raises(NotMirrored, match="SOURCE is not the store that was copied"):
                await mirrored(one, other, Log()).copy()
            await compact(one, 12)
            with pytest.raises(NotMirrored, match=UNSHOWN):
                await mirrored(one, other, Log()).copy()

    run(refused)


async def rewrite(client: V3Client, **changed: Any) -> None:
    """Change the checkpoint."""
    found = (await client.range(pb.RangeRequest(key=ALL.checkpoint))).kvs[0].value
    state = msgspec.json.decode(found, type=mirror.Checkpoint)
    await put(client, (ALL.checkpoint, msgspec.json.encode(msgspec.structs.replace(state, **changed))))


def test_a_deletion_that_was_copied_last_is_a_witness(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            created = await put(one, (b"a", b"1"), (b"b", b"1"))
            log = Log()
            async with trio.open_nursery() as nursery:
                first = mirrored(one, other, log)
                nursery.start_soon(first.follow)
                await log.reached(created)
                revision = await put(one, (b"a", None))
                await log.reached(revision)
                await log.until(lambda: first._standby is not None)
                nursery.cancel_scope.cancel()
            following = mirrored(one, other, Log())
            await following._begin()
            witness = following._witness
            assert witness == mirror.Witness(b"a".hex(), revision, created, 1)
            assert await shows_last(following)
            for changed, found in (
                ({"created": created - 1}, rf"was deleted .* SOURCE it was created at revision {created}"),
                ({"revision": created}, "SOURCE it was still there"),
                ({"key": b"x".hex()}, "SOURCE it was not there before"),
            ):
                following._witness = msgspec.structs.replace(witness, **changed)
                with pytest.raises(mirror.Another, match=found):
                    await shows_last(following)
            following._witness = witness
            await compact(one, await put(one, (b"c", b"1")))
            assert following._standby is not None
            assert bytes.fromhex(following._standby.key) == b"b"
            assert await shows_last(following), "by the newest key, so that all is to be compared"
            assert following._is_behind
            following._standby = None
            assert not await shows_last(following), "it is compacted, and the key is not there"
            following._witness = msgspec.structs.replace(witness, key=b"b".hex())
            with pytest.raises(mirror.Another, match="SOURCE it was still there"):
                await shows_last(following)

    run(work)


def test_a_witness_that_is_compacted_is_shown_by_its_key_alone(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"old", b"1"))
            await put(one, (b"last", b"1"))
            await mirrored(one, other, Log()).copy()
            await compact(one, await put(one, (b"new", b"1")))
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one), "its key was not changed since"
            before = await content(other)
            await compact(one, await put(one, (b"new", b"1")))
            for way in ("copy", "follow"):
                with pytest.raises(mirror.Another, match=r"of the key 'new' .*it cannot be shown that"):
                    await getattr(mirrored(one, other, Log()), way)()
            assert await content(other) == before, "though older keys are as they were"
            await mirrored(one, other, Log(), overwrite=True).copy()
            assert await content(other) == await content(one)
            await mirrored(one, other, Log()).copy()

    run(work)


def test_a_store_that_begins_with_the_same_keys_is_refused(twins: Twins) -> None:
    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await put(one, (b"config", b"1"))
            for number in range(20):
                await put(one, (b"precious%d" % number, b"1"))
            await mirrored(one, other, Log()).copy()

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await put(one, (b"config", b"1"))
            for number in range(60):
                revision = await put(one, (b"busy", b"%d" % number))
            await compact(one, revision)
            with pytest.raises(NotMirrored, match=UNSHOWN):
                await mirrored(one, other, Log()).copy()
            assert len(await content(other)) == 21

    source = twins.begin()
    run(copy)
    source = twins.begin()
    run(refused)


def test_a_source_put_back_after_a_comparison_that_was_interrupted_is_refused(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v3, "MOST_OPERATIONS", 2)
    write_keys(source := twins.begin(), b"base", 5)

    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await mirrored(one, other, Log()).copy()

    async def interrupted() -> None:
        async with open_clients(source, twins.target) as (one, other):
            work = mirrored(one, other, Log())
            write = work._write

            async def write_once(proof: Proof, changes: Any, *more: Any, **others: Any) -> None:
                await write(proof, changes, *more, **others)
                if changes:
                    raise KeyboardInterrupt

            monkeypatch.setattr(work, "_write", write_once)
            with pytest.raises(KeyboardInterrupt):
                await work.copy()
            checkpoint = (await other.range(pb.RangeRequest(key=ALL.checkpoint))).kvs[0].value
            newest = (await one.range(pb.RangeRequest(key=b"x"))).header.revision
            assert msgspec.json.decode(checkpoint)["seen"] == newest

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            before = await content(other)
            for way in ("copy", "follow"):
                with pytest.raises(NotMirrored, match=r"SOURCE went back from revision \d+ to"):
                    await getattr(mirrored(one, other, Log()), way)()
            assert await content(other) == before

    run(copy)
    old = twins.copy("old")
    write_keys(source := twins.begin(of=old), b"a", 20)
    run(interrupted)
    source = twins.begin(of=old)
    run(refused)


def test_a_checkpoint_without_a_witness_is_refused_where_there_is_something_to_lose(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            await rewrite(other, witness=None, standby=None)
            for way in ("copy", "follow"):
                with pytest.raises(mirror.Another, match="not known which change of SOURCE was copied last"):
                    await getattr(mirrored(one, other, Log()), way)()
            await put(other, (b"a", None))
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one)

    run(work)


def test_a_source_that_compacts_during_a_comparison_is_compared_again_by_the_same_proof(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    do, compared = Mirror._compare, list[int]()

    async def compare_slowly(self: Mirror, proof: Proof) -> None:
        await do(self, proof)
        compared.append(1)
        if len(compared) == 1:
            await compact(self._source, await put(self._source, (b"lease", b"again")))
            await compact(self._source, await put(self._source, (b"lease", b"and again")))

    monkeypatch.setattr(Mirror, "_compare", compare_slowly)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"lease", b"0"))
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log).follow)
                await log.until(lambda: len(compared) == 2)
                await log.reached(await put(one, (b"last", b"1")))
                nursery.cancel_scope.cancel()
            assert await content(other) == await content(one)
            assert log.troubles == []

    run(work)


def test_fragments_of_an_answer_advance_the_copy_with_the_last_one(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            before, witness = following.copied, following._witness
            revision = await put(one, (b"x", b"1"), (b"y", b"1"))
            answers = [pb.WatchResponse(fragment=True), pb.WatchResponse()]
            for answer, key in zip(answers, (b"x", b"y"), strict=True):
                answer.header.revision = revision
                answer.events.add().kv.CopyFrom((await one.range(pb.RangeRequest(key=key))).kvs[0])
            proof = Proof(following._breaks)
            await following._take(proof, answers[0])
            assert (await content(other))[b"x"] == b"1"
            assert (following.copied, following._witness) == (before, witness)
            assert following._seen == revision, "if it is interrupted here, a source that is older is refused"
            await following._take(proof, answers[1])
            assert following.copied == revision
            assert await content(other) == await content(one)

    run(work)


@pytest.mark.slow
@pytest.mark.peer("etcd")
def test_more_missed_changes_than_a_message_holds(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()

    async def work() -> None:
        async with open_clients(source, target) as (one, other):
            await put(one, (b"base", b"1"))
            await mirrored(one, other, Log()).copy()
            for number in range(80):
                revision = await put(one, (b"k%d" % (number % 8), b"%d" % number + b"x" * 1_000_000))
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log).follow)
                await log.reached(revision)
                nursery.cancel_scope.cancel()
            assert await content(other) == await content(one)

    with start_etcd(tmp_path / "one") as source, start_netstored(tmp_path / "other") as target:
        run(work)


def test_what_was_changed_between_witness_and_checkpoint_is_copied_again(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            # As if the source had been put back to a state after the witness, and changed since.
            revision = await put(one, (b"b", b"1"))
            await rewrite(other, revision=revision)
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log).follow)
                await log.until(lambda: bool(log.told) and log.told[-1].written == 1)
                nursery.cancel_scope.cancel()
            assert await content(other) == await content(one)

    run(work)


def test_a_comparison_that_was_interrupted_is_done_by_the_next_run(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v3, "MOST_OPERATIONS", 1)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a", b"1"))
            await mirrored(one, other, Log()).copy()
            # As if the source had been put back to a state after the witness, and changed since.
            revision = await put(one, (b"z", b"1"))
            await rewrite(other, revision=revision)
            await put(one, (b"b", b"1"))
            killed = mirrored(one, other, Log())
            write = killed._write

            async def write_once(proof: Proof, changes: Any, *more: Any, **others: Any) -> None:
                await write(proof, changes, *more, **others)
                if changes:
                    raise KeyboardInterrupt

            monkeypatch.setattr(killed, "_write", write_once)
            with pytest.raises(KeyboardInterrupt):
                await killed.copy()
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log).follow)
                await log.until(lambda: bool(log.told) and log.told[-1].written == 1)
                nursery.cancel_scope.cancel()
            assert await content(other) == await content(one)
            last = mirrored(one, other, Log())
            await last._begin()
            assert not last._is_behind, "it was complete"

    run(work)


def test_a_change_that_is_replayed_without_a_witness_is_written(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(other, (b"gone", b"1"))
            following = mirrored(one, other, Log(), overwrite=True)
            await following._begin()
            await following._write(Proof(following._breaks), [], 100_000, None)
            revision = await put(one, (b"gone", b"1"), (b"stays", b"1"))
            answer = pb.WatchResponse()
            answer.header.revision = await put(one, (b"gone", None))
            await compact(one, await put(one, (b"stays", b"2")))
            event = answer.events.add(type=1)
            event.kv.key, event.kv.mod_revision = b"gone", revision + 1
            await following._take(Proof(following._breaks), answer)
            assert following._witness is None
            assert await content(other) == {}

    run(work)


def test_a_prefix_without_changes_is_followed_from_the_checkpoint(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, Mirror, "_compare")
    scope = Scope(b"a/", b"a/", b"mirrored")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, (b"a/quiet", b"1"))
            await put(one, (b"b", b"1"))
            newest = await put(one, (b"b", b"2"))
            await mirrored(one, other, Log(), scope).copy()
            await compact(one, newest)
            calls.clear()
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, other, log, scope).follow)
                await log.reached(await put(one, (b"a/new", b"1")))
                nursery.cancel_scope.cancel()
            assert calls == [], "the witness is compacted, and the checkpoint is not"
            assert await content(other) == {b"a/quiet": b"1", b"a/new": b"1"}

    run(work)


def test_a_range_without_keys_is_followed(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            for number in range(2):
                log = Log()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(mirrored(one, other, log).follow)
                    await log.reached(1)
                    if number:
                        await log.reached(await put(one, (b"a", b"1")))
                    nursery.cancel_scope.cancel()
            assert await content(other) == {b"a": b"1"}

    run(work)


class Doubtful(V3Client):
    """A target that carries out each second transaction and does not say so, or says nothing and does not."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.count = 0

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        self.count += 1
        if self.count % 3 == 1:
            await super().txn(request)
        if self.count % 3:
            raise Unreachable([("target", "lost")], outcome_known=False)
        return await super().txn(request)


def test_writes_whose_outcome_is_not_told_are_done_once(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.01,))
    monkeypatch.setattr(mirror_v3, "MOST_OPERATIONS", 3)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await put(one, *((b"k%d" % number, b"v") for number in range(20)))
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mirrored(one, Doubtful(other.channel), log).follow)
                revision = await put(one, (b"k3", None), (b"k4", b"w"))
                await log.reached(revision)
                assert await content(other) == await content(one)
                nursery.cancel_scope.cancel()
            assert "target" in log.troubles[0]
            assert "" in log.troubles, "that it goes on is told too"

    run(work)


def test_two_mirrors_do_not_write_into_each_other(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            first, second = mirrored(one, other, Log()), mirrored(one, other, Log())
            await first.copy()
            await second.copy()
            with pytest.raises(NotMirrored, match="another mirror writes into TARGET"):
                await first._write(Proof(first._breaks), [(b"x", b"y")], 5, None)
            assert await content(other) == {}

    run(work)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(start_etcd, marks=[pytest.mark.peer("etcd"), pytest.mark.slow], id="etcd"),
        start_netstored,
    ],
)
def test_transactions_are_as_long_as_the_target_takes_them(
    tmp_path: Path, start: Callable[..., Daemon]
) -> None:
    (tmp_path / "one").mkdir()

    async def work() -> None:
        async with open_clients(source, target) as (one, other):
            for number in range(3):
                await put(one, *((b"k%d%d" % (number, each), b"v" * 300) for each in range(100)))
            log = Log()
            await mirrored(one, other, log).copy()
            assert await content(other) == await content(one)
            assert log.told[-1].written == 300
            await put(one, (b"k00", None), (b"large", b"v" * 40_000))
            refusal = r"key 'large' does not get into TARGET, .* --max-request-bytes (\d+) or more"
            with pytest.raises(NotMirrored, match=refusal) as error:
                await mirrored(one, other, Log()).copy()
            least.append(re.findall(refusal, str(error.value))[0])

    async def again() -> None:
        async with open_clients(source, target) as (one, other):
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one)

    async def single() -> None:
        async with open_clients(source, target) as (one, other):
            await put(one, (b"one more", b"1"))
            with pytest.raises(NotMirrored, match=r"key 'one more' does not get .* --max-txn-ops 2 or more"):
                await mirrored(one, other, Log()).copy()

    least: list[str] = []
    with start_netstored(tmp_path / "one") as source:
        with start(tmp_path, "--max-txn-ops", "7", "--max-request-bytes", "20000") as target:
            run(work)
        with start(tmp_path, "--max-txn-ops", "2", "--max-request-bytes", least[0]) as target:
            run(again)
        with start(tmp_path, "--max-txn-ops", "1") as target:
            run(single)
