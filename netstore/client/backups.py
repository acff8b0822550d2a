"""Fetching backups from a store into a file: full ones from a netstored (`api.backup`), resumed where the
connection breaks, and snapshots of the v3 keys from a netstored or an etcd (Maintenance/Snapshot).

What is written is bounded in memory by one piece, and in bandwidth by the caller's `rate`.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
import trio

from netstore.client.cluster import Refused
from netstore.client.faults import BadAnswer, ClientError, Unreachable
from netstore.client.grpc import Status
from netstore.client.transport import Transport
from netstore.client.v3 import connect
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.client.storeapi import Connection
    from netstore.client.transport import Response
    from netstore.client.v3 import V3Client

PATH: Final = "/netstore/backup"

MAKE_SECONDS: Final = 600.0
"""How long a member may take to make a backup before it sends the first byte."""

PIECE_SECONDS: Final = 30.0
"""How long the next piece may take."""

MOST_RESUMED: Final = 10
"""How often in a row a transfer is resumed without a byte more."""

MOST_BEGUN_ANEW: Final = 3
"""How often a transfer that cannot be resumed is begun anew."""

RESUME_PAUSE: Final = 1.0

_GONE: Final = (400, 409, 410)
"""Statuses of a member that has not, or not yet, what is to be resumed."""

_SNAPSHOT: Final = "/etcdserverpb.Maintenance/Snapshot"
_DIGEST_BYTES: Final = 32


class NoFullBackup(ClientError):  # noqa: N818 - named for what was found
    """The store is no netstored: it has no full backups."""


class Pace:
    """Holds a transfer back to a rate."""

    def __init__(self, rate: float) -> None:
        """`rate` in bytes a second; 0 for no limit."""
        self._rate = rate
        self._due = trio.current_time()

    async def passed(self, size: int) -> None:
        """So many bytes were transferred: wait until they may have been."""
        if self._rate:
            self._due = max(self._due, trio.current_time() - 1.0) + size / self._rate
            await trio.sleep_until(self._due)


class _Message(msgspec.Struct, frozen=True):
    message: str = ""


async def save_full(
    connection: Connection, file: BinaryIO, *, rate: float, progress: Callable[[int, int], object]
) -> None:
    """`fetch_full` with a client of its own, which gives the member time to make the backup."""
    transport = Transport(
        connection.endpoints,
        ca_file=connection.ca_file,
        cert_file=connection.cert_file,
        key_file=connection.key_file,
        username=connection.username,
        password=connection.password,
        timeout=MAKE_SECONDS,
        tls_names=connection.tls_names,
    )
    async with transport:
        await fetch_full(transport, file, rate=rate, progress=progress)


async def save_v3(
    connection: Connection, file: BinaryIO, *, rate: float, progress: Callable[[int, int], object]
) -> None:
    """`fetch_v3` with a client of its own."""
    async with connect(connection) as client:
        await fetch_v3(client, file, rate=rate, progress=progress)


async def fetch_full(
    transport: Transport, file: BinaryIO, *, rate: float, progress: Callable[[int, int], object]
) -> None:
    """Write a full backup to an empty file. `progress` is called with how many bytes came, of how many.

    NoFullBackup if the store is no netstored; Refused if it makes none now; Unreachable or BadAnswer if it
    cannot be had. The content is not verified.
    """
    transfer = _Transfer(transport, file, Pace(rate), progress)
    fruitless = begun_anew = 0
    while True:
        before = transfer.done
        try:
            await transfer.go_on()
        except Unreachable:
            fruitless = fruitless + 1 if transfer.done == before else 0
            if not transfer.id or fruitless >= MOST_RESUMED:
                raise
        except Refused as refused:
            # The member was started again, or another one answered, or the file was kept for long enough.
            if not transfer.id or refused.status not in _GONE or begun_anew >= MOST_BEGUN_ANEW:
                raise
            begun_anew += 1
            transfer.begin_anew()
        else:
            return
        await trio.sleep(RESUME_PAUSE)


class _Transfer:
    """One backup on its way into a file."""

    def __init__(
        self, transport: Transport, file: BinaryIO, pace: Pace, progress: Callable[[int, int], object]
    ) -> None:
        self._transport = transport
        self._file = file
        self._pace = pace
        self._progress = progress
        self.id = ""
        """The member's name for the backup; empty before it is known."""
        self.done = 0
        """Bytes that came so far."""

    def begin_anew(self) -> None:
        """Forget what came."""
        self.id, self.done = "", 0
        self._file.seek(0)
        self._file.truncate()

    async def go_on(self) -> None:
        """Receive the rest. Unreachable if the connection breaks before the end."""
        query = {"id": self.id, "from": str(self.done)} if self.id else {}
        async with self._transport.request("GET", PATH, query, write=False, refusal=_refusal) as response:
            if response.status != 200:
                raise _refusal(response, await response.body())
            size = _size(response)
            self.id = response.header("x-netstore-backup")
            async for piece in response.pieces(PIECE_SECONDS):
                self._file.write(piece)
                self.done += len(piece)
                self._progress(self.done, size)
                await self._pace.passed(len(piece))
            if self.done < size:
                why = f"the connection ended after {self.done} of {size} bytes"
                raise Unreachable([(response.endpoint, why)], outcome_known=True)


def _size(response: Response) -> int:
    told = response.header("x-netstore-backup-bytes")
    if not told.isdigit() or len(told) > 19:
        raise BadAnswer(response.endpoint, "sent a backup without its size", status=response.status)
    return int(told)


def _refusal(response: Response, body: bytes) -> ClientError:
    if response.status == 404:
        return NoFullBackup(f"{response.endpoint} has no full backups: it is no netstored, or an older one")
    try:
        text = msgspec.json.decode(body, type=_Message).message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = ""
    if not text:
        return BadAnswer(response.endpoint, f"answered with status {response.status}", status=response.status)
    return Refused(response.status, text)


async def fetch_v3(
    client: V3Client, file: BinaryIO, *, rate: float, progress: Callable[[int, int], object]
) -> None:
    """Write a snapshot of the v3 keys to an empty file, in etcd's format with the digest at its end, as
    `etcdctl snapshot save` does. The digest is verified.

    Status if the store refuses; Unreachable or BadAnswer if it cannot be had. A call that breaks is not
    resumed: a store makes another snapshot for each.
    """
    pace = Pace(rate)
    digest = sha256()
    tail = b""
    done = 0
    call = await client.open(_SNAPSHOT)
    try:
        call.send(pb.SnapshotRequest().SerializeToString(), is_last=True)
        while True:
            try:
                with trio.fail_after(PIECE_SECONDS if done else MAKE_SECONDS):
                    answer = pb.SnapshotResponse.FromString(await call.receive())
            except trio.TooSlowError:
                why = f"nothing came for {PIECE_SECONDS:g} s"
                raise Unreachable([(call.endpoint, why)], outcome_known=True) from None
            except Status as status:
                if status.code:
                    raise
                break
            file.write(answer.blob)
            done += len(answer.blob)
            tail += answer.blob
            digest.update(tail[:-_DIGEST_BYTES])
            tail = tail[-_DIGEST_BYTES:]
            progress(done, done + answer.remaining_bytes)
            await pace.passed(len(answer.blob))
    finally:
        call.close()
    if tail != digest.digest():
        raise BadAnswer(call.endpoint, "sent a snapshot that does not fit its digest; try again")
