"""Parses the head of an HTTP/1 request by a strict grammar, and remembers heads that were parsed (RFC
9112).

The meaning of a head is a pure function of exactly its bytes, from the first letter to the empty line that
ends it: `parse_head` looks at nothing else. So what is remembered for a head cannot depend on who sent it
first, on what came before it on the connection, or on how the bytes were split into reads.

Nothing is guessed. Where the RFC lets a server choose between repairing and refusing, this one refuses:
lines end with CRLF; folded lines, bare CR, bare LF and NUL are errors; and a field that decides where a
message ends or who asks (Host, Content-Length, Transfer-Encoding, Authorization) may occur once only. So
two readers of the same bytes, such as a proxy and this server, cannot see different messages (request
smuggling).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.net.exchange import Request

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNKED: Final = -1
"""In place of the length of a body: chunked."""

KNOWN_HEADS: Final = 4096
"""Heads that are remembered. At this bound, or that of bytes, all are forgotten."""

KNOWN_HEAD_BYTES: Final = 1024
"""Heads longer than this are not remembered."""

KNOWN_BYTES: Final = 2 * 1024 * 1024
"""Bytes of all heads that are remembered; their parsed form takes a few times as much memory."""

METHOD_BYTES: Final = 64
"""The longest method; the longest one registered has 17."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_LINE: Final = rb"%b++:[\t -~\x80-\xff]*+\r\n" % _TOKEN
_HEAD: Final = re.compile(
    rb"(%b{1,%d}+) ([!-~\x80-\xff]++) HTTP/([0-9]\.[0-9])\r\n(?:%b)*+\r\n"
    % (_TOKEN, METHOD_BYTES, FIELD_LINE)
)
_START: Final = re.compile(rb"%b{1,%d}+(?: |\Z)" % (_TOKEN, METHOD_BYTES))
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_READ: Final = re.compile(
    rb"\r\n(authorization|connection|content-length|content-type|cookie|expect|host|origin"
    rb"|proxy-authorization|traceparent|transfer-encoding):([^\r]*+)",
    re.IGNORECASE,
)
"""The fields that are used here, in a head that is known to be well-formed."""
_HOST: Final = re.compile(rb"(?:\[[0-9A-Za-z:.%_~\-]+\]|[0-9A-Za-z\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://([^/?#]++)")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CLOSE: Final = re.compile(rb"(?:\A|,)[\t ]*+close[\t ]*+(?:,|\Z)", re.IGNORECASE)
_KEEP_ALIVE: Final = re.compile(rb"(?:\A|,)[\t ]*+keep-alive[\t ]*+(?:,|\Z)", re.IGNORECASE)
_SLASH: Final = ord("/")
_GRAMMAR: Final = b"malformed request line or header line (lines end with CRLF)"
_ENDS_CHUNKED: Final = re.compile(rb"(?:.*,)?[\t ]*+chunked", re.IGNORECASE)


class Malformed(Exception):  # noqa: N818 - named for what the bytes are
    """The request is malformed or not supported; `status` and `text` are the answer."""

    def __init__(self, status: int, text: bytes) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class Head(msgspec.Struct, eq=False):
    """A parsed head: the request without its body, and the body's length in bytes, or `CHUNKED`."""

    request: Request
    length: int
    private: bool
    """It contains credentials, or what no other request has: it is not remembered."""


def parse_head(head: bytes) -> Head:
    """Parse one complete head, which ends with its empty line; raises Malformed. O(bytes)."""
    whole = _HEAD.fullmatch(head)
    if whole is None:
        raise _bad(_GRAMMAR)
    method, target, version = whole.groups()
    request = Request(method, b"")
    if version != b"1.1":
        if version != b"1.0":
            status = 400 if version < b"1" else 505
            raise Malformed(status, b"%d unsupported protocol version" % status)
        request.version = version
    length = coding = None
    private = closes = stays = False
    for written, padded in _READ.findall(head, whole.end(3)):
        name, value = written.lower(), padded.strip(b" \t")
        if name == b"host":
            request.host = _once(request.host, value, b"Host")
        elif name == b"content-length":
            length = _once(length, value, b"Content-Length")
        elif name == b"content-type":
            request.content_type = value if request.content_type is None else request.content_type
        elif name == b"transfer-encoding":
            coding = _once(coding, value, b"Transfer-Encoding")
        elif name == b"connection":
            closes = closes or _CLOSE.search(value) is not None
            stays = stays or _KEEP_ALIVE.search(value) is not None
        elif name == b"authorization":
            request.authorization = _once(request.authorization, value, b"Authorization")
            private = True
        elif name == b"origin":
            request.origin = value if request.origin is None else request.origin
        elif name == b"traceparent":
            request.traceparent = value if request.traceparent is None else request.traceparent
            private = True
        elif name == b"expect":
            request.expects_continue = version == b"1.1" and value.lower() == b"100-continue"
        else:
            private = True
    if closes or version != b"1.1":
        request.keep_alive = stays and not closes
    request.is_plain = version == b"1.1" and method != b"HEAD"
    if request.host is None:
        if version == b"1.1":
            raise _bad(b"missing required Host header")
    elif _HOST.fullmatch(request.host) is None:
        raise _bad(b"malformed Host header")
    if target[0] != _SLASH or method == b"CONNECT":
        target = _path_of(request, target)
    request.path, _, request.query = target.partition(b"?")
    if length is None and coding is None:
        return Head(request, 0, private)
    return Head(request, _length_of(length, coding, version), private)


def refuse_unfinished(begun: bytes | bytearray, searched: int, limit: int) -> None:
    """Raise Malformed if no more bytes can complete this beginning to a head of at most `limit` bytes.

    The part before `searched` was examined already. However the bytes are split into reads, the same
    stream is refused in the same way: a syntax error within the limit has precedence over the length.
    O(bytes not searched).
    """
    if _START.match(begun, 0, METHOD_BYTES + 1) is None or _BARE_LF.search(begun, searched, limit):
        raise _bad(_GRAMMAR)
    if len(begun) >= limit:
        raise Malformed(431, b"431 Request Header Fields Too Large")


class KnownHeads:
    """Remembers parsed heads: clients repeat themselves, and a look-up costs a fifth of parsing. Heads
    with credentials are never kept. Bounded in number and in bytes; a `count` of 0 remembers nothing.
    """

    __slots__ = ("_count", "_heads", "_size", "find")

    def __init__(self, count: int = KNOWN_HEADS) -> None:
        self._count = count
        self._heads: dict[bytes, Head] = {}
        self.find: Callable[[bytes], Head | None] = self._heads.get
        """The parsed head for these bytes, if it is remembered: of a complete head only."""
        self._size = 0

    def __len__(self) -> int:
        return len(self._heads)

    @property
    def size(self) -> int:
        """Bytes of the heads that are remembered."""
        return self._size

    def read(self, head: bytes) -> Head:
        """The parsed head for a complete head; raises Malformed."""
        return self.find(head) or self.learn(head)

    def learn(self, head: bytes) -> Head:
        """The same for a head that `find` does not know."""
        meaning = parse_head(head)
        if self._count and len(head) <= KNOWN_HEAD_BYTES and not meaning.private:
            if len(self._heads) >= self._count or self._size + len(head) > KNOWN_BYTES:
                self._heads.clear()
                self._size = 0
            self._heads[head] = meaning
            self._size += len(head)
        return meaning


def _path_of(request: Request, target: bytes) -> bytes:
    """Path and query of a request target that contains more than these; sets the host that it contains
    (RFC 9112, 3.2).
    """
    if request.method == b"CONNECT":
        raise Malformed(501, b"501 Not Implemented: no tunnel is opened here")
    if target == b"*" and request.method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.match(target)
    if absolute is None or _HOST.fullmatch(absolute[1]) is None:
        raise _bad(b"malformed request target")
    request.host = absolute[1]
    rest = target[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _length_of(length: bytes | None, coding: bytes | None, version: bytes) -> int:
    """The length of the body, from Content-Length and Transfer-Encoding (RFC 9112, 6)."""
    if coding is not None:
        if length is not None:
            raise _bad(b"both Content-Length and Transfer-Encoding")
        if version == b"1.0":
            raise _bad(b"Transfer-Encoding in HTTP/1.0")
        if coding.lower() == b"chunked":
            return CHUNKED
        if _ENDS_CHUNKED.fullmatch(coding) is None:
            raise _bad(b"the last Transfer-Encoding must be chunked")
        raise Malformed(501, b"501 Not Implemented: no Transfer-Encoding but chunked is known")
    if length is None or _LENGTH.fullmatch(length) is None:
        raise _bad(b"malformed Content-Length")
    return int(length)


def _once(before: bytes | None, value: bytes, name: bytes) -> bytes:
    if before is not None:
        raise _bad(b"more than one %b header" % name)
    return value


def _bad(why: bytes) -> Malformed:
    return Malformed(400, b"400 Bad Request: " + why)
