"""TLS between programs: contexts that follow their files, and a tunnel that knows no socket.

    credentials = Credentials(certificate, key, trusted, client_auth=True, log=log)    at the start, once
    tunnel = Tunnel(credentials.server(), None)         called: for each socket that was accepted
    tunnel = Tunnel(credentials.client(), "host")       calling: send `begin()` first
    plain = tunnel.take(data)                           what was read from the socket; TlsFailed ends it
    socket.send(tunnel.outbound())                      after each `take`, also one that failed
    socket.send(tunnel.send(plain))                     once `tunnel.open`

The caller bounds how long it waits for `open`: a peer that never finishes its handshake holds a socket and
two empty buffers until then.

Minimum version 1.2 (RFC 8996 ends what is older). Certificates are read again when a file changes, at the
next handshake; files that cannot be read then are told once, and what was read before stays in use.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any, Final

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.seams import Log

RECORD_SECONDS: Final = 30.0
"""Time limit for an incomplete record, from the sweep that first sees it: 16 KiB, at more than half a KiB a
second.
"""

_SOURCE: Final = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")
"""The library's name before what went wrong, and the place in its source after it."""

_READ_BYTES: Final = 256 * 1024
_RECORD_HEAD: Final = 5


class TlsFailed(NetstoreError):  # noqa: N818 - named for what happened
    """The other side is not who it should be, or what it sent is not TLS. The text says what."""


class Credentials:
    """A certificate, its key, and whom to trust; for both ends of a stream.

    Called for each new stream: `server` at the side that is called, `client` at the side that calls. Both
    look whether a file has changed, which costs about 5 us.

    `trusted` is the file of the authorities whose certificates are accepted from others, None for those of
    the system. With `client_auth` who calls must show one of theirs. `alpn` names the protocols that the
    called side speaks, best first (RFC 7301).
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        trusted: Path | None,
        *,
        client_auth: bool,
        log: Log,
        alpn: tuple[str, ...] = (),
    ) -> None:
        """Read the files. NetstoreError when they do not make a pair, or the key is open to others."""
        self._certificate = certificate
        self._key = key
        self._trusted = trusted
        self.client_auth = client_auth
        """Whether who calls must show a certificate of a trusted authority."""
        self._alpn = alpn
        self._log = log
        self._seen = self._stamp()
        self._told = ""
        self._server, self._client = self._read()

    def server(self) -> ssl.SSLContext:
        """For who is called."""
        self._refresh()
        return self._server

    def client(self) -> ssl.SSLContext:
        """For who calls; checks the name in the other's certificate."""
        self._refresh()
        return self._client

    def _refresh(self) -> None:
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._server, self._client = self._read()
        except NetstoreError as fault:
            if str(fault) != self._told:
                self._told = str(fault)
                self._log.warning("certificates_not_read", error=str(fault), kept="those from before")
            return
        self._seen, self._told = stamp, ""
        self._log.info("certificates_read", file=str(self._certificate))

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file does."""
        files = [self._certificate, self._key]
        if self._trusted is not None:
            files.append(self._trusted)
        found = []
        for file in files:
            try:
                status = file.stat()
            except OSError as error:
                raise NetstoreError(f"{file}: {error.strerror}: name a PEM file that can be read") from None
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        mode = self._key.stat().st_mode
        if mode & 0o007:
            raise NetstoreError(
                f"{self._key}: mode {mode & 0o777:04o} lets other users read it: run chmod 600 {self._key}"
            )
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            try:
                context.load_cert_chain(self._certificate, self._key)
            except (ssl.SSLError, OSError) as error:
                raise NetstoreError(
                    f"{self._certificate} and {self._key}: {words(error)}: give a PEM certificate and the"
                    " key that belongs to it"
                ) from None
            self._trust(context)
        if self.client_auth:
            server.verify_mode = ssl.CERT_REQUIRED
        if self._alpn:
            server.set_alpn_protocols(list(self._alpn))
        return server, client

    def _trust(self, context: ssl.SSLContext) -> None:
        if self._trusted is None:
            context.load_default_certs()
            return
        try:
            context.load_verify_locations(self._trusted)
        except (ssl.SSLError, OSError) as error:
            raise NetstoreError(
                f"{self._trusted}: {words(error)}: give a PEM file of authorities' certificates"
            ) from None


class Tunnel:
    """One end of a TLS stream as bytes in, bytes out. Plain bytes may be sent once it is `open`."""

    __slots__ = (
        "_ended",
        "_head",
        "_inbound",
        "_left",
        "_outbound",
        "_timed",
        "_tls",
        "open",
        "partial",
        "record_since",
        "records",
    )

    def __init__(self, context: ssl.SSLContext, host: str | None) -> None:
        """`host` is whom to expect, None at the side that was called."""
        self._inbound = ssl.MemoryBIO()
        self._outbound = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._inbound, self._outbound, server_side=host is None, server_hostname=host
        )
        self.open = False
        self._ended = False
        self._head = b""
        self._left = 0
        self.records = 0
        """Records that have begun."""
        self.partial = 0
        """Bytes of the last of them, whose rest has not come: the library keeps them, at most 16 KiB."""

        self._timed = 0
        """Which record is timed, since `record_since`."""
        self.record_since = 0.0

    @property
    def protocol(self) -> str | None:
        """What both sides chose to speak by ALPN; None when nothing was agreed, and before it is `open`."""
        return self._tls.selected_alpn_protocol()

    @property
    def common_name(self) -> str | None:
        """The common name in the other side's certificate, if it showed one that was checked."""
        shown = self._tls.getpeercert() if self.open else None
        subject: Any = (shown or {}).get("subject", ())
        names = [value for part in subject for name, value in part if name == "commonName"]
        return names[0] if names else None

    @property
    def ended(self) -> bool:
        """The other side has said that it sends nothing more."""
        return self._ended

    def begin(self) -> bytes:
        """What to send first; nothing at the side that was called."""
        self._shake()
        return self._outbound.read()

    def take(self, data: bytes) -> bytes:
        """The plain bytes that `data` completes. TlsFailed when the stream must end.

        Call `outbound` afterwards, also when it failed: the other side is told why.
        """
        self._inbound.write(data)
        self._follow(data)
        if not self.open:
            self._shake()
            if not self.open:
                return b""
        pieces = []
        try:
            while piece := self._tls.read(_READ_BYTES):
                pieces.append(piece)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            raise TlsFailed(words(error)) from None
        return b"".join(pieces)

    def _follow(self, data: bytes) -> None:
        """Count records by their heads: three bytes, and two of length (RFC 8446, 5.1). O(records)."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                if not self._head:
                    self.records += 1
                step = min(_RECORD_HEAD - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == _RECORD_HEAD:
                    self._left = int.from_bytes(self._head[3:])
                    self._head = b""
            at += step
            self.partial = self.partial + step if self._left or self._head else 0

    def is_record_late(self, now: float) -> bool:
        """Whether the incomplete record has exceeded its time limit, however often bytes of it arrive. To be
        called in each sweep; the time begins with the first call that sees this record.
        """
        if self.records != self._timed:
            self._timed, self.record_since = self.records, now
        return now - self.record_since > RECORD_SECONDS

    def send(self, data: bytes | memoryview) -> bytes:
        """`data` as it goes over the wire, with anything else that waits to be sent."""
        if data:
            self._tls.write(data)
        return self._outbound.read()

    def close(self) -> bytes:
        """What to send last: that nothing more comes, so that an end cannot be forged (RFC 8446, 6.1)."""
        with contextlib.suppress(ssl.SSLError):  # nobody waits for the other side to say so too
            self._tls.unwrap()
        return self._outbound.read()

    def outbound(self) -> bytes:
        """What the protocol itself wants to send."""
        return self._outbound.read()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise TlsFailed(words(error)) from None
        self.open = True


def words(error: OSError) -> str:
    """What went wrong with TLS or its files, without numbers of the library's source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or _SOURCE.sub("", str(error))).replace("_", " ").lower()
    return error.strerror or str(error)
