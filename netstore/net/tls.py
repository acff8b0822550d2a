"""TLS: contexts that follow their files, and a TLS stream without a socket.

    credentials = Credentials(certificate, key, trusted, client_auth=True, log=log)    once, at the start
    tunnel = Tunnel(credentials.server(), None)         called side: for each accepted socket
    tunnel = Tunnel(credentials.client(), "host")       calling side: send `begin()` first
    plain = tunnel.take(data)                           data read from the socket; TlsFailed ends the stream
    socket.send(tunnel.outbound())                      after each `take`, also one that failed
    socket.send(tunnel.send(plain))                     once `tunnel.open`

The caller bounds the time until `open`: a peer that never finishes its handshake holds a socket and two
empty buffers until then.

The minimum version is 1.2 or greater (RFC 8996 deprecates what is older). Certificates are read again when a
file has changed, at the next handshake; if the files cannot be read then, that is logged once and the
previous ones stay in use.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any, Final

from netstore.errors import NetstoreError
from netstore.inputfile import UnusableFile, open_input
from netstore.net.tlspolicy import BadFile, CertificateRule, NoKey, TlsFailed, TlsPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.seams import Log

RECORD_SECONDS: Final = 30.0
"""Time limit for an incomplete record, from the sweep that first sees it: 16 KiB, at more than half a KiB a
second.
"""

_SOURCE: Final = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")
"""The library's name before the error text, and the place in its source after it."""

MAX_PEM_BYTES: Final = 16 * 1024 * 1024
"""Largest file of certificates and keys; all public authorities together have a fiftieth of it."""

_READ_BYTES: Final = 256 * 1024
_RECORD_HEAD: Final = 5


__all__ = ["BadFile", "Context", "Credentials", "NoKey", "TlsFailed", "TlsPolicy", "Tunnel"]


class Context(ssl.SSLContext):
    """A context whose streams check the other's certificate by a rule, too."""

    rule: CertificateRule | None = None


def load_certificate(
    context: ssl.SSLContext, certificate: Path | str, key: Path | str | None, prefix: str = ""
) -> None:
    """Load a certificate and its key, which may be in the same file. `BadFile` if that fails; it names the
    setting `cert_file` or `key_file`, after `prefix`.
    """
    key_setting = f"{prefix}key_file" if key else f"{prefix}cert_file"
    _check_readable(certificate, f"{prefix}cert_file", "a certificate")
    if key:
        _check_readable(key, key_setting, "a private key")
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
    else:
        return
    if mismatch:
        problem, fix = (
            f"{key or certificate}: is not the key of {certificate}",
            "give the key that belongs to it",
        )
        raise BadFile(key_setting, problem, fix) from None
    load_authorities(
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, f"{prefix}cert_file", "a certificate"
    )
    without = "holds no private key in PEM form without a password"
    if not key:
        raise NoKey(key_setting, f"{certificate}: {without}", f"give {prefix}key_file, too")
    raise BadFile(key_setting, f"{key}: {without}", "give the PEM file of the certificate's key")


def load_authorities(
    context: ssl.SSLContext, file: Path | str, setting: str, what: str = "authorities' certificates"
) -> None:
    """Trust the certificates in a PEM file. `BadFile` if that fails."""
    _check_readable(file, setting, what)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise BadFile(
            setting, f"{file}: holds no certificate in PEM form", f"give a PEM file of {what}"
        ) from None


def _check_readable(file: Path | str, setting: str, what: str) -> None:
    """`BadFile` if it cannot be read at once: the TLS library would wait, and says less."""
    fix = f"give a PEM file of {what} that can be read"
    try:
        with open_input(file, fix, most=MAX_PEM_BYTES) as opened:
            opened.read(1)
    except UnusableFile as error:
        raise BadFile(setting, f"{file}: {error.problem}", fix) from None
    except OSError as error:
        raise BadFile(setting, f"{file}: {error.strerror}", fix) from None


class Credentials:
    """A certificate, its key, and trusted authorities; for both ends of a stream.

    Called for each new stream: `server` at the called side, `client` at the calling side. Both check
    whether a file has changed, which costs about 5 us.

    `trusted` is the file of the authorities whose certificates are accepted from others, None for those of
    the system. With `client_auth` a caller must present one of theirs. `alpn` lists the protocols of the
    called side, the preferred one first (RFC 7301).
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
        prefix: str = "",
        policy: TlsPolicy | None = None,
        calling: tuple[Path, Path] | None = None,
        open_keys: bool = False,
    ) -> None:
        """Read the files. `BadFile` if certificate and key do not match, or other users may read the key; it
        names the settings `cert_file`, `key_file` and `trusted_ca_file`, after `prefix`.

        `calling` is another certificate, with its key, for the calling side. A key that other users may read
        is used with a warning if it is root's, as in a mounted Kubernetes Secret, or if `open_keys` is set.
        """
        self._prefix = prefix
        self._policy = policy or TlsPolicy()
        self._calling = calling
        self._open_keys = open_keys
        self._certificate = certificate
        self._key = key
        self._trusted = trusted
        self.client_auth = client_auth
        """Callers must present a certificate of a trusted authority."""
        self._alpn = alpn
        self._log = log
        self._seen = self._stamp()
        self._logged = ""
        self._server, self._client = self._read()

    def server(self) -> ssl.SSLContext:
        """The context of the called side."""
        self._refresh()
        return self._server

    def client(self) -> ssl.SSLContext:
        """The context of the calling side; it verifies the name in the peer's certificate."""
        self._refresh()
        return self._client

    def _refresh(self) -> None:
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._server, self._client = self._read()
        except NetstoreError as fault:
            if str(fault) != self._logged:
                self._logged = str(fault)
                self._log.warning("certificates_not_read", error=str(fault), kept="those from before")
            return
        self._seen, self._logged = stamp, ""
        self._log.info("certificates_read", file=str(self._certificate))

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """A value that changes when a file does."""
        files = {f"{self._prefix}cert_file": self._certificate, f"{self._prefix}key_file": self._key}
        if self._trusted is not None:
            files[f"{self._prefix}trusted_ca_file"] = self._trusted
        if self._policy.revoked is not None:
            files[self._list_setting] = self._policy.revoked
        if self._calling is not None:
            files[f"{self._prefix}client_cert_file"], files[f"{self._prefix}client_key_file"] = self._calling
        found = []
        for name, file in files.items():
            try:
                status = file.stat()
            except OSError as error:
                raise BadFile(name, f"{file}: {error.strerror}", "name a PEM file that can be read") from None
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        server = Context(ssl.PROTOCOL_TLS_SERVER)
        client = Context(ssl.PROTOCOL_TLS_CLIENT)
        own = (self._certificate, self._key)
        for context, (certificate, key), prefix in (
            (server, own, self._prefix),
            (client, self._calling or own, f"{self._prefix}client_" if self._calling else self._prefix),
        ):
            self._policy.apply(context)
            load_certificate(context, certificate, key, prefix)
            context.rule = self._policy.rule(self._list_setting)
            if self._trusted is None:
                context.load_default_certs()
            else:
                load_authorities(context, self._trusted, f"{self._prefix}trusted_ca_file")
        self._check_key(self._key, self._prefix)
        if self._calling is not None:
            self._check_key(self._calling[1], f"{self._prefix}client_")
        if self.client_auth:
            server.verify_mode = ssl.CERT_REQUIRED
        if self._policy.revoked is not None:  # a ticket has the caller's certificate without its issuers
            server.num_tickets = 0
            server.options |= ssl.OP_NO_TICKET
        if not self._policy.verifies:
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
        if self._alpn:
            server.set_alpn_protocols(list(self._alpn))
        return server, client

    @property
    def _list_setting(self) -> str:
        return f"{self._prefix or 'client_'}crl_file"

    def _check_key(self, key: Path, prefix: str) -> None:
        """Refuse, or warn of, a key that other users may read. Called only when the file is known to be a
        key: no other file should be made private.
        """
        status = key.stat()
        if not status.st_mode & 0o007:
            return
        mode, setting = f"{status.st_mode & 0o777:04o}", f"{prefix}key_file"
        if self._open_keys or status.st_uid == 0:
            self._log.warning("others_can_read_key", setting=setting, file=str(key), mode=mode)
            return
        raise BadFile(setting, f"{key}: mode {mode} lets other users read it", f"run chmod 600 {key}")


class Tunnel:
    """One end of a TLS stream: bytes in, bytes out. Plaintext may be sent once it is `open`."""

    __slots__ = (
        "_ended",
        "_head",
        "_inbound",
        "_left",
        "_outbound",
        "_rule",
        "_timed",
        "_tls",
        "open",
        "partial",
        "record_since",
        "records",
    )

    def __init__(self, context: ssl.SSLContext, host: str | None) -> None:
        """`host` is the name to verify, None at the called side."""
        self._rule = context.rule if isinstance(context, Context) else None
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
        """Number of records received, with the one that is incomplete."""
        self.partial = 0
        """Bytes of the incomplete record, at most 16 KiB: the library holds them."""

        self._timed = 0
        """Which record is timed, since `record_since`."""
        self.record_since = 0.0

    @property
    def protocol(self) -> str | None:
        """The protocol agreed on by ALPN; None without agreement, and before it is `open`."""
        return self._tls.selected_alpn_protocol()

    @property
    def common_name(self) -> str | None:
        """The common name of the peer's certificate, if it presented one that was verified."""
        shown = self._tls.getpeercert() if self.open else None
        subject: Any = (shown or {}).get("subject", ())
        names = [value for part in subject for name, value in part if name == "commonName"]
        return names[0] if names else None

    @property
    def ended(self) -> bool:
        """The peer has ended the stream (close_notify)."""
        return self._ended

    def begin(self) -> bytes:
        """The first bytes to send; none at the called side."""
        self._shake()
        return self._outbound.read()

    def take(self, data: bytes) -> bytes:
        """The plaintext that `data` completes. TlsFailed if the stream must end.

        Call `outbound` afterwards, also if it failed: it has the alert for the peer.
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
            raise TlsFailed(error_text(error)) from None
        return b"".join(pieces)

    def _follow(self, data: bytes) -> None:
        """Count records by their headers: three bytes, and two of length (RFC 8446, 5.1). O(records)."""
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
        """`data` encrypted, with anything else that waits to be sent."""
        if data:
            self._tls.write(data)
        return self._outbound.read()

    def close(self) -> bytes:
        """The last bytes to send: close_notify, so that the end cannot be forged (RFC 8446, 6.1)."""
        with contextlib.suppress(ssl.SSLError):  # the peer's close_notify is not waited for
            self._tls.unwrap()
        return self._outbound.read()

    def outbound(self) -> bytes:
        """What TLS itself has to send."""
        return self._outbound.read()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise TlsFailed(error_text(error)) from None
        if self._rule is not None:
            self._rule.check(self._tls.getpeercert(), self._chain() if self._rule.revoked else ())
        self.open = True

    def _chain(self) -> list[dict[str, Any]]:
        """The certificates that the peer showed, and those between its own and a trusted authority."""
        tls: Any = self._tls._sslobj  # type: ignore[attr-defined] # noqa: SLF001 - public from Python 3.13 on
        found = (*(tls.get_unverified_chain() or ()), *(tls.get_verified_chain() or ()))
        return [each.get_info() for each in found]


def error_text(error: OSError) -> str:
    """The text of an error of TLS or its files, without line numbers of the library's source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or _SOURCE.sub("", str(error))).replace("_", " ").lower()
    return error.strerror or str(error)
