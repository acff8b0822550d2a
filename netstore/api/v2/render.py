"""The JSON and the header fields of the v2 keys API.

The only place that knows them (v2 API, answers and errors).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.seams import Clock
    from netstore.types import ClusterId, EtcdIndex, Event, Index, Nanos, NodeView, Term

JSON: Final = b"Content-Type: application/json\r\n"

_NANOS_PER_SECOND: Final = 1_000_000_000

_ESCAPED_ALIKE: Final = bytes(set(range(0x80)) - set(b"<>&\b\f"))
"""The bytes that msgspec and etcd write in the same way."""
_REPLACED: Final = tuple(
    (character.encode(), b"\\u%04x" % ord(character)) for character in ("<", ">", "&", "\u2028", "\u2029")
)
"""What msgspec leaves as it is and etcd escapes."""
_encode_string: Final = msgspec.json.Encoder().encode


def json_string(data: bytes) -> bytes:
    """Bytes as a JSON string, escaped as etcd does.

    What is not UTF-8 shows as the replacement character, byte by byte.

    Cost of a MB: about 3 ms, and as much again where anything is not UTF-8; 20 to 30 ms where every character
    is escaped.
    """
    special = data.translate(None, _ESCAPED_ALIKE)
    if not special:
        return _encode_string(data.decode("ascii"))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _json_string_repaired(data)
    shown = _encode_string(text)
    if b"\b" in special or b"\f" in special:
        # A raw NUL, which is never in what was encoded, stands for an escaped backslash meanwhile.
        shown = shown.replace(b"\\\\", b"\0").replace(b"\\b", b"\\u0008").replace(b"\\f", b"\\u000c")
        shown = shown.replace(b"\0", b"\\\\")
    for plain, escape in _REPLACED:
        shown = shown.replace(plain, escape)
    return shown


def _json_string_repaired(data: bytes) -> bytes:
    """The same where something is not UTF-8. Encoding with `replace` puts a question mark for each such byte;
    those that were there are written as `~b` meanwhile, and a tilde as `~a`.
    """
    marked = data.replace(b"~", b"~a").replace(b"?", b"~b").decode("utf-8", "surrogateescape")
    shown = json_string(marked.encode("utf-8", "replace"))
    return shown.replace(b"?", b"\\ufffd").replace(b"~b", b"?").replace(b"~a", b"~")


def expiration(instant: Nanos) -> bytes:
    """RFC 3339 in UTC, with nanoseconds and without their trailing zeros."""
    seconds, nanos = divmod(instant, _NANOS_PER_SECOND)
    text = _date_and_time(seconds)
    return text + (b".%09d" % nanos).rstrip(b"0") + b"Z" if nanos else text + b"Z"


@lru_cache(maxsize=8192)  # a listing of leases shows the same seconds again and again
def _date_and_time(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


class Renderer:
    """Renders for one member: its cluster id is in every head, its clock tells the time left."""

    def __init__(self, cluster: ClusterId, clock: Clock) -> None:
        self._clock = clock
        start = JSON + b"X-Etcd-Cluster-Id: %x\r\n" % cluster
        self._success = start + b"X-Etcd-Index: %d\r\nX-Raft-Index: %d\r\nX-Raft-Term: %d\r\n"
        self._failure = start + b"X-Etcd-Index: %d\r\n"

    def success_fields(self, index: EtcdIndex, commit: Index, term: Term) -> bytes:
        """Head of an answer or a watch."""
        return self._success % (index, commit, term)

    def fault_fields(self, fault: Fault) -> bytes:
        """Head of a refusal: without Raft's position."""
        return self._failure % fault.index

    @staticmethod
    def fault(fault: Fault) -> bytes:
        """Body of a refusal."""
        cause = b'"cause":%b,' % json_string(fault.cause) if fault.cause else b""
        return b'{"errorCode":%d,"message":"%b",%b"index":%d}\n' % (
            fault.code,
            fault.message.encode(),
            cause,
            fault.index,
        )

    def event(self, event: Event, *, past: bool = False) -> bytes:
        """A change or an answer, one line.

        `past`: from the window, where a time left that has run out is not shown.
        """
        node = self.node(event.node, past)
        if event.prev is None:
            return b'{"action":"%b","node":%b}\n' % (event.action.encode(), node)
        return b'{"action":"%b","node":%b,"prevNode":%b}\n' % (
            event.action.encode(),
            node,
            self.node(event.prev, past),
        )

    @staticmethod
    def action(event: Event) -> bytes:
        """A change without its nodes (`noValueOnSuccess`)."""
        return b'{"action":"%b"}\n' % event.action.encode()

    def node(self, view: NodeView, past: bool = False) -> bytes:
        """A node, with what was listed below it."""
        if view.value is not None and not view.expires:
            return b'{"key":%b,"value":%b,"modifiedIndex":%d,"createdIndex":%d}' % (
                json_string(view.key),
                json_string(view.value),
                view.modified,
                view.created,
            )
        if view.nodes:
            return self._listing(view, past)
        return self.opening(view, past) + closing(view)

    def _listing(self, top: NodeView, past: bool) -> bytes:
        """A directory with what was listed below it.

        A stack, not recursion: a path may be thousands of names deep.
        """
        parts: list[bytes] = []
        stack: list[NodeView | bytes] = [top]
        while stack:
            item = stack.pop()
            if isinstance(item, bytes):
                parts.append(item)
            elif item.nodes:
                parts.append(self.opening(item, past))
                stack.append(b"]" + closing(item))
                for child in reversed(item.nodes):
                    stack += (child, b",")
                stack[-1] = b',"nodes":['
            else:
                parts.append(self.node(item, past))
        return b"".join(parts)

    def opening(self, view: NodeView, past: bool = False) -> bytes:
        """A node up to where its `nodes` stand."""
        members = []
        if view.key != b"/":
            members.append(b'"key":' + json_string(view.key))
        if view.value is not None:
            members.append(b'"value":' + json_string(view.value))
        if view.dir:
            members.append(b'"dir":true')
        if view.expires:
            members.append(b'"expiration":"%b"' % expiration(view.expires))
            # The ceiling of the seconds left; when overdue, cut towards zero. Zero is left out.
            left = -((self._clock.wall() - view.expires) // _NANOS_PER_SECOND)
            if left > 0 or (left and not past):
                members.append(b'"ttl":%d' % left)
        return b"{" + b",".join(members)


def closing(view: NodeView) -> bytes:
    """A node from behind its `nodes`; of the root there is only the brace."""
    if not view.modified:
        return b"}"
    return b',"modifiedIndex":%d,"createdIndex":%d}' % (view.modified, view.created)
