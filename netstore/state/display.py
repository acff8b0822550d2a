"""Commands and log entries as one line of text for operators; long values are replaced by their sizes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.errors import CorruptData
from netstore.state import envelope
from netstore.state.commands import decode, head_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_BYTES: Final = 60
"""Bytes of a key or text that are shown; of a longer one the size is added."""

MAX_ITEMS: Final = 4
"""Items of a list that are shown; of a longer one the number of the rest is added."""

MAX_NESTING: Final = 3
"""Nested lists that are shown."""

HASH_BYTES: Final = 8

_HIDDEN: Final = frozenset({"value", "prev_value"})
"""Fields of which only the size is shown: users' data is not for the operator's eyes."""


_IDS: Final = frozenset({"id", "lease", "member", "replaces"})
"""Fields with an id, which is hexadecimal everywhere."""


def payload_hash(payload: bytes) -> str:
    """Identifies an entry's payload: 16 hexadecimal digits of its BLAKE2b."""
    return blake2b(payload, digest_size=HASH_BYTES).hexdigest()


def describe(command: bytes) -> str:
    """A command as text. Any bytes may be given."""
    if not command:
        return "no command"
    try:
        return _struct(decode(command), MAX_NESTING)
    except CorruptData as error:
        head = head_of(command)
        number = "" if head is None else f"command {head[0]}, "
        return f"{number}{len(command)} bytes: {error}"


def format_time(wall: int, *, up: bool = False) -> str:
    """An instant of wall time (nanoseconds since 1970) to the millisecond; `-` for 0 or one out of range.
    `up`: not before it, for a time that names what was written then.
    """
    milliseconds = -(-wall // 10**6) if up else wall // 10**6
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return "-"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if wall else "-"


def describe_entry(payload: bytes) -> str:
    """A payload as text: time, principal and command, and the feature level if that is not the first."""
    if not payload:
        return "- - first entry of a term"
    try:
        found = envelope.read(payload)
    except CorruptData as error:
        return f"- - {error}"
    if found.format != envelope.FORMAT:
        return f"- - {len(payload)} bytes of format {found.format}, which this release does not know"
    who = ascii(found.principal.decode("utf-8", "backslashreplace")) if found.principal else "-"
    level = "" if found.level == 1 else f" (feature level {found.level})"
    return f"{format_time(found.wall)} {who} {describe(found.command)}{level}"


def _struct(value: msgspec.Struct, nesting: int) -> str:
    shown = []
    for name, default in zip(value.__struct_fields__, _defaults(value), strict=True):
        field = getattr(value, name)
        if field == default:
            continue
        hidden = name in _HIDDEN and isinstance(field, bytes)
        if name in _IDS and isinstance(field, int):
            shown.append(f"{name}={field & (2**64 - 1):x}")
        else:
            shown.append(f"{name}={f'{len(field)} bytes' if hidden else _value(field, nesting)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def _defaults(value: msgspec.Struct) -> Sequence[object]:
    given = value.__struct_defaults__
    return (msgspec.NODEFAULT,) * (len(value.__struct_fields__) - len(given)) + given


def _value(value: object, nesting: int) -> str:
    if isinstance(value, bytes):
        return _text(ascii(value[:MAX_BYTES])[1:], len(value))
    if isinstance(value, str):
        return _text(ascii(value[:MAX_BYTES]), len(value))
    if isinstance(value, msgspec.Struct):
        return _struct(value, nesting) if nesting else type(value).__name__
    if isinstance(value, tuple):
        if not nesting:
            return f"[{len(value)}]"
        parts = [_value(each, nesting - 1) for each in value[:MAX_ITEMS]]
        if len(value) > MAX_ITEMS:
            parts.append(f"and {len(value) - MAX_ITEMS} more")
        return f"[{', '.join(parts)}]"
    return str(value)


def _text(shown: str, size: int) -> str:
    return shown if size <= MAX_BYTES else f"{shown}... ({size} bytes)"
