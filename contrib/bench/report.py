"""Figures as a table for people and as JSON for everything else."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_BEGAN = time.monotonic()


def progress(what: str) -> None:
    """Tell on standard error what is measured now, and how many minutes it has been."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    print(f"[{minutes:2}:{seconds:02}] {what}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Row:
    """One line: what was measured, and one text for each column after it. `note` says what in it does not
    hold for other loads. `ratios` are for the history: how many times as good as the other store, by what is
    compared.
    """

    name: str
    cells: tuple[str, ...]
    note: str = ""
    ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One question and its answers. `note` says how it was measured; `figures` are the raw numbers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    figures: object

    def text(self) -> str:
        """The table with aligned columns, numbers to the right."""
        lines = [("", *self.columns), *((row.name, *row.cells) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [_line(cells, widths) for cells in lines]
        notes: dict[str, list[str]] = {}
        for row in self.rows:
            if row.note:
                notes.setdefault(row.note, []).append(row.name)
        everybody = [row.name for row in self.rows if row.note]
        told = [
            f"  - {'all' if names == everybody and names[1:] else '; '.join(names)}: {note}"
            for note, names in notes.items()
        ]
        return "\n".join([self.title, *(f"  {line}" for line in shown), f"  ({self.note})", *told])

    def plain(self) -> dict[str, object]:
        return asdict(self)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def span(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """All runs at once, as `0.61 / 0.64 / 0.70 s`, smallest first."""
    return " / ".join(f"{value:.{digits}f}" for value in sorted(values)) + f" {unit}"
