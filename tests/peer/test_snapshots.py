"""Snapshots over real sockets and files: complete, cut, damaged, refused; and what is left of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest
import trio

from netstore.disk import closer, snapshots
from netstore.disk.closer import Closer
from netstore.disk.engine import LmdbEngine
from netstore.disk.verification import verified_index
from netstore.errors import StateDamaged
from netstore.limits import Budget
from netstore.peer import snapshots as module
from netstore.peer.snapshots import SnapshotTransfers
from netstore.raft.entry import ConfState, SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import InstallSnapshot, MessageRefused
from netstore.types import Index, NodeId, Term
from tests.support.closing import held, unnamed, wait_for
from tests.support.links import eventually, running_reactor
from tests.support.peermembers import A, B, Member

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from netstore.net.reactor import Reactor

WISH = InstallSnapshot(A, B, Term(3), SnapshotMeta(Index(5), Term(2)))


class Machine:
    """The applied index of a member."""

    applied = Index(0)


class Compaction:
    """What was compacted of the log of a member."""

    compacted = Index(0)


class Sending:
    """Records what is said of snapshots that are sent, as `node.snapshotsending.SnapshotSending` is told."""

    def __init__(self, compaction: Compaction) -> None:
        self._compaction = compaction
        self.held = 0
        self.over: list[tuple[NodeId, bool]] = []
        self.refused: list[bool] = []
        self.moved: list[tuple[int, int]] = []

    def is_usable(self, index: Index) -> bool:
        return self._compaction.compacted <= index

    def begun(self, index: Index, peer: NodeId) -> SnapshotMeta:
        assert peer == B
        self.held += 1
        return self.made(index, peer)

    def sent(self, peer: NodeId, sent: int, size: int) -> None:
        assert peer == B
        self.moved.append((sent, size))

    def made(self, index: Index, peer: NodeId) -> SnapshotMeta:
        return SnapshotMeta(index, Term(2), ConfState(voters=(A,)))

    def ended(self, peer: NodeId, *, ok: bool, was_begun: bool = True, refused: bool = False) -> None:
        self.held -= was_begun
        self.over.append((peer, ok))
        self.refused.append(refused)


class Install:
    """Records the snapshots that arrive, as `node.snapshotinstall.SnapshotInstall` is given them."""

    def __init__(self) -> None:
        self.refuses = ""
        self.arrived: list[tuple[InstallSnapshot, Path]] = []

    def receive(self, message: InstallSnapshot, image: Path) -> None:
        if self.refuses:
            raise MessageRefused(self.refuses)
        self.arrived.append((message, image))


class Host:
    """What `node.host.Host` is for snapshots."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.compaction = Compaction()
        self.snapshot_sending = Sending(self.compaction)
        self.snapshot_install = Install()
        self.leader = A
        self.term = Term(3)


class Copier(Member):
    """A member with a state, and the transfers under test."""

    def __init__(self, reactor: Reactor, id_: NodeId, folder: Path) -> None:
        super().__init__(reactor, id_)
        folder.mkdir()
        self.folder = folder
        self.host: Any = Host()
        self.sending: Any = self.host.snapshot_sending
        self.install: Any = self.host.snapshot_install
        self.budget = Budget(1 << 24)
        self.engine = LmdbEngine(folder / "state.lmdb", reactor.call_soon, ("plain",), self._failed)
        self.closer = Closer()
        self.copies = SnapshotTransfers(
            folder, self.engine, self.peers, self.log, budget=self.budget, closer=self.closer
        )

    def _failed(self, error: OSError) -> None:
        raise error

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if not path.name.startswith("state.lmdb")}


@asynccontextmanager
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Copier, Copier]]:
    """A, whose state has applied 5 with a megabyte in it, and B, which has nothing."""
    async with running_reactor() as reactor:
        one, two = (Copier(reactor, id_, tmp_path / name) for id_, name in ((A, "a"), (B, "b")))
        for each in (one, two):
            each.addresses = {A: (one.url,), B: (two.url,)}
        one.engine.write(
            Index(5), {("plain", b"%d" % number): bytes([number]) * 1000 for number in range(250)}
        )
        async with trio.open_nursery() as nursery:
            for each in (one, two):
                nursery.start_soon(each.copies.run, each.host)
                nursery.start_soon(each.peers.run, each, each.copies)
            await trio.testing.wait_all_tasks_blocked()
            yield one, two
            nursery.cancel_scope.cancel()
        for each in (one, two):
            await trio.to_thread.run_sync(each.closer.stop)
            await trio.to_thread.run_sync(each.engine.close)


async def test_a_snapshot_arrives_complete_durable_and_under_its_name(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        arrived: list[tuple[str, int]] = []
        two.copies.on_received = lambda size: arrived.append(("moved", size))
        two.copies.on_verifying = lambda size: arrived.append(("verifying", size))
        one.copies.request(WISH)
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "it was sent")
        assert (one.sending.over, one.sending.held) == ([(B, True)], 0)
        [(message, image)] = two.install.arrived
        assert message.meta == SnapshotMeta(Index(5), Term(2), ConfState(voters=(A,)))
        assert (message.sender, message.to, message.term) == (A, B, Term(3))
        assert verified_index(image) == 5
        size = image.stat().st_size
        assert arrived[-2:] == [("moved", size), ("verifying", size)]
        assert arrived[:-1] == sorted(arrived[:-1])
        assert (one.sending.moved[0], one.sending.moved[-1]) == ((0, size), (size, size))
        assert one.sending.moved == sorted(one.sending.moved)
        assert two.files() == {image.name}
        await eventually(lambda: not two.budget.used, "none of its memory is charged any more")
        assert one.budget.used == 0
        assert one.files() == set()


async def gives_up(one: Copier, two: Copier, why: str) -> None:
    """A snapshot is requested, fails for this reason, and leaves nothing; the next one is delayed."""
    one.copies.request(WISH)
    await eventually(lambda: one.sending.over, "it was given up")
    assert (one.sending.over, one.sending.held, two.install.arrived) == ([(B, False)], 0, [])
    assert why in one.log.events("state_copy_not_sent")[0]
    await eventually(lambda: two.copies._receiving is None, "the receiver is free again")
    assert (one.files(), two.files()) == (set(), set())
    assert one.copies._pauses == {B: module.FIRST_PAUSE_SECONDS}


async def test_a_snapshot_with_a_refused_message_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (one, two):
        two.install.refuses = "a second leader"
        await gives_up(one, two, "a second leader")


async def test_a_snapshot_is_given_up_when_the_sender_no_longer_leads(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        one.host.term = Term(4)
        await gives_up(one, two, "does not lead in that term any more")


async def test_a_snapshot_is_given_up_when_the_log_after_it_was_compacted(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        one.host.compaction.compacted = Index(6)
        await gives_up(one, two, "exceeded its bound and was compacted")


async def test_a_log_compacted_while_the_snapshot_is_made_fails_the_snapshot_only(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        places = iter([True, False])
        one.sending.is_usable = lambda _: next(places)
        await gives_up(one, two, "is being replaced")
        assert one.sending.held == 0


async def test_no_snapshot_is_made_if_the_log_after_it_is_gone(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        one.sending.is_usable = lambda _: False
        await gives_up(one, two, "is being replaced")
        assert one.sending.held == 0


@pytest.mark.parametrize("place", ["receive", "made"])
async def test_must_stop_passes_through_a_transfer(tmp_path: Path, place: str) -> None:
    def broken(*_: object) -> NoReturn:
        raise InvariantBroken("the log is wrong")

    with pytest.RaisesGroup(InvariantBroken, flatten_subgroups=True, allow_unwrapped=True):
        async with pair(tmp_path) as (one, two):
            setattr(two.install if place == "receive" else one.sending, place, broken)
            one.copies.request(WISH)
            await trio.sleep_forever()


async def test_a_damaged_snapshot_is_not_damage_of_the_receiver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(path: Path) -> Index:
        if path.name == snapshots.INCOMING:
            raise StateDamaged("rot")
        return verified_index(path)

    async with pair(tmp_path) as (one, two):
        monkeypatch.setattr(module, "verified_index", found)
        await gives_up(one, two, "rot")


async def test_a_slow_transfer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.0)
    monkeypatch.setattr(module, "MIN_BYTES_PER_SECOND", 1 << 60)
    monkeypatch.setattr(module.SnapshotTransfers, "_take", never)
    async with pair(tmp_path) as (one, two):
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "it was given up")
        assert one.sending.over == [(B, False)]
        assert two.install.arrived == []


async def never(_self: SnapshotTransfers, _copy: object, _part: Path) -> Any:
    await trio.sleep_forever()


async def test_a_snapshot_without_room_on_the_disk_is_refused_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    async with pair(tmp_path) as (one, two):
        await gives_up(one, two, "has no room on the disk")
        monkeypatch.setattr(module, "SPARE_BYTES", 0)
        one.copies.request(WISH)
        await eventually(lambda: two.install.arrived, "the next one arrives")
        await eventually(lambda: one.copies._pauses == {}, "there is no delay for the member any more")


async def test_a_refusal_ends_the_transfer_at_once_and_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    async with pair(tmp_path) as (one, _):
        # More than sockets hold, so that the sender waits for a receiver that has stopped to take it.
        one.engine.write(Index(6), {("plain", b"big%d" % number): bytes(1 << 20) for number in range(32)})
        left = []
        discard = module.IncomingSnapshot.discard_rest

        def leaves(copy: module.IncomingSnapshot) -> None:
            left.append(copy)
            discard(copy)

        monkeypatch.setattr(module.IncomingSnapshot, "discard_rest", leaves)
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "the sender stops at the reply")
        assert "refused: a snapshot of" in one.log.events("state_copy_not_sent")[0]
        assert "has no room on the disk" in one.log.events("state_copy_not_sent")[0]
        assert one.sending.refused == [True]
        sent, size = one.sending.moved[-1]
        assert sent < size
        await eventually(lambda: left, "the receiver has refused")
        await eventually(left[0].over.is_set, "the receiver reads to the end of the stream")


async def test_the_rest_of_a_refused_snapshot_is_read_and_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(module._Reply, "receive", lambda *_: None)  # as a sender that does not listen
    async with pair(tmp_path) as (one, two):
        one.engine.write(Index(6), {("plain", b"big%d" % number): bytes(1 << 20) for number in range(32)})
        one.copies.request(WISH)
        await eventually(
            lambda: one.sending.moved and one.sending.moved[-1][0] == one.sending.moved[-1][1],
            "all of it is taken",
        )
        assert two.log.events("state_copy_not_received")
        assert (two.budget.used, two.install.arrived, two.files()) == (0, [], set())


async def test_a_broken_transfer_is_not_a_refusal(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _):
        one.addresses = {A: (one.url,), B: ("http://127.0.0.1:1",)}
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "it was given up")
        assert one.sending.refused == [False]


async def test_the_loop_does_not_wait_until_a_file_that_was_sent_is_freed(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        with held(one.closer):
            one.copies.request(WISH)
            await eventually(lambda: one.sending.over, "it was sent")
            (_, image) = two.install.arrived[0]
            assert one.files() == set(), "its name is free"
            assert unnamed(tmp_path) == [image.stat().st_size], "the thread has not come to it"
        assert unnamed(tmp_path) == []


@pytest.mark.parametrize("why", ["the message", "the file"])
async def test_the_loop_does_not_wait_until_a_refused_file_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def found(path: Path) -> Index:
        if path.name == snapshots.INCOMING:
            raise StateDamaged("rot")
        return verified_index(path)

    async with pair(tmp_path) as (one, two):
        if why == "the message":
            two.install.refuses = why
        else:
            monkeypatch.setattr(module, "verified_index", found)
        with held(two.closer):
            one.copies.request(WISH)
            await eventually(lambda: one.sending.over, "it was given up")
            await eventually(lambda: two.copies._receiving is None, "the receiver is free again")
            await trio.to_thread.run_sync(wait_for, one.closer)
            assert two.files() == set(), "its name is free"
            assert len(unnamed(tmp_path)) == 1, "the thread has not come to it"
        assert unnamed(tmp_path) == []


async def test_no_file_is_made_or_taken_while_too_many_wait_to_be_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closer, "MOST_WAITING", 0)
    async with pair(tmp_path) as (one, two):
        assert two.copies.accept(cast("Any", None), A) is None
        await gives_up(one, two, "earlier snapshots are not removed yet")


async def test_busy_is_not_a_refusal(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        two.copies._receiving = cast("Any", object())
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "it was given up")
        assert "another snapshot is being received" in one.log.events("state_copy_not_sent")[0]
        assert one.sending.refused == [False]


async def test_the_delay_after_failures_grows_to_its_bound(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _):
        pauses = []
        for _ in range(9):
            one.copies._set_pause(B, ok=False)
            pauses.append(one.copies._pauses[B])
        assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
        assert pauses[-1] == module.MAX_PAUSE_SECONDS
        one.copies._set_pause(A, ok=False)
        one.addresses = {}
        one.copies._set_pause(A, ok=False)
        assert set(one.copies._pauses) == {A}, "delays of members that left the list are dropped"


async def test_the_state_is_synced_before_it_is_copied(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        one.engine.write(Index(9), {("plain", b"late"): b"1"})
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "it was sent")
        [(message, _)] = two.install.arrived
        assert message.meta.index == 9


async def test_a_broken_stream_leaves_nothing_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 16 * 1024)
    async with pair(tmp_path) as (one, two):
        one.copies.request(WISH)
        await eventually(lambda: two.copies._receiving and two.copies._receiving.reader.size, "it has begun")
        receiving = two.copies._receiving
        assert receiving is not None
        receiving.link.cut("cut by the test")
        await eventually(lambda: one.sending.over, "the sender gave up")
        await eventually(lambda: two.log.events("state_copy_not_received"), "the receiver says why")
        assert (one.sending.over, one.sending.held) == ([(B, False)], 0)
        assert "cut by the test" in two.log.events("state_copy_not_received")[0]
        assert (one.files(), two.files(), two.install.arrived) == (set(), set(), [])
        await eventually(lambda: two.copies._receiving is None, "another one may come")
        one.copies.request(WISH)
        await eventually(lambda: two.install.arrived, "the next one arrives")


async def test_a_snapshot_that_does_not_fit_its_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module._write

    def spoil(file: int, digest: Any, pieces: list[bytes]) -> None:
        write(file, digest, [bytes([piece[0] ^ 1]) + piece[1:] for piece in pieces])

    monkeypatch.setattr(module, "_write", spoil)
    async with pair(tmp_path) as (one, two):
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "the sender is told")
        assert one.sending.over == [(B, False)]
        assert "does not fit its digest" in one.log.events("state_copy_not_sent")[0]
        assert (two.install.arrived, two.files()) == ([], set())


async def test_a_full_disk_at_the_receiver_is_reported_to_the_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    async with pair(tmp_path) as (one, two):
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "the sender is told")
        assert "No space left on device" in one.log.events("state_copy_not_sent")[0]
        assert (one.sending.over, two.files()) == ([(B, False)], set())


async def test_an_unreachable_receiver_fails_the_attempt(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _):
        one.addresses = {A: (one.url,), B: ("http://127.0.0.1:1",)}
        one.copies.request(WISH)
        await eventually(lambda: one.sending.over, "it was given up")
        one.addresses = {A: (one.url,)}
        one.copies.request(WISH)
        await eventually(lambda: len(one.sending.over) == 2, "it was given up")
        reasons = one.log.events("state_copy_not_sent")
        assert "connection refused" in reasons[0]
        assert "its address is not known" in reasons[1]
        assert one.sending.held == 0


async def test_obsolete_snapshot_files_are_removed_before_receiving(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, two):
        old = two.folder / snapshots.snapshot_name(Index(2), bytes(32))
        old.write_bytes(b"old")
        two.host.machine.applied = Index(2)
        one.copies.request(WISH)
        await eventually(lambda: two.install.arrived, "it arrives")
        assert not old.exists()
