"""The map of a network: which of its subnets are free, held and reserved; as signs for a terminal of any
width and as SVG. Pure.

A *place* is one of the subnets of length SubnetLen that the network consists of; a *cell* is what is drawn,
one place or, in large networks, a power of two of them. Work and memory grow with the number of records and
cells, not with the size of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from netstore.cli.commands.leases import both
from netstore.cli.output import printable
from netstore.network.addresses import Subnet, show_ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.cli.commands.leases import Record
    from netstore.network.config import Network

FREE: Final = "free"
HELD: Final = "held"
RESERVED: Final = "reserved"
PROBLEM: Final = "problem"
"""Held or reserved, and something is wrong with it."""

MAX_LINES: Final = 32
"""Lines of signs at most."""

MAX_SIGNS: Final = 128
"""Signs in a line at most."""

MAX_CELLS: Final = 65_536
"""Cells of the picture at most."""

SIGNS: Final = {FREE: ".", HELD: "#", RESERVED: "R", PROBLEM: "!"}
UNUSED: Final = " "
"""The sign of places below SubnetMin or above SubnetMax."""

LEGEND: Final = (
    f"{SIGNS[FREE]} free   {SIGNS[HELD]} held   {SIGNS[RESERVED]} reserved   {SIGNS[PROBLEM]} problem"
)
SHARES: Final = ".123456789#"
"""Signs of a cell of several places: none is taken, tenths of them, all."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Places in a row, `count` of them from number `place` on; one record, or free."""

    place: int
    count: int
    state: str
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Map:
    """All places that nodes may hold, in order, and the records that cover none of them."""

    network: Network
    stretches: tuple[Stretch, ...]
    elsewhere: tuple[Record, ...]

    @property
    def places(self) -> int:
        """Places of the whole network, also those that SubnetMin and SubnetMax exclude."""
        return 1 << (self.network.subnet_len - self.network.network.length)

    @property
    def first(self) -> int:
        """Number of the first place that a node may hold."""
        return self._place(self.network.subnet_min)

    @property
    def last(self) -> int:
        """Number of the last one."""
        return self._place(self.network.subnet_max)

    def subnet(self, place: int) -> Subnet:
        """The subnet at a place."""
        length = self.network.subnet_len
        return Subnet(self.network.network.base + (place << (32 - length)), length)

    def count(self, state: str) -> int:
        """How many places are in this state."""
        return sum(stretch.count for stretch in self.stretches if stretch.state == state)

    def _place(self, address: int) -> int:
        return (address - self.network.network.base) >> (32 - self.network.subnet_len)


def mapped(network: Network, records: Iterable[Record]) -> Map:
    """Where the records lie in the network. O(n log n)."""
    whole = Map(network, (), ())
    shift = 32 - network.subnet_len
    spans: list[tuple[int, int, Record]] = []
    elsewhere: list[Record] = []
    for record in records:
        lease = record.lease
        if lease is None or not lease.subnet.overlaps(network.network):
            elsewhere.append(record)
            continue
        low = (lease.subnet.base - network.network.base) >> shift
        high = (lease.subnet.last - network.network.base) >> shift
        if high < whole.first or low > whole.last:
            elsewhere.append(record)
        else:
            spans.append((max(low, whole.first), min(high, whole.last), record))
    spans.sort(key=lambda span: span[:2])
    stretches: list[Stretch] = []
    at = whole.first
    for low, high, record in spans:
        if high < at:
            continue  # covered by another, with which it overlaps
        if low > at:
            stretches.append(Stretch(at, low - at, FREE))
        at = max(at, low)
        stretches.append(Stretch(at, high + 1 - at, _state(record), record))
        at = high + 1
    if at <= whole.last:
        stretches.append(Stretch(at, whole.last + 1 - at, FREE))
    return Map(network, tuple(stretches), tuple(elsewhere))


def _state(record: Record) -> str:
    if record.problems:
        return PROBLEM
    return RESERVED if record.reserved else HELD


def summary(found: Map) -> str:
    """The counts, in one sentence."""
    network = found.network
    places = found.last - found.first + 1
    counts = ", ".join(f"{found.count(state)} {state}" for state in (HELD, RESERVED, PROBLEM, FREE))
    more = f"; records that cover none of them: {len(found.elsewhere)}" if found.elsewhere else ""
    if network.ipv6 is not None:
        records = {stretch.record.name: stretch.record for stretch in found.stretches if stretch.record}
        count = sum(record.subnet6 is not None for record in records.values())
        more += f"; {network.ipv6.network}: {count} of them with a subnet of /{network.ipv6.subnet_len}"
    return f"{network.network}: {places} subnets of /{network.subnet_len}: {counts}{more}"


def drawing(found: Map, columns: int) -> str:
    """The map in signs, at most `columns` wide and `MAX_LINES` high, with summary and legend."""
    labels = len(show_ip(found.network.network.last)) + 1
    if columns < labels + 8:
        labels = 0
    width = min(_power(max(1, columns - labels)), MAX_SIGNS, found.places)
    per_cell = 1
    while found.places > width * MAX_LINES * per_cell:
        per_cell *= 2
    signs = _signs(found, per_cell)
    lines = wrap(summary(found), max(columns, 20))
    lines += [*wrap(_legend(per_cell), max(columns, 20)), ""]
    for first in range(0, len(signs), width):
        label = str(show_ip(found.subnet(first * per_cell).base)).ljust(labels) if labels else ""
        lines.append((label + "".join(signs[first : first + width])).rstrip())
    return "".join(f"{line}\n" for line in lines)


def _legend(per_cell: int) -> str:
    if per_cell == 1:
        return LEGEND
    return (
        f"each sign stands for {per_cell} subnets: {SHARES[0]} all free   1 to 9 tenths taken   "
        f"{SHARES[-1]} all taken   {SIGNS[PROBLEM]} problem"
    )


def _signs(found: Map, per_cell: int) -> list[str]:
    cells = found.places // per_cell
    if per_cell == 1:
        signs = [UNUSED] * cells
        for stretch in found.stretches:
            signs[stretch.place : stretch.place + stretch.count] = SIGNS[stretch.state] * stretch.count
        return signs
    taken, bad = _shares(found, per_cell)
    usable = range(found.first // per_cell, found.last // per_cell + 1)
    return [
        UNUSED
        if cell not in usable
        else SIGNS[PROBLEM]
        if cell in bad
        else _share(taken.get(cell, 0), per_cell)
        for cell in range(cells)
    ]


def _share(taken: int, per_cell: int) -> str:
    if taken in (0, per_cell):
        return SHARES[0 if not taken else -1]
    return SHARES[max(1, min(9, taken * 10 // per_cell))]


def _shares(found: Map, per_cell: int) -> tuple[dict[int, int], set[int]]:
    """How many places of each cell are taken, and the cells with a problem."""
    taken: dict[int, int] = {}
    bad: set[int] = set()
    for stretch in found.stretches:
        if stretch.state == FREE:
            continue
        end = stretch.place + stretch.count
        for cell in range(stretch.place // per_cell, (end - 1) // per_cell + 1):
            inside = min(end, (cell + 1) * per_cell) - max(stretch.place, cell * per_cell)
            taken[cell] = taken.get(cell, 0) + inside
            if stretch.state == PROBLEM:
                bad.add(cell)
    return taken, bad


def _power(number: int) -> int:
    """The largest power of two that is not above a positive number."""
    return 1 << (number.bit_length() - 1)


# The picture

_LABELLED: Final = (92, 34)
"""Width and height of a cell that names its subnet and holder, in pixels."""

_BARE: Final = (12, 12)
_LABELLED_COLUMNS: Final = 16
"""With more columns cells are not labelled."""

_MARGIN: Final = 16
_ROW_LABEL: Final = 104
_HEAD: Final = 68

_STYLE: Final = (
    "text{font:11px sans-serif;fill:#1b1f24}.t{font-size:16px;font-weight:bold}.s{font-size:9px}"
    ".b{fill:#fff}.free{fill:#e8ebef}.held{fill:#6ea8dc}.reserved{fill:#7fc49a}.problem{fill:#e0705f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.b{fill:#16191d}.free{fill:#2b3138}"
    ".held{fill:#2f6ea8}.reserved{fill:#2f7d50}.problem{fill:#b3412f}}"
)


def picture(found: Map) -> str:
    """The map as an SVG document. Each cell that is taken has a tooltip with its record."""
    per_cell = 1
    while found.places > MAX_CELLS * per_cell:
        per_cell *= 2
    cells = found.places // per_cell
    columns = 1 << (cells.bit_length() // 2)
    is_labelled = columns <= _LABELLED_COLUMNS and per_cell == 1
    width, height = _LABELLED if is_labelled else _BARE
    left, top = _MARGIN + _ROW_LABEL, _MARGIN + _HEAD
    rows = -(-cells // columns)
    total = max(left + columns * width + _MARGIN, 640), top + rows * height + _MARGIN
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" '
            f'width="{total[0]}" height="{total[1]}" role="img">'
        ),
        f"<title>{escape(summary(found))}</title><style>{_STYLE}</style>",
        f'<rect class="b" width="{total[0]}" height="{total[1]}"/>',
        *_head(found, per_cell),
    ]
    every = 1 if height > 12 else max(1, 16 // height)
    for row in range(0, rows, every):
        label = show_ip(found.subnet(row * columns * per_cell).base)
        middle = top + row * height + height // 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{label}</text>')

    def box(cell: int, state: str, inner: str = "", share: float = 1.0) -> str:
        x, y = left + cell % columns * width, top + cell // columns * height
        seen = f' fill-opacity="{max(0.25, share):.2f}"' if share < 1 else ""
        shape = f'x="{x}" y="{y}" width="{width - 2}" height="{height - 2}"'
        return (
            f'<rect class="{state}" {shape}{seen}>{inner}</rect>'
            if inner
            else (f'<rect class="{state}" {shape}/>')
        )

    parts.append(
        f'<defs><pattern id="f" x="{left}" y="{top}" width="{width}" height="{height}" '
        f'patternUnits="userSpaceOnUse"><rect class="{FREE}" width="{width - 2}" height="{height - 2}"/>'
        "</pattern></defs>"
    )
    low, high = found.first // per_cell, found.last // per_cell
    for row in range(low // columns, high // columns + 1):
        start, end = max(low, row * columns), min(high, (row + 1) * columns - 1)
        x, y = left + start % columns * width, top + row * height
        parts.append(
            f'<rect fill="url(#f)" x="{x}" y="{y}" width="{(end - start + 1) * width}" height="{height}"/>'
        )
    if per_cell > 1:
        taken, bad = _shares(found, per_cell)
        for cell, count in taken.items():
            first = found.subnet(cell * per_cell)
            title = f"<title>{first} and {per_cell - 1} more: {count} taken</title>"
            parts.append(box(cell, PROBLEM if cell in bad else HELD, title, count / per_cell))
    else:
        for stretch in found.stretches:
            if stretch.record is not None:
                title = f"<title>{escape(_described(stretch.record))}</title>"
                places = range(stretch.place, stretch.place + stretch.count)
                parts += [box(place, stretch.state, title) for place in places]
    if is_labelled:
        parts += _labels(found, columns, left, top)
    return "\n".join([*parts, "</svg>", ""])


def _head(found: Map, per_cell: int) -> list[str]:
    network = found.network
    parts = [
        (
            f'<text class="t" x="{_MARGIN}" y="{_MARGIN + 14}">{network.network}, subnets of '
            f"/{network.subnet_len}, backend {escape(printable(network.backend_type))}</text>"
        )
    ]
    x = _MARGIN
    for state in (HELD, RESERVED, PROBLEM, FREE):
        text = f"{found.count(state)} {state}"
        parts.append(f'<rect class="{state}" x="{x}" y="{_MARGIN + 28}" width="12" height="12"/>')
        parts.append(f'<text x="{x + 18}" y="{_MARGIN + 38}">{text}</text>')
        x += 40 + 7 * len(text)
    more = f"; each cell stands for {per_cell} subnets, the fuller the stronger" if per_cell > 1 else ""
    if found.elsewhere:
        more += f"; records that cover none of these subnets: {len(found.elsewhere)}"
    if more:
        parts.append(f'<text x="{x}" y="{_MARGIN + 38}">{more.removeprefix("; ")}</text>')
    return parts


def _labels(found: Map, columns: int, left: int, top: int) -> list[str]:
    width, height = _LABELLED
    parts = []
    for stretch in found.stretches:
        for place in range(stretch.place, stretch.place + stretch.count):
            x, y = left + place % columns * width + 5, top + place // columns * height
            parts.append(f'<text class="s" x="{x}" y="{y + 13}">{found.subnet(place)}</text>')
            if stretch.record is not None and stretch.record.public_ip:
                parts.append(f'<text class="s" x="{x}" y="{y + 26}">{stretch.record.public_ip}</text>')
    return parts


def _described(record: Record) -> str:
    """A record in one line."""
    backend = record.lease.backend_type if record.lease is not None else ""
    words: Sequence[str | None] = (
        f"{both(record.subnet, record.subnet6)} {both(record.public_ip, record.public_ip6)}",
        printable(backend) or None,
        "reserved" if record.reserved else None,
        None if record.ttl is None else f"{record.ttl} s left",
        *record.problems,
    )
    return ", ".join(word for word in words if word)
