"""The output of commands: an answer in one of three forms, without terminal control sequences.

A table is for people, plain is for scripts (fields separated by tabs, one record a line, no headings), json
is one document. The content of a store is not trusted: control characters, text direction marks and line
separators are escaped in tables and plain lines, and JSON is pure ASCII. Only `emit` and `emit_value` write.
"""

from __future__ import annotations

import enum
import json
import re
import sys
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MISSING: Final = "-"
"""Shown in a table for a field without a value; in plain lines the field is empty."""

PIPED_COLUMNS: Final = 10_000
"""Width of a table that is not written to a terminal: so wide that no cell is folded."""

GAP_COLUMNS: Final = 3
"""Between two columns of a table."""

UNBROKEN_CHARACTERS: Final = 16
"""A word of a table that is no longer is on one line, such as an address, a subnet or an id."""

NAMED_CHARACTERS: Final = 255
"""So is a URL, a longer id or a digest that is no longer than this."""

_NAMED: Final = re.compile(r".*://.*|[0-9a-f]{16,}")
"""Words that are copied: URLs, also within other characters, and what is hexadecimal."""

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


def table(content: Table, *, columns: int | None, breaks_words: bool = False) -> str:
    """`content` in aligned columns, cells folded to fit a terminal of `columns`; None: as wide as it is.

    No URL, id or short word is broken, for which the table may be wider than the terminal; with
    `breaks_words` it is not, and they are.
    """
    # Imported here: drawing is the only use of it, and it takes longer to load than most commands run.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as Drawing  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = [[MISSING if cell is None else printable(str(cell)) for cell in row] for row in content.rows]
    cells = list(zip(content.headings, *rows, strict=True))
    natural = [max(map(cell_len, column)) for column in cells]
    least = [1 if breaks_words else _unbroken(column, cell_len) for column in cells]
    gaps = GAP_COLUMNS * (len(natural) - 1)
    widths = _fitted(natural, least, (columns or PIPED_COLUMNS) - gaps)
    drawing = Drawing(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="")
    for heading, width in zip(content.headings, widths, strict=True):
        drawing.add_column(heading, width=width, overflow="fold")
    for row in rows:
        drawing.add_row(*map(Text, row))
    console = Console(width=sum(widths) + gaps, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as drawn:
        console.print(drawing)
    return "".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines())


def _unbroken(cells: Iterable[str], width: Callable[[str], int]) -> int:
    """The width that a column needs so that no word is broken that must not be."""
    least = 1
    for word in (word for cell in cells for word in cell.split()):
        most = NAMED_CHARACTERS if _NAMED.fullmatch(word) else UNBROKEN_CHARACTERS
        least = max(least, width(word) if len(word) <= most else UNBROKEN_CHARACTERS)
    return least


def _fitted(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths of columns: the widest ones are shrunk, to one width, until all have room or their least."""

    def at(most: int) -> list[int]:
        return [min(each, max(most, low)) for each, low in zip(natural, least, strict=True)]

    # The greatest width at which they have room; the sum rises with it.
    most = bisect_right(range(max(natural) + 1), room, key=lambda width: sum(at(width))) - 1
    return at(max(most, 1))


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
