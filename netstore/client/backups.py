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
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.client.transport import Response, Transport
    from netstore.client.v3 import V3Client

PATH: Final = "/netstore/backup"

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


async def fetch_full(
    transport: Transport, file: BinaryIO, *, rate: float, progress: Callable[[int, int], object]
) -> None:
    """Write a full backup to an empty file. `progress` is called with how many bytes came, of how many.

    NoFullBackup if the store is no netstored; Refused if it makes none now; Unreachable or BadAnswer if it
    cannot be had. The content is not verified.
    """
    pace = Pace(rate)
    query: dict[str, str] = {}
    size = done = 0
    fruitless = begun_anew = 0
    while True:
        before = done
        try:
            async with transport.request("GET", PATH, query, write=False, refusal=_refusal) as response:
                if response.status != 200:
                    raise _refusal(response, await response.body())
                size = _size(response)
                query = {"id": response.header("x-netstore-backup")}
                async for piece in response.pieces(PIECE_SECONDS):
                    file.write(piece)
                    done += len(piece)
                    progress(done, size)
                    await pace.passed(len(piece))
                if done == size:
                    return
                why = f"the connection ended after {done} of {size} bytes"
                raise Unreachable([(response.endpoint, why)], outcome_known=True)
        except Unreachable:
            fruitless = fruitless + 1 if done == before else 0
            if not query or fruitless >= MOST_RESUMED:
                raise
            query["from"] = str(done)
        except Refused as refused:
            # The member was started again, or another one answered, or the file was kept for long enough.
            if not query or refused.status not in _GONE or begun_anew >= MOST_BEGUN_ANEW:
                raise
            begun_anew += 1
            query, done = {}, 0
            file.seek(0)
            file.truncate()
        await trio.sleep(RESUME_PAUSE)


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
                with trio.fail_after(PIECE_SECONDS if done else 10 * PIECE_SECONDS):
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
