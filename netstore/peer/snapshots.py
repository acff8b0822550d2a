"""Snapshots: copies of the state that are made, sent, received and handed to the host, off the loop.

Each has a stream of its own, and work on files is done in threads, with about `PIECE_BYTES` in memory. A
stream that breaks leaves nothing behind, and Raft asks again. Two snapshots for one member are never sent at
once, and one is received at a time. During a transfer the leader limits its writes so that the log after the
snapshot stays within its bound, as far as that helps (`node.pacing`). Both sides give up a transfer that is
slower than `MIN_BYTES_PER_SECOND`, and the sender one that has become useless, because it does not lead any
more or the log after the snapshot had to be compacted. A receiver that refuses says why at once and reads on
until the sender closes, because its answer could be lost otherwise; the sender stops at that answer. After a
failure the next snapshot for the same member is delayed, longer each time: making one costs as much as the
state is large.
"""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import trio

from netstore.disk import snapshots
from netstore.disk.verification import verified_index
from netstore.errors import CorruptData, MustStop, NetstoreError, StateDamaged
from netstore.peer.dial import StreamFailed, dial
from netstore.peer.handshake import Purpose, Verdict, Welcome
from netstore.peer.wire import SnapshotHeader, SnapshotReader, frame, read_frame
from netstore.raft.encoding import decode_message, encode_message
from netstore.raft.messages import InstallSnapshot, MessageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from hashlib import _Hash as Hash
    from pathlib import Path

    from netstore.disk.closer import Closer
    from netstore.disk.engine import LmdbEngine
    from netstore.limits import Budget
    from netstore.node.host import Host
    from netstore.peer.dial import OutgoingStream
    from netstore.peer.link import Link
    from netstore.peer.peers import Peers
    from netstore.raft.entry import SnapshotMeta
    from netstore.seams import Log
    from netstore.types import Index, NodeId

PIECE_BYTES: Final = 1024 * 1024
"""Read, sent, hashed or written at a time."""

STALL_SECONDS: Final = 30.0
"""How long the other side may accept nothing, send nothing, or take to sync and verify a whole snapshot."""

MIN_BYTES_PER_SECOND: Final = 256 * 1024
"""Average rate that a transfer must reach, after its first `STALL_SECONDS`: the log after the snapshot is
kept for as long as the transfer lasts.
"""

FIRST_PAUSE_SECONDS: Final = 0.5

MAX_PAUSE_SECONDS: Final = 30.0
"""Delay of the next snapshot for a member after one that failed: doubles from the first to the longest."""

SPARE_BYTES: Final = 64 * 1024 * 1024
"""Free disk space that receiving a snapshot must leave."""

MAX_CONCURRENT_SENDS: Final = 2
"""Snapshots made and sent at the same time; each needs as much disk space as the state."""


class SnapshotRefused(StreamFailed):
    """The receiver began to take a snapshot and failed: the next one may fail in the same way. Not raised
    when the stream was not accepted or nothing answered, which says nothing about the next one.
    """


def _ignore(_: int) -> None:
    pass


class SnapshotTransfers:
    """Sends and receives snapshots of one member's state; their files are in `folder`. A
    `peer.peers.Snapshots`.
    """

    def __init__(
        self, folder: Path, engine: LmdbEngine, peers: Peers, log: Log, *, budget: Budget, closer: Closer
    ) -> None:
        """Memory used for transfers is charged to `budget`. `closer` removes their files."""
        self._closer = closer
        self._budget = budget
        self._folder = folder
        self._engine = engine
        self._peers = peers
        self._log = log
        self._sending: set[NodeId] = set()
        self._pauses: dict[NodeId, float] = {}
        """Delays for members whose last snapshot failed."""
        self._receiving: IncomingSnapshot | None = None
        self._limit = trio.CapacityLimiter(MAX_CONCURRENT_SENDS)
        self.on_received: Callable[[int], object] = _ignore
        """Called after each piece with the bytes of a snapshot received so far: progress of a start without a
        state.
        """
        self.on_verifying: Callable[[int], object] = _ignore
        """Called with its size when a snapshot was received completely, before it is synced and verified."""
        self._host: Host
        self._nursery: trio.Nursery

    async def run(self, host: Host) -> None:
        """Send and receive until cancelled."""
        self._host = host
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    # --- sending

    def request(self, message: InstallSnapshot) -> None:
        """See `peer.peers.Snapshots`. Ignored while a snapshot is being sent to that member."""
        if message.to in self._sending:
            return
        self._sending.add(message.to)
        self._nursery.start_soon(self._send, message)

    async def _send(self, message: InstallSnapshot) -> None:
        peer = message.to
        part = snapshots.outgoing(self._folder, peer)
        ok = begun = refused = False
        account = self._budget.account()
        try:
            await trio.sleep(self._pauses.get(peer, 0.0))
            async with self._limit:
                if self._closer.is_full:
                    raise StreamFailed("earlier snapshots are not removed yet")
                account.charge(2 * PIECE_BYTES)  # one piece is read while the one before is sent
                # From here on the log after the snapshot is kept.
                place = self._engine.durable()
                self._check_log_follows(place)
                self._host.snapshot_sending.begun(place, peer)
                begun = True
                meta = await self._make(part, peer)
                self._log.info("state_copy_sending", peer=f"{peer:x}", index=meta.index)
                await self._transfer(peer, InstallSnapshot(message.sender, peer, message.term, meta), part)
            ok = True
            self._log.info("state_copy_sent", peer=f"{peer:x}", index=meta.index)
        except MustStop:
            raise
        except (NetstoreError, OSError) as fault:
            refused = isinstance(fault, SnapshotRefused)
            self._log.warning("state_copy_not_sent", peer=f"{peer:x}", reason=str(fault))
        finally:
            account.close()
            self._remove(part)
            self._sending.discard(peer)
            self._set_pause(peer, ok=ok)
            self._peers.copy_ended(peer, ok=ok)
            self._host.snapshot_sending.ended(peer, ok=ok, was_begun=begun, refused=refused)

    def _remove(self, path: Path) -> None:
        """Remove the file of a snapshot. One that stays is removed before the next one is received, or by the
        next start.
        """
        failure = self._closer.unlink(path)
        if failure is not None:
            self._log.warning("state_copy_not_removed", file=str(path), reason=str(failure))

    def _set_pause(self, peer: NodeId, *, ok: bool) -> None:
        """Set the delay of the next snapshot for this member."""
        pause = self._pauses.pop(peer, FIRST_PAUSE_SECONDS / 2)
        if not ok:
            self._pauses = {other: each for other, each in self._pauses.items() if self._peers.urls(other)}
            self._pauses[peer] = min(2 * pause, MAX_PAUSE_SECONDS)

    def _check_useful(self, message: InstallSnapshot) -> None:
        """StreamFailed if the receiver could not use the snapshot any more."""
        host = self._host
        if (host.leader, host.term) != (message.sender, message.term):
            raise StreamFailed("this member does not lead in that term any more")
        if host.compaction.compacted > message.meta.index:
            raise StreamFailed("the log after it exceeded its bound and was compacted")

    def _check_log_follows(self, index: Index) -> None:
        """StreamFailed if the log after a snapshot at `index` is not there: it was compacted meanwhile, or
        this member is receiving a snapshot itself.
        """
        if not self._host.snapshot_sending.is_usable(index):
            raise StreamFailed("the log after it exceeded its bound and was compacted, or is being replaced")

    async def _make(self, part: Path, peer: NodeId) -> SnapshotMeta:
        """Make a snapshot of the state as it is now; its metadata."""
        await self._sync()
        await trio.to_thread.run_sync(self._copy_to, part)
        try:
            index = await trio.to_thread.run_sync(verified_index, part)
        except StateDamaged as fault:
            self._host.fail(fault)  # what is wrong with the copy is wrong with the state
            raise
        self._check_log_follows(index)
        return self._host.snapshot_sending.made(index, peer)

    async def _sync(self) -> None:
        """Make the state durable."""
        done = trio.Event()
        failure: OSError | None = None

        def synced(error: OSError | None) -> None:
            nonlocal failure
            failure = error
            done.set()

        self._engine.sync(synced)
        await done.wait()
        try:
            if failure is not None:
                raise failure
        finally:
            failure = None  # its traceback refers to this frame: a cycle otherwise

    def _copy_to(self, part: Path) -> None:
        file = _create(part)
        try:
            self._engine.copy_to(file)
        finally:
            os.close(file)

    async def _transfer(self, peer: NodeId, message: InstallSnapshot, part: Path) -> None:
        """Stream the snapshot until the receiver has it verified and synced, or refuses it."""
        reply = _Reply()
        stream = await self._dial_one_of(self._peers.urls(peer), peer, reply)
        try:
            with reply.awaited:
                await self._stream(stream, peer, message, part)
                with trio.move_on_after(STALL_SECONDS):
                    await stream.over.wait()
            if reply.welcome is None:
                raise StreamFailed(stream.reason or "no reply that it arrived")
            verdict = reply.welcome.verdict
            if verdict != Verdict.ACCEPTED:
                failed = SnapshotRefused if verdict == Verdict.FAILED else StreamFailed
                raise failed(f"refused: {reply.welcome.text}", verdict)
        finally:
            stream.link.cut("done")

    async def _stream(
        self, stream: OutgoingStream, peer: NodeId, message: InstallSnapshot, part: Path
    ) -> None:
        stream.link.write(frame(encode_message(message)))
        digest = sha256()
        with part.open("rb") as file:
            size, sent = os.fstat(file.fileno()).st_size, 0
            stream.link.write(SnapshotHeader(size).encode())
            self._host.snapshot_sending.sent(peer, sent, size)
            rate = _MinimumRate()
            while piece := await trio.to_thread.run_sync(_read, file.fileno(), digest):
                stream.link.write(piece)
                await stream.drained(STALL_SECONDS)
                rate.check(len(piece))
                sent += len(piece)
                self._host.snapshot_sending.sent(peer, sent, size)
                self._check_useful(message)
        stream.link.write(digest.digest())

    async def _dial_one_of(self, urls: Sequence[str], peer: NodeId, reply: _Reply) -> OutgoingStream:
        for place, url in enumerate(urls, 1):
            try:
                return await dial(
                    self._peers.reactor,
                    url,
                    self._peers.hello(Purpose.SNAPSHOT, peer),
                    reply.receive,
                    credentials=self._peers.credentials,
                    secret=self._peers.secret,
                )
            except StreamFailed:
                if place == len(urls):
                    raise
        raise StreamFailed("its address is not known")

    # --- receiving

    def accept(self, link: Link, sender: NodeId) -> IncomingSnapshot | None:
        """See `peer.peers.Snapshots`."""
        if self._receiving is not None or self._closer.is_full:
            return None
        self._receiving = IncomingSnapshot(link, sender)
        self._nursery.start_soon(self._receive, self._receiving)
        return self._receiving

    async def _receive(self, snapshot: IncomingSnapshot) -> None:
        account = self._budget.account()
        account.charge(2 * PIECE_BYTES)  # one piece is written while the next one is received
        part = self._folder / snapshots.INCOMING
        try:
            message, path = await self._take(snapshot, part)
            try:
                self._host.snapshot_install.receive(message, path)
            except MessageRefused:
                self._remove(path)
                raise
        except MustStop:
            raise
        except (NetstoreError, OSError) as fault:
            self._log.warning("state_copy_not_received", peer=f"{snapshot.sender:x}", reason=str(fault))
            verdict, text = Verdict.FAILED, str(fault)
            self._remove(part)
        else:
            self._log.info("state_copy_received", peer=f"{snapshot.sender:x}", index=message.meta.index)
            verdict, text = Verdict.ACCEPTED, ""
        finally:
            account.close()
            self._receiving = None
        identity = self._peers.identity
        snapshot.discard_rest()
        snapshot.link.write(Welcome(verdict, identity.cluster_id, identity.member_id, text).encode())
        with trio.move_on_after(STALL_SECONDS):
            await snapshot.over.wait()
        snapshot.link.cut("done")

    async def _take(self, snapshot: IncomingSnapshot, part: Path) -> tuple[InstallSnapshot, Path]:
        """Write the stream to a file, verify it, and make it durable under its final name."""
        await trio.to_thread.run_sync(snapshots.remove_up_to, self._folder, self._host.machine.applied)
        digest = sha256()
        file = await trio.to_thread.run_sync(_create, part)
        try:
            rate = _MinimumRate()
            room_checked = False
            size = 0
            while not snapshot.complete:
                pieces = await snapshot.pieces()
                rate.check(sum(map(len, pieces)))
                if not room_checked and snapshot.reader.size is not None:
                    room_checked = True
                    await trio.to_thread.run_sync(_check_room, self._folder, snapshot.reader.size)
                await trio.to_thread.run_sync(_write, file, digest, pieces)
                size += sum(map(len, pieces))
                self.on_received(size)
            self.on_verifying(size)
            await trio.to_thread.run_sync(os.fsync, file)
        finally:
            os.close(file)
        if snapshot.message is None or digest.digest() != snapshot.reader.digest:
            raise CorruptData("snapshot does not fit its digest")
        try:
            applied = await trio.to_thread.run_sync(verified_index, part)
        except StateDamaged as fault:  # not the state of this member: what was received is invalid
            raise CorruptData(str(fault)) from None
        if applied != snapshot.message.meta.index:
            raise CorruptData(f"snapshot has applied {applied}, not {snapshot.message.meta.index}")
        path = await trio.to_thread.run_sync(snapshots.complete, part, applied, digest.digest())
        return snapshot.message, path


class IncomingSnapshot:
    """The stream of a snapshot that is being received. What was read and not written is bounded by pausing
    the link. A `peer.incoming.SnapshotSink`.
    """

    def __init__(self, link: Link, sender: NodeId) -> None:
        self.link = link
        self.sender = sender
        self.message: InstallSnapshot | None = None
        self.reader = SnapshotReader()
        self.over = trio.Event()
        self._reason = ""
        self._head = b""
        self._held: list[bytes] = []
        self._size = 0
        self._more = trio.Event()
        self._discards = False

    @property
    def complete(self) -> bool:
        """Everything has been received, and handed out by `pieces`."""
        return self.reader.digest is not None and not self._held

    async def pieces(self) -> list[bytes]:
        """Wait for data; what was received since the last call. StreamFailed if the stream has ended."""
        with trio.move_on_after(STALL_SECONDS):
            await self._more.wait()
        if not self._more.is_set():
            self.link.cut(f"sent nothing for {STALL_SECONDS:g} s")
        if self.over.is_set() and self.reader.digest is None:
            raise StreamFailed(self._reason)
        self._more = trio.Event()
        pieces, self._held, self._size = self._held, [], 0
        self.link.resume()
        return pieces

    def discard_rest(self) -> None:
        """Read and discard what follows. If the socket were closed with unread data, TCP would send a reset,
        and the other side could lose the reply.
        """
        self._discards = True
        self._held = []
        self.link.resume()

    def received(self, data: bytes) -> None:
        """See `peer.incoming.SnapshotSink`."""
        if self._discards:
            return
        if self.message is None:
            self._head += data
            found = read_frame(self._head, PIECE_BYTES)
            if found is None:
                return
            message = decode_message(found[0])
            if not isinstance(message, InstallSnapshot) or message.sender != self.sender:
                raise CorruptData("snapshot begins with another message")
            self.message = message
            data, self._head = self._head[found[1] :], b""
        piece = self.reader.take(data)
        if piece:
            self._held.append(piece)
            self._size += len(piece)
            if self._size >= PIECE_BYTES:
                self.link.pause()
        if piece or self.reader.digest is not None:
            self._more.set()

    def gone(self, reason: str) -> None:
        """See `peer.incoming.SnapshotSink`."""
        self._reason = reason
        self.over.set()
        self._more.set()


class _Reply:
    """The receiver's final reply: a second welcome."""

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        self.awaited = trio.CancelScope()
        """Cancelled by the reply."""
        self._read = b""

    def receive(self, data: bytes) -> None:
        """What comes after the first welcome."""
        self._read += data
        found = Welcome.read(self._read)
        if found is not None:
            self.welcome = found[0]
            self.awaited.cancel()


class _MinimumRate:
    """Whether a transfer is fast enough."""

    def __init__(self) -> None:
        self._begun = trio.current_time()
        self._bytes = 0

    def check(self, more: int) -> None:
        """This many more bytes were transferred. StreamFailed if that took too long."""
        self._bytes += more
        if trio.current_time() - self._begun > STALL_SECONDS + self._bytes / MIN_BYTES_PER_SECOND:
            raise StreamFailed(f"slower than {MIN_BYTES_PER_SECOND} bytes a second")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise StreamFailed(f"a snapshot of {size} bytes has no room on the disk, which has {free} left")


def _read(file: int, digest: Hash) -> bytes:
    piece = os.read(file, PIECE_BYTES)
    digest.update(piece)
    return piece


def _create(part: Path) -> int:
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _write(file: int, digest: Hash, pieces: list[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)
        left = memoryview(piece)
        while left:
            left = left[os.write(file, left) :]
