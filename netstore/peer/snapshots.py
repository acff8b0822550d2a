"""State copies on their way: made, sent, received, handed to the host. Never in the way of the loop.

Each has a stream of its own, and the work on files is done in threads, with about `PIECE_BYTES` in memory.
A stream that is cut leaves nothing, and Raft asks again. Two copies for one peer are never sent at once, and
one is received at a time. While one is on its way the leader writes so slowly that the log after it stays
within its bound, as far as that helps (`node.pacing`). Both sides give up a copy that is slower than
`LEAST_RATE`, and the sender one that is of no use any more, because it leads no longer or the log that
follows the copy had to be forgotten. A receiver that refuses says why at once, and hears the rest out, for
else its word might be lost; the sender stops at that word. After a failure the next copy for the same peer
waits, longer each time: making one costs as much as the state.
"""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore.disk import images
from netstore.disk.apart import verified
from netstore.errors import CorruptData, MustStop, NetstoreError, StateDamaged
from netstore.peer.dial import Call, CallFailed, call
from netstore.peer.wire import CopyHead, CopyReader, Purpose, Verdict, Welcome, frame, read_frame
from netstore.raft.messages import InstallSnapshot, MessageRefused, decode_message, encode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from hashlib import _Hash as Hash
    from pathlib import Path

    from netstore.disk.engine import LmdbEngine
    from netstore.limits import Budget
    from netstore.node.host import Host
    from netstore.peer.link import Link
    from netstore.peer.outgoing import Peers
    from netstore.raft.entry import SnapshotMeta
    from netstore.types import Index, NodeId

PIECE_BYTES: Final = 1024 * 1024
"""Read, sent, hashed or written at a time."""

STALL_SECONDS: Final = 30.0
"""How long the other side may take nothing, send nothing, or take to put a whole copy on its disk."""

LEAST_RATE: Final = 256 * 1024
"""Bytes a second that a copy must make on average, beyond its first `STALL_SECONDS`: the log keeps what
follows a copy for as long as it is on its way."""

FIRST_PAUSE_SECONDS: Final = 0.5

LONGEST_PAUSE_SECONDS: Final = 30.0
"""Before the next copy for a peer after one that failed: doubles from the first to the longest."""

SPARE_BYTES: Final = 64 * 1024 * 1024
"""Room on the disk that a copy that is received must leave."""

MOST_AT_ONCE: Final = 2
"""Copies made and sent side by side; each needs as much room as the state."""


class CopyRefused(CallFailed):
    """The other side has begun to take a copy, and could not: the next one may end likewise. Who is not let
    in, or is not answered, has been told nothing of that.
    """


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **fields: Any) -> None:
        """One line."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""


def _to_nobody(_: int) -> None:
    pass


class StateCopies:
    """Sends and receives copies of one member's state; the files lie in `folder`. `peer.outgoing.Copies`."""

    def __init__(self, folder: Path, engine: LmdbEngine, peers: Peers, log: Log, budget: Budget) -> None:
        """What is in memory of copies counts in `budget`."""
        self._budget = budget
        self._folder = folder
        self._engine = engine
        self._peers = peers
        self._log = log
        self._sending: set[NodeId] = set()
        self._pauses: dict[NodeId, float] = {}
        """Of peers whose last copy failed."""
        self._receiving: _Incoming | None = None
        self._limit = trio.CapacityLimiter(MOST_AT_ONCE)
        self.moved: Callable[[int], object] = _to_nobody
        """Called with how many bytes of a copy were received so far, after each piece: a member without a
        state waits for that.
        """
        self.verifying: Callable[[int], object] = _to_nobody
        """Called when all of a copy of so many bytes was received, before it is synced and verified."""
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
        """See `peer.outgoing.Copies`. A request for a peer that is being sent one is answered by that."""
        if message.to in self._sending:
            return
        self._sending.add(message.to)
        self._nursery.start_soon(self._send, message)

    async def _send(self, message: InstallSnapshot) -> None:
        peer = message.to
        part = images.outgoing(self._folder, peer)
        ok = begun = refused = False
        account = self._budget.account()
        try:
            await trio.sleep(self._pauses.get(peer, 0.0))
            async with self._limit:
                account.charge(2 * PIECE_BYTES)  # one piece is read while the one before is sent
                # From here on the log keeps what follows the copy.
                place = self._engine.durable()
                self._check_place(place)
                self._host.image_meta(place, peer)
                begun = True
                meta = await self._copy(part, peer)
                self._log.info("state_copy_sending", peer=f"{peer:x}", index=meta.index)
                await self._hand_over(peer, InstallSnapshot(message.sender, peer, message.term, meta), part)
            ok = True
            self._log.info("state_copy_sent", peer=f"{peer:x}", index=meta.index)
        except MustStop:
            raise
        except (NetstoreError, OSError) as fault:
            refused = isinstance(fault, CopyRefused)
            self._log.warning("state_copy_not_sent", peer=f"{peer:x}", reason=str(fault))
        finally:
            account.close()
            part.unlink(missing_ok=True)
            self._sending.discard(peer)
            self._rest(peer, ok=ok)
            self._host.image_sent(peer, ok=ok, begun=begun, refused=refused)

    def _rest(self, peer: NodeId, *, ok: bool) -> None:
        """Remember how long the next copy for this peer waits."""
        pause = self._pauses.pop(peer, FIRST_PAUSE_SECONDS / 2)
        if not ok:
            self._pauses = {other: each for other, each in self._pauses.items() if self._peers.urls(other)}
            self._pauses[peer] = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _check_use(self, message: InstallSnapshot) -> None:
        """CallFailed when the copy would be of no use where it is going."""
        host = self._host
        if (host.leader, host.term) != (message.sender, message.term):
            raise CallFailed("another leader is there to send one")
        if host.compacted > message.meta.index:
            raise CallFailed("the log that follows it weighed too much and was forgotten")

    def _check_place(self, index: Index) -> None:
        """CallFailed when a log that follows a copy at `index` is not there: it was forgotten meanwhile, or
        this member is being given a copy itself.
        """
        if not self._host.follows(index):
            raise CallFailed("the log that follows it weighed too much and was forgotten, or is replaced")

    async def _copy(self, part: Path, peer: NodeId) -> SnapshotMeta:
        """Make a copy of the state as it is now; what it stands for."""
        await self._durable()
        await trio.to_thread.run_sync(self._make, part)
        try:
            index = await trio.to_thread.run_sync(verified, part)
        except StateDamaged as fault:
            self._host.fail(fault)  # a copy is what the state is
            raise
        self._check_place(index)
        return self._host.image_meta_at(index, peer)

    async def _durable(self) -> None:
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
            failure = None  # which would keep this frame, as its traceback does

    def _make(self, part: Path) -> None:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._engine.copy_to(file)
        finally:
            os.close(file)

    async def _hand_over(self, peer: NodeId, message: InstallSnapshot, part: Path) -> None:
        """Stream the copy until the peer says that it is whole and on its disk, or refuses it."""
        answer = _Answer()
        urls = self._peers.urls(peer)
        if not urls:
            raise CallFailed("its address is not known")
        made = await self._call_one_of(urls, peer, answer)
        try:
            with answer.waiting:
                await self._stream(made, peer, message, part)
                with trio.move_on_after(STALL_SECONDS):
                    await made.over.wait()
            if answer.welcome is None:
                raise CallFailed(made.reason or "no word that it arrived")
            verdict = answer.welcome.verdict
            if verdict != Verdict.ACCEPTED:
                failed = CopyRefused if verdict == Verdict.FAILED else CallFailed
                raise failed(f"refused: {answer.welcome.text}", verdict)
        finally:
            made.link.cut("done")

    async def _stream(self, made: Call, peer: NodeId, message: InstallSnapshot, part: Path) -> None:
        made.link.write(frame(encode_message(message)))
        digest = sha256()
        with part.open("rb") as file:
            size, sent = os.fstat(file.fileno()).st_size, 0
            made.link.write(CopyHead(size).encode())
            self._host.image_moved(peer, sent, size)
            pace = _Pace()
            while piece := await trio.to_thread.run_sync(_read, file.fileno(), digest):
                made.link.write(piece)
                await made.drained(STALL_SECONDS)
                pace.check(len(piece))
                sent += len(piece)
                self._host.image_moved(peer, sent, size)
                self._check_use(message)
        made.link.write(digest.digest())

    async def _call_one_of(self, urls: Sequence[str], peer: NodeId, answer: _Answer) -> Call:
        for place, url in enumerate(urls, 1):
            try:
                return await call(
                    self._peers.reactor,
                    url,
                    self._peers.hello(Purpose.IMAGE, peer),
                    answer.take,
                    credentials=self._peers.credentials,
                    secret=self._peers.secret,
                )
            except CallFailed:
                if place == len(urls):
                    raise
        raise CallFailed("its address is not known")

    # --- receiving

    def incoming(self, link: Link, sender: NodeId) -> _Incoming | None:
        """See `peer.outgoing.Copies`."""
        if self._receiving is not None:
            return None
        self._receiving = _Incoming(link, sender)
        self._nursery.start_soon(self._receive, self._receiving)
        return self._receiving

    async def _receive(self, copy: _Incoming) -> None:
        account = self._budget.account()
        account.charge(2 * PIECE_BYTES)  # one piece is written while the next one comes
        part = self._folder / images.INCOMING
        try:
            message, image = await self._take(copy, part)
            try:
                self._host.image_received(message, image)
            except MessageRefused:
                await trio.to_thread.run_sync(image.unlink)
                raise
        except MustStop:
            raise
        except (NetstoreError, OSError) as fault:
            self._log.warning("state_copy_not_received", peer=f"{copy.sender:x}", reason=str(fault))
            verdict, text = Verdict.FAILED, str(fault)
            part.unlink(missing_ok=True)
        else:
            self._log.info("state_copy_received", peer=f"{copy.sender:x}", index=message.meta.index)
            verdict, text = Verdict.ACCEPTED, ""
        finally:
            account.close()
            self._receiving = None
        identity = self._peers.identity
        copy.leave()
        copy.link.write(Welcome(verdict, identity.cluster_id, identity.member_id, text).encode())
        with trio.move_on_after(STALL_SECONDS):
            await copy.over.wait()
        copy.link.cut("done")

    async def _take(self, copy: _Incoming, part: Path) -> tuple[InstallSnapshot, Path]:
        """Read the stream into the file, verify it, make it durable under its final name."""
        await trio.to_thread.run_sync(images.forget_up_to, self._folder, self._host.machine.applied)
        digest = sha256()
        file = await trio.to_thread.run_sync(_create, part)
        try:
            pace = _Pace()
            sized = False
            size = 0
            while not copy.complete:
                pieces = await copy.pieces()
                pace.check(sum(map(len, pieces)))
                if not sized and copy.reader.size is not None:
                    sized = True
                    await trio.to_thread.run_sync(_check_room, self._folder, copy.reader.size)
                await trio.to_thread.run_sync(_write, file, digest, pieces)
                size += sum(map(len, pieces))
                self.moved(size)
            self.verifying(size)
            await trio.to_thread.run_sync(os.fsync, file)
        finally:
            os.close(file)
        if copy.message is None or digest.digest() != copy.reader.digest:
            raise CorruptData("state copy does not fit its digest")
        try:
            applied = await trio.to_thread.run_sync(verified, part)
        except StateDamaged as fault:  # not this member's state: what was sent is not a whole one
            raise CorruptData(str(fault)) from None
        if applied != copy.message.meta.index:
            raise CorruptData(f"state copy has applied {applied}, not {copy.message.meta.index}")
        image = await trio.to_thread.run_sync(images.complete, part, applied, digest.digest())
        return copy.message, image


class _Incoming:
    """The stream of one copy as it comes in. What was read and not written is bounded by pausing the link."""

    def __init__(self, link: Link, sender: NodeId) -> None:
        self.link = link
        self.sender = sender
        self.message: InstallSnapshot | None = None
        self.reader = CopyReader()
        self.over = trio.Event()
        self._reason = ""
        self._head = b""
        self._held: list[bytes] = []
        self._size = 0
        self._more = trio.Event()
        self._left = False

    @property
    def complete(self) -> bool:
        """Everything has arrived, and nothing of it waits to be written."""
        return self.reader.digest is not None and not self._held

    async def pieces(self) -> list[bytes]:
        """What has arrived since the last call, when there is something. CallFailed if nothing more comes."""
        with trio.move_on_after(STALL_SECONDS):
            await self._more.wait()
        if not self._more.is_set():
            self.link.cut(f"sent nothing for {STALL_SECONDS:g} s")
        if self.over.is_set() and self.reader.digest is None:
            raise CallFailed(self._reason)
        self._more = trio.Event()
        pieces, self._held, self._size = self._held, [], 0
        self.link.resume()
        return pieces

    def leave(self) -> None:
        """Nothing more of it is wanted. What comes all the same is read: closed with something unread, TCP
        takes back what this side has written last.
        """
        self._left = True
        self._held = []
        self.link.resume()

    def received(self, data: bytes) -> None:
        """See `peer.outgoing.Incoming`."""
        if self._left:
            return
        if self.message is None:
            self._head += data
            found = read_frame(self._head, PIECE_BYTES)
            if found is None:
                return
            message = decode_message(found[0])
            if not isinstance(message, InstallSnapshot) or message.sender != self.sender:
                raise CorruptData("state copy begins with another message")
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
        """See `peer.outgoing.Incoming`."""
        self._reason = reason
        self.over.set()
        self._more.set()


class _Answer:
    """The peer's last word about a copy."""

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        self.waiting = trio.CancelScope()
        """What is done until it has come."""
        self._read = b""

    def take(self, data: bytes) -> None:
        """What came after the first welcome."""
        self._read += data
        found = Welcome.read(self._read)
        if found is not None:
            self.welcome = found[0]
            self.waiting.cancel()


class _Pace:
    """Whether a copy goes fast enough."""

    def __init__(self) -> None:
        self._begun = trio.current_time()
        self._bytes = 0

    def check(self, more: int) -> None:
        """So many bytes more are done. CallFailed when they took too long."""
        self._bytes += more
        if trio.current_time() - self._begun > STALL_SECONDS + self._bytes / LEAST_RATE:
            raise CallFailed(f"slower than {LEAST_RATE} bytes a second")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise CallFailed(f"a state copy of {size} bytes has no room on the disk, which has {free} left")


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
