"""The output of commands: an answer in one of three forms, without terminal control sequences.

A table is for people, plain is for scripts (fields separated by tabs, one record a line, no headings), json
is one document. The content of a store is not trusted: control characters, text direction marks and line
separators are escaped in tables and plain lines, and JSON is pure ASCII. Only `emit` and `emit_value` write.
"""

from __future__ import annotations

import enum
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MISSING: Final = "-"
"""Shown in a table for a field without a value; in plain lines the field is empty."""

PIPED_COLUMNS: Final = 10_000
"""Width of a table that is not written to a terminal: so wide that no cell is folded."""

NAMED_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Form(enum.Enum):
    """The form of an answer."""

    TABLE = "table"
    PLAIN = "plain"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. A cell of None has no value; rows are as long as `headings`."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str | int | None, ...]]


def printable(text: str) -> str:
    """`text` on one line, with control characters escaped as `\\n`, `\\x1b`, `\\u202e`. For a form that can
    be decoded again see `field`.
    """
    if text.isprintable():
        return text
    return "".join(_inert(character) for character in text)


def readable(text: str) -> str:
    """Like `printable`, but line ends and tabs are kept: for a value that is shown alone."""
    return "".join(character if character in "\n\t" else _inert(character) for character in text)


def field(value: str | int | None) -> str:
    """A field of a plain line. Backslashes are doubled, so that every text can be decoded again."""
    if value is None:
        return ""
    return printable(str(value).replace("\\", "\\\\"))


def plain(rows: Iterable[Sequence[str | int | None]]) -> str:
    """Rows as plain lines."""
    return "".join("\t".join(field(cell) for cell in row) + "\n" for row in rows)


def document(content: object) -> str:
    """One JSON document on one line, in ASCII."""
    return json.dumps(content, separators=(",", ":")) + "\n"


def table(content: Table, *, columns: int | None) -> str:
    """`content` in aligned columns, cells folded to fit a terminal of `columns`; None: as wide as it is."""
    # Imported here: drawing is the only use of it, and it takes longer to load than most commands run.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as Drawing  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawing = Drawing(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="")
    for heading in content.headings:
        drawing.add_column(heading, overflow="fold")
    for row in content.rows:
        drawing.add_row(*(Text(MISSING if cell is None else printable(str(cell))) for cell in row))
    console = Console(
        width=columns or PIPED_COLUMNS, color_system=None, highlight=False, markup=False, emoji=False
    )
    with console.capture() as drawn:
        console.print(drawing)
    return "".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines())


def render(form: Form, content: object, view: Table, *, columns: int | None = None) -> str:
    """An answer in the requested form: `content` is its JSON document, `view` the rows of the other forms."""
    match form:
        case Form.JSON:
            return document(content)
        case Form.PLAIN:
            return plain(view.rows)
        case Form.TABLE:
            return table(view, columns=columns)


def emit(text: str) -> None:
    """Write to standard output and flush; OSError if that fails."""
    sys.stdout.write(text)
    sys.stdout.flush()


def emit_value(text: str) -> None:
    """Write a value alone: unchanged for programs, with control characters escaped on a terminal."""
    shown = readable(text) if sys.stdout.isatty() else text
    sys.stdout.buffer.write(f"{shown}\n".encode())
    sys.stdout.buffer.flush()


def _inert(character: str) -> str:
    # Not printable: separators other than the space, and everything that moves the cursor or reverses text.
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return NAMED_ESCAPES.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
