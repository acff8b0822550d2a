"""The JSON and the header fields of the v2 keys API (v2 API, answers and errors)."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, inf
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.api.http.responses import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.errors import Fault
    from netstore.types import ClusterId, EtcdIndex, Event, Index, Nanos, NodeView, Term

_NANOS_PER_SECOND: Final = 1_000_000_000

_ESCAPED_ALIKE: Final = bytes(set(range(0x80)) - set(b"<>&\b\f"))
"""Bytes that msgspec and etcd escape in the same way."""
_REPLACED: Final = tuple(
    (character.encode(), b"\\u%04x" % ord(character)) for character in ("<", ">", "&", "\u2028", "\u2029")
)
"""Characters that etcd escapes and msgspec does not."""
_AS_IT_IS: Final = bytes(set(range(0x20, 0x7F)) - set(b'"\\<>&'))
"""Bytes that are not escaped."""
_NODE: Final = b'{"key":"%b","value":"%b","modifiedIndex":%d,"createdIndex":%d}'
_EVENT: Final = b'{"action":"%%b","node":%b}\n' % _NODE
_CHANGE: Final = b'{"action":"%%b","node":%b,"prevNode":%b}\n' % (_NODE, _NODE)
_encode: Final = msgspec.json.Encoder().encode

Part = tuple[bytes, int]
"""A piece of JSON, and the work of rendering it: 1 for a byte of plain text, which takes about a nanosecond.
"""

PIECE_BYTES: Final = 16 * 1024
"""Bytes of keys, values and causes that are rendered in one piece of work: at most a millisecond."""

_PLAIN_BYTES: Final = 4 * 1024
"""Bytes of the values of an event that `plain_line` renders."""

NODE_WORK: Final = 4_000
"""Work of a node, besides that of its key and value."""

_TEXT_WORK: Final = 3
"""Work of a byte of text that is not all ASCII."""
_REPAIR_WORK: Final = 128
"""Work of a byte of a text that is not valid UTF-8."""
_ESCAPE_WORK: Final = 10
"""Work of each byte that escaping adds."""


def json_string(data: bytes) -> bytes:
    """Bytes as a JSON string, escaped as by etcd. Each byte that is not valid UTF-8 becomes the replacement
    character.

    Cost of a MB: 1 to 3 ms if little is escaped, 10 to 30 ms if everything is, up to 80 ms if it is not
    UTF-8. Strings that may be long are rendered by `string_parts`.
    """
    special = data.translate(None, _ESCAPED_ALIKE)
    if not special:
        return _encode(data.decode("ascii"))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _json_string_repaired(data)
    shown = _encode(text)
    if b"\b" in special or b"\f" in special:
        # A raw NUL, which cannot be in encoded text, stands in for an escaped backslash.
        shown = shown.replace(b"\\\\", b"\0").replace(b"\\b", b"\\u0008").replace(b"\\f", b"\\u000c")
        shown = shown.replace(b"\0", b"\\\\")
    for plain, escape in _REPLACED:
        shown = shown.replace(plain, escape)
    return shown


def _json_string_repaired(data: bytes) -> bytes:
    """`json_string` for bytes that are not valid UTF-8. Encoding with `replace` writes a question mark for
    each invalid byte; so the question marks of the text are written as `~b` meanwhile, and its tildes as
    `~a`.
    """
    marked = data.replace(b"~", b"~a").replace(b"?", b"~b").decode("utf-8", "surrogateescape")
    shown = json_string(marked.encode("utf-8", "replace"))
    return shown.replace(b"?", b"\\ufffd").replace(b"~b", b"?").replace(b"~a", b"~")


def string_parts(data: bytes) -> Iterator[Part]:
    """`json_string` in parts, each of at most `PIECE_BYTES` of the data."""
    start = 0
    while True:
        end = _cut(data, start + PIECE_BYTES)
        piece = data[start:end]
        shown = json_string(piece)
        work = _work(piece.isascii(), len(piece), shown)
        if end == len(data):
            yield shown[1:] if start else shown, work
            return
        yield shown[1 if start else 0 : -1], work
        start = end


def _cut(data: bytes, at: int) -> int:
    """`at`, or up to three bytes before, so that no UTF-8 sequence is split."""
    if at >= len(data):
        return len(data)
    for place in range(at, at - 4, -1):
        if data[place] & 0xC0 != 0x80:  # not a continuation byte
            return place
    return at


def _work(is_ascii: bool, size: int, shown: bytes) -> int:
    """The work that rendering `size` bytes was, estimated from the result."""
    escapes = (len(shown) - size) * _ESCAPE_WORK
    if is_ascii:
        return size + escapes
    return size * (_REPAIR_WORK if b"\\ufffd" in shown else _TEXT_WORK) + escapes


def rendered_work(shown: bytes, size: int) -> int:
    """The work of rendering a short answer, estimated from the result; `size` is the bytes of keys, values or
    causes in it. A byte that is not valid UTF-8 counts as an escape, which is six bytes for one. 1 us for 100
    KiB.
    """
    return _work(shown.isascii(), size, shown)


class _Node(msgspec.Struct, gc=False):
    """A node that has a value and no TTL, with the JSON names of its members."""

    key: str
    value: str
    modifiedIndex: int  # noqa: N815 - the name in JSON
    createdIndex: int  # noqa: N815


class _Event(msgspec.Struct, gc=False, omit_defaults=True):
    """An event with such nodes."""

    action: str
    node: _Node
    prevNode: _Node | None = None  # noqa: N815


def _plain(event: Event) -> _Event | None:
    """The event for msgspec to encode, which takes 1 us instead of 2; None unless its nodes have values and
    no TTLs, and etcd escapes them as msgspec does. Most events are such.
    """
    node, prev = event.node, event.prev
    value = node.value
    if value is None or node.expires:
        return None
    key = node.key
    if prev is None:
        if (key + value).translate(None, _ESCAPED_ALIKE):
            return None
        return _Event(event.action, _Node(key.decode(), value.decode(), node.modified, node.created))
    before = prev.value
    if before is None or prev.expires or (key + value + before).translate(None, _ESCAPED_ALIKE):
        return None
    name = key.decode()
    return _Event(
        event.action,
        _Node(name, value.decode(), node.modified, node.created),
        _Node(name, before.decode(), prev.modified, prev.created),
    )


def plain_line(event: Event) -> bytes | None:
    """`Renderer.event` of an event that is little work and whose nodes have values, no TTLs, and nothing that
    is escaped, as most have; None of others. msgspec takes twice the time.
    """
    node = event.node
    value = node.value
    if value is None or node.expires:
        return None
    key = node.key
    prev = event.prev
    if prev is None:
        if len(value) > _PLAIN_BYTES or (key + value).translate(None, _AS_IT_IS):
            return None
        return _EVENT % (event.action.encode(), key, value, node.modified, node.created)
    before = prev.value
    if before is None or prev.expires or len(value) + len(before) > _PLAIN_BYTES:
        return None
    if (key + value + before).translate(None, _AS_IT_IS):
        return None
    return _CHANGE % (
        event.action.encode(),
        key,
        value,
        node.modified,
        node.created,
        key,
        before,
        prev.modified,
        prev.created,
    )


class Rendering:
    """An answer that is rendered in pieces of bounded work."""

    __slots__ = ("_parts", "over", "worked")

    def __init__(self, parts: Iterator[Part]) -> None:
        self._parts = parts
        self.worked = 0
        """Work done so far."""
        self.over = False
        """All of it is rendered."""

    def more(self, work: int, size: float = inf) -> bytes:
        """The next piece: it ends with the part that reaches this work or size. Raises what a part raises."""
        made = []
        for part, part_work in self._parts:
            made.append(part)
            self.worked += part_work
            work -= part_work
            size -= len(part)
            if work <= 0 or size <= 0:
                break
        else:
            self.over = True
        return b"".join(made)


def is_small(event: Event) -> bool:
    """Whether rendering it with `Renderer.event` is one piece of work."""
    return event.node.nodes is None and event.size <= PIECE_BYTES


def expiration(instant: Nanos) -> bytes:
    """An instant as RFC 3339 in UTC, with nanoseconds and without their trailing zeros."""
    seconds, nanos = divmod(instant, _NANOS_PER_SECOND)
    text = _date_and_time(seconds)
    return text + (b".%09d" % nanos).rstrip(b"0") + b"Z" if nanos else text + b"Z"


@lru_cache(maxsize=8192)  # a listing of nodes with TTLs has many equal seconds
def _date_and_time(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


class Renderer:
    """Renders for one member: its cluster id is in every head, and its count is the remaining time."""

    def __init__(self, cluster: ClusterId, left: Callable[[NodeView], float]) -> None:
        """`left` is the seconds until a node with a TTL expires, below 0 if that is overdue."""
        self._left = left
        start = JSON + b"X-Etcd-Cluster-Id: %x\r\n" % cluster
        self.success: Final = start + b"X-Etcd-Index: %d\r\nX-Raft-Index: %d\r\nX-Raft-Term: %d\r\n"
        """`success_fields` before its numbers are filled in."""
        self._failure = start + b"X-Etcd-Index: %d\r\n"

    def success_fields(self, index: EtcdIndex, commit: Index, term: Term) -> bytes:
        """Header fields of an answer or a watch."""
        return self.success % (index, commit, term)

    def fault_fields(self, fault: Fault) -> bytes:
        """Header fields of a refusal: without Raft's position."""
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

    @staticmethod
    def fault_parts(fault: Fault) -> Iterator[Part]:
        """`fault` in parts: a cause may hold two values."""
        yield b'{"errorCode":%d,"message":"%b","cause":' % (fault.code, fault.message.encode()), 0
        yield from string_parts(fault.cause)
        yield b',"index":%d}\n' % fault.index, 0

    def event(self, event: Event, *, past: bool = False) -> bytes:
        """A change or an answer as one line. `past`: of the event window, where a remaining time that is not
        above 0 is left out.
        """
        line = plain_line(event)
        if line is not None:
            return line
        plain = _plain(event)
        if plain is not None:
            return _encode(plain) + b"\n"
        shown = self.node(event.node, past)
        if event.prev is None:
            return b'{"action":"%b","node":%b}\n' % (event.action.encode(), shown)
        return b'{"action":"%b","node":%b,"prevNode":%b}\n' % (
            event.action.encode(),
            shown,
            self.node(event.prev, past),
        )

    def event_parts(self, event: Event, *, past: bool = False) -> Iterator[Part]:
        """`event` in parts."""
        yield b'{"action":"%b","node":' % event.action.encode(), 0
        yield from self._tree_parts(event.node, past)
        if event.prev is not None:
            yield b',"prevNode":', 0
            yield from self._tree_parts(event.prev, past)
        yield b"}\n", 0

    @staticmethod
    def action(event: Event) -> bytes:
        """A change without its nodes (`noValueOnSuccess`)."""
        return b'{"action":"%b"}\n' % event.action.encode()

    def node(self, view: NodeView, past: bool = False) -> bytes:
        """A node with the nodes that are listed below it."""
        if view.value is not None and not view.expires:
            return b'{"key":%b,"value":%b,"modifiedIndex":%d,"createdIndex":%d}' % (
                json_string(view.key),
                json_string(view.value),
                view.modified,
                view.created,
            )
        if view.nodes:
            return b"".join([part for part, _ in self._tree_parts(view, past)])
        return self.opening(view, past) + closing(view)

    def _tree_parts(self, top: NodeView, past: bool) -> Iterator[Part]:
        """A node in parts, with the nodes that are listed below it. With a stack instead of recursion: a
        directory may be deep.
        """
        stack: list[NodeView | bytes] = [top]
        while stack:
            item = stack.pop()
            if isinstance(item, bytes):
                yield item, 0
            elif item.nodes:
                yield from self.opening_parts(item, past)
                stack.append(b"]" + closing(item))
                for child in reversed(item.nodes):
                    stack += (child, b",")
                stack[-1] = b',"nodes":['
            elif len(item.key) + len(item.value or b"") <= PIECE_BYTES:
                yield self._small_part(item, past)
            else:
                yield from self.node_parts(item, past)

    def node_parts(self, view: NodeView, past: bool = False) -> Iterator[Part]:
        """A node without others below it, in parts."""
        if len(view.key) + len(view.value or b"") <= PIECE_BYTES:
            yield self._small_part(view, past)
        else:
            yield from self.opening_parts(view, past)
            yield closing(view), 0

    def _small_part(self, view: NodeView, past: bool) -> Part:
        shown, key, value = self.node(view, past), view.key, view.value or b""
        return shown, NODE_WORK + _work(key.isascii() and value.isascii(), len(key) + len(value), shown)

    def opening_parts(self, view: NodeView, past: bool = False) -> Iterator[Part]:
        """`opening` in parts."""
        size = len(view.key) + len(view.value or b"")
        if size <= PIECE_BYTES:
            shown = self.opening(view, past)
            yield shown, NODE_WORK + _work(False, size, shown)
            return
        yield b'{"key":', NODE_WORK
        yield from string_parts(view.key)
        if view.value is not None:
            yield b',"value":', 0
            yield from string_parts(view.value)
        yield b"".join([b"," + member for member in self._properties(view, past)]), 0

    def opening(self, view: NodeView, past: bool = False) -> bytes:
        """A node up to its `nodes`."""
        members = []
        if view.key != b"/":
            members.append(b'"key":' + json_string(view.key))
        if view.value is not None:
            members.append(b'"value":' + json_string(view.value))
        return b"{" + b",".join(members + self._properties(view, past))

    def _properties(self, view: NodeView, past: bool) -> list[bytes]:
        """The members of a node between its value and its `nodes`."""
        members = []
        if view.dir:
            members.append(b'"dir":true')
        if view.expires:
            members.append(b'"expiration":"%b"' % expiration(view.expires))
            # The ceiling of the seconds: what is overdue is cut towards zero. Zero is left out.
            left = ceil(self._left(view))
            if left > 0 or (left and not past):
                members.append(b'"ttl":%d' % left)
        return members


def closing(view: NodeView) -> bytes:
    """A node from behind its `nodes` on; of the root that is only the brace."""
    if not view.modified:
        return b"}"
    return b',"modifiedIndex":%d,"createdIndex":%d}' % (view.modified, view.created)
