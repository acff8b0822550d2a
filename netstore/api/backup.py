"""Full backups over the admin endpoints:

* `GET /netstore/backup`: make one, and send the file (contrib/doc/format-backup.md);
* `GET /netstore/backup?id=ID&from=OFFSET`: the rest of one whose transfer broke.

The header fields `X-Netstore-Backup` and `X-Netstore-Backup-Bytes` have the id and the size of the whole
file. A transfer that broke can be resumed at the same member for `RESUME_SECONDS`; then the file is gone, and
so it is when another backup is asked for. Refusals: 409 if a backup is being made or sent, 410 if there is
none to resume, 503 if it could not be made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from netstore.api.http.body import BadBody
from netstore.api.http.responses import JSON, json_line, method_allowed
from netstore.disk.readahead import read_ahead
from netstore.errors import Fault, Reason
from netstore.net.exchange import field_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.disk.closer import Closer
    from netstore.net.exchange import Exchange
    from netstore.node.backup import FullCopy
    from netstore.seams import After, Alarm

RESUME_SECONDS: Final = 120.0
"""How long a file is kept after its transfer ended or broke."""

PIECE_BYTES: Final = 64 * 1024
"""Read and sent at a time."""

MOST_UNSENT: Final = 256 * 1024
"""Unsent bytes of a connection up to which more is read from the file: 4 pieces in one go."""

_OCTETS: Final = b"Content-Type: application/octet-stream\r\n"


class FullBackupSource(Protocol):
    """Makes full backups (`node.backup.Backups`)."""

    def make_full(self, done: Callable[[FullCopy | Fault], None], folder: Path | None = None) -> None:
        """Make one that contains everything acknowledged so far. The receiver has to remove the file."""


class BackupApi:
    """Handles requests for `/netstore/backup`. At most one file is kept, without a name, so that it is gone
    with the process.
    """

    def __init__(self, source: FullBackupSource, closer: Closer, after: After) -> None:
        self._source = source
        self._closer = closer
        self._after = after
        self._kept: _Kept | None = None

    def handle(self, exchange: Exchange) -> None:
        """Answer once there is a file. BadBody for a request that cannot be served."""
        if not method_allowed(exchange, b"GET"):
            return
        query = dict(pair.partition(b"=")[::2] for pair in exchange.request.query.split(b"&")[:8])
        if b"id" in query:
            self._resume(exchange, query[b"id"], query.get(b"from", b"0"))
            return
        if self._kept is not None and self._kept.is_being_sent:
            raise BadBody(409, "a backup is being sent to another client; try again when that is done")
        self._forget()
        self._source.make_full(lambda made: self._made(exchange, made))

    def _made(self, exchange: Exchange, made: FullCopy | Fault) -> None:
        if isinstance(made, Fault):
            text = made.cause.decode("utf-8", "replace")
            _refuse(exchange, 409 if made.reason is Reason.SNAPSHOT_BUSY else 503, text)
            return
        self._forget()
        try:
            file = made.path.open("rb")
            made.path.unlink()
        except OSError as error:
            _refuse(exchange, 503, f"{made.path.name}: {error.strerror or error}")
            return
        self._kept = kept = _Kept(file, made.found.header.id.encode(), made.found.size, self._closer)
        self._send(exchange, kept, 0)

    def _resume(self, exchange: Exchange, id_: bytes, offset: bytes) -> None:
        kept = self._kept
        if kept is None or kept.id != id_:
            raise BadBody(410, "id: there is no such backup to be resumed here any more; begin anew")
        if kept.is_being_sent:
            raise BadBody(409, "id: this backup is being sent; try again when that is over")
        if not offset.isdigit() or len(offset) > 19 or int(offset) > kept.size:
            raise BadBody(400, f"from: must be a number of bytes, at most {kept.size}")
        self._send(exchange, kept, int(offset))

    def _send(self, exchange: Exchange, kept: _Kept, offset: int) -> None:
        kept.stop_waiting()
        kept.alarm = self._after(RESUME_SECONDS, self._expire)
        fields = field_line(b"X-Netstore-Backup", kept.id)
        fields += field_line(b"X-Netstore-Backup-Bytes", b"%d" % kept.size)
        kept.sender = sender = _Sender(exchange, kept, offset, self._over)
        exchange.on_gone(sender.gone)
        exchange.begin(200, _OCTETS + fields, endless=False)
        sender.go_on()

    def _expire(self) -> None:
        """The time is over in which a transfer may be resumed, unless one is under way."""
        kept = self._kept
        if kept is not None and kept.is_being_sent:
            kept.alarm = self._after(RESUME_SECONDS, self._expire)
        else:
            self._forget()

    def _over(self, kept: _Kept) -> None:
        """A transfer has ended. What was given to the connection last may not have reached the client."""
        kept.sender = None
        kept.stop_waiting()
        if self._kept is kept:
            kept.alarm = self._after(RESUME_SECONDS, self._expire)
        else:
            kept.close()

    def close(self) -> None:
        """Remove the file, if there is one. When the member stops."""
        self._forget()

    def _forget(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.stop_waiting()
            kept.close()


class _Kept:
    """The file of a backup, to be sent or resumed."""

    def __init__(self, file: BinaryIO, id_: bytes, size: int, closer: Closer) -> None:
        self.file = file
        self._closer = closer
        self.id = id_
        self.size = size
        self.sender: _Sender | None = None
        """Who sends it now."""
        self.alarm: Alarm | None = None

    @property
    def is_being_sent(self) -> bool:
        return self.sender is not None

    def stop_waiting(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None

    def close(self) -> None:
        self._closer.close(self.file)


class _Sender:
    """Sends the rest of a file to one client, as fast as it reads. The pieces come from the page cache, as a
    rule: the file was written just now, and what left it since is fetched ahead.
    """

    def __init__(self, exchange: Exchange, kept: _Kept, offset: int, over: Callable[[_Kept], None]) -> None:
        self._exchange = exchange
        self._kept = kept
        self._at = offset
        self._over: Callable[[_Kept], None] | None = over

    def go_on(self) -> None:
        """Send what the connection takes now."""
        exchange, kept = self._exchange, self._kept
        while self._over is not None and exchange.backlog < MOST_UNSENT:
            file = kept.file.fileno()
            read_ahead(file, self._at, PIECE_BYTES)
            piece = os.pread(file, PIECE_BYTES, self._at)
            if not piece:
                self.gone()
                exchange.end()
                return
            self._at += len(piece)
            if not exchange.push(piece):
                self.gone()
                return
        if self._over is not None and not exchange.on_drained(self.go_on):
            self.gone()

    def gone(self) -> None:
        """The client has disconnected, or was given everything."""
        over, self._over = self._over, None
        if over is not None:
            over(self._kept)


def _refuse(exchange: Exchange, status: int, message: str) -> None:
    exchange.respond(status, JSON, json_line({"message": message}))
