"""Line charts as SVG: panels in columns, each with its own scale from zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 320
HEIGHT: Final = 156
LEFT, RIGHT, TOP, BOTTOM = 42, 30, 34, 30
INKS: Final = ("#1f6fb2", "#c2571a", "#3c8a3c", "#8a3c86")
"""Of the lines of a panel, in their order; dark enough on white and light enough on black."""


@dataclass(frozen=True)
class Panel:
    """One chart. `ticks` are the labels at places of x; `base` is a value of y with a line of its own."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    ticks: Sequence[tuple[float, str]]
    base: float | None = None
    unit: str = ""
    marks: Sequence[str] = field(default=())
    """Lines of text below the title, for what is to be noticed."""


def page(panels: Sequence[Panel], columns: int, caption: str) -> str:
    """All panels in one picture, which is drawn on white whatever the page around it is."""
    rows = math.ceil(len(panels) / columns)
    width, height = columns * WIDTH, rows * HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        f'height="{height}" font-family="sans-serif" font-size="10" fill="#333">',
        f"<title>{escape(caption)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    inks = {name: INKS[place % len(INKS)] for place, name in enumerate(names)}
    for place, name in enumerate(names):
        x = LEFT + place * 150
        parts.append(f'<rect x="{x}" y="8" width="14" height="3" fill="{inks[name]}"/>')
        parts.append(f'<text x="{x + 18}" y="13">{escape(name)}</text>')
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        parts += [
            f'<g transform="translate({column * WIDTH} {row * HEIGHT + 24})">',
            *_panel(panel, inks),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, inks: dict[str, str]) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    xs = [x for x, _ in panel.ticks] + [x for x, _ in points]
    first, last = min(xs, default=0.0), max(xs, default=1.0)
    top = _nice(max([y for _, y in points] + [panel.base or 0.0], default=1.0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        return round(LEFT + across * wide, 1), round(TOP + (1 - y / top) * high, 1)

    parts = [f'<text x="{LEFT}" y="14" font-weight="bold">{escape(panel.title)}</text>']
    for share in (0.0, 0.5, 1.0):
        x, y = at(first, top * share)
        parts.append(f'<path d="M{LEFT} {y}h{wide}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 3}" text-anchor="end">{top * share:g}{panel.unit}</text>')
    if panel.base is not None:
        _, y = at(first, panel.base)
        parts.append(f'<path d="M{LEFT} {y}h{wide}" stroke="#999" stroke-dasharray="3 3"/>')
    for x, label in panel.ticks:
        place, _ = at(x, 0)
        parts.append(
            f'<text x="{place}" y="{HEIGHT - BOTTOM + 12}" text-anchor="middle">{escape(label)}</text>'
        )
    for name, line in panel.lines.items():
        places = [at(x, y) for x, y in line]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{inks[name]}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2" fill="{inks[name]}"/>' for x, y in places]
    for place, mark in enumerate(panel.marks):
        parts.append(f'<text x="{LEFT}" y="{24 + 10 * place}" fill="#b00">{escape(mark)}</text>')
    return parts


def _nice(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8, 10 and so on."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(step * power, 9) for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)
