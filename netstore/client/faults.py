"""How a request to a store fails, in words; with the limits and TLS settings that all clients share. Loaded
without httpx.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import Final, NamedTuple

from netstore.errors import NetstoreError
from netstore.net.tls import error_text, load_authorities, load_certificate

TIMEOUT: Final = 8.0
"""Seconds for one endpoint to answer: more than the 7 s after which a store without quorum gives up itself.
"""

CONNECT_TIMEOUT: Final = 1.0
"""Seconds to make a connection (as flannel configures Go's etcd client)."""

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A listing of 100,000 leases is a third of it."""

SOCKET_OPTIONS: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]
"""Ends a long poll about 25 s after the network path or the other host is lost."""

_CERTIFICATE_ALERT: Final = re.compile("ALERT_(.*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""OpenSSL's names of alerts about the client's certificate."""

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's names, in one release or another, for an answer that is not TLS."""

_UNEXPECTED_EOF: Final = "UNEXPECTED_EOF_WHILE_READING"

_UNKNOWN_ISSUER: Final = (18, 19, 20, 21)
"""OpenSSL's codes for a certificate that no trusted authority signed (X509_V_ERR_*)."""

CLOSED_EARLY: Final = "it closed the connection without an answer; is that its peer port, or https:// there?"

CONNECT_TIMED_OUT: Final = "no connection, or no end of its TLS handshake, in time"


class ClientError(NetstoreError):
    """A request without a useful answer. `outcome_known` is False if a write may have happened or may still
    happen.
    """

    outcome_known: bool = True
    is_denied: bool = False
    """The store refuses this to the user that asks."""


class Unreachable(ClientError):  # noqa: N818 - named for what was found
    """No endpoint answered in time. The text says for each what happened."""

    def __init__(self, tried: list[tuple[str, str]], *, outcome_known: bool) -> None:
        super().__init__(tried)
        self.tried = tried
        self.outcome_known = outcome_known

    @property
    def is_refused(self) -> bool:
        """Whether a certificate is why, at each endpoint: it is so until somebody changes one."""
        return all(isinstance(why, CertificateRefused) for _, why in self.tried)

    def __str__(self) -> str:
        text = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in self.tried)
        return f"no endpoint answered ({text})" if self.outcome_known else f"outcome unknown ({text})"


class CertificateRefused(str):
    """Why a request failed, if that is a certificate: the store's, or the one that it was shown."""

    __slots__ = ()


class BadAnswer(ClientError):  # noqa: N818 - named for what was found
    """An answer that is not of the API that was expected, or too long. The text names the endpoint and what
    it sent.
    """

    def __init__(
        self, endpoint: str, problem: str, *, status: int = 0, outcome_known: bool = True, fix: str = ""
    ) -> None:
        """`fix` says what to do if it is not the endpoint that is wrong."""
        super().__init__(endpoint, problem)
        self.fix = fix
        self.endpoint = endpoint
        self.problem = problem
        self.status = status
        self.outcome_known = outcome_known

    def __str__(self) -> str:
        return f"{self.endpoint} {self.problem}"


class TooLong(BadAnswer):
    """An answer of more bytes than are read."""

    def __init__(self, endpoint: str, most: int, *, status: int, outcome_known: bool) -> None:
        super().__init__(endpoint, f"sent more than {most} bytes", status=status, outcome_known=outcome_known)


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """A client's TLS settings: trusts the system's authorities, or those in `ca_file` alone; with a
    certificate of its own if one is given. `BadFile` names the parameter.
    """
    if ca_file:
        load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file, "ca_file")
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file:
        load_certificate(context, cert_file, key_file or None)
    return context


class TlsNames(NamedTuple):
    """What the user calls the files of a client's TLS: settings, or options of a command."""

    ca_file: str = "ca_file"
    cert_file: str = "cert_file"


SETTINGS: Final = TlsNames()


class TlsFiles(NamedTuple):
    """The files of a client's TLS, for its messages."""

    ca_file: str | None = None
    cert_file: str | None = None
    names: TlsNames = SETTINGS


def reason(error: BaseException, files: TlsFiles | None = None, *, in_handshake: bool = False) -> str:
    """Why a request failed, in words; `in_handshake` if it may have been that of TLS."""
    files = files or TlsFiles()
    fault = tls_fault(error)
    if fault is not None:
        text = f"TLS: {_tls_reason(fault, files, in_handshake=in_handshake)}"
        is_refusal = isinstance(fault, ssl.SSLCertVerificationError) or rejects_certificate(fault)
        return CertificateRefused(text) if is_refusal else text
    if isinstance(error, BaseExceptionGroup):
        return reason(error.exceptions[0], files, in_handshake=in_handshake)
    return system_error(error) or str(error) or "the connection broke"


def _tls_reason(fault: ssl.SSLError, files: TlsFiles, *, in_handshake: bool) -> str:
    text = error_text(fault)
    if isinstance(fault, ssl.SSLCertVerificationError) and fault.verify_code in _UNKNOWN_ISSUER:
        name = files.names.ca_file
        has_ca = f"{name} {files.ca_file} has not signed it"
        return f"{text}; {has_ca if files.ca_file else f'give its authority as {name}'}"
    if rejects_certificate(fault):
        name = files.names.cert_file
        what = f"{name} {files.cert_file} is none" if files.cert_file else f"give {name}"
        return f"{text}: the store wants a certificate of ours that it trusts; {what}"
    if in_handshake and (isinstance(fault, ssl.SSLEOFError) or fault.reason == _UNEXPECTED_EOF):
        return "it closed the connection in the handshake; is it http:// there?"
    return f"{text}; is it http:// there?" if fault.reason in _NO_TLS else text


def tls_fault(error: BaseException) -> ssl.SSLError | None:
    """The TLS error behind an error of a library that does not name it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


def rejects_certificate(error: BaseException) -> bool:
    """The store does not accept the client's certificate. With TLS 1.3 it may say so after the request was
    sent (RFC 8446, 4.4.2.4 and 6.2), which it has not read then.
    """
    fault = tls_fault(error)
    return fault is not None and _CERTIFICATE_ALERT.search(fault.reason or "") is not None


def system_error(error: BaseException) -> str:
    """The system's message behind a failed connection, without the address that other messages repeat."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return cause.strerror or ""
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return ""
