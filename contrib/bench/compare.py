"""Rounds of two stores in turn, and the lines that compare them.

In every table a ratio above 1 says that netstored is better: more calls a second, less time, processor or
memory. The ratio is the median of those of two rounds that follow each other; what is behind it in brackets
are the smallest and the largest of them.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from contrib.bench.report import Row
from contrib.bench.stores import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from contrib.bench.stores import Running

Sample = dict[str, float]
"""What one round of one store gave: `per_second`, `p50_ms`, `p99_ms`, `calls`; `cpu_us`, of the store's
processes for each call.
"""

Figures = dict[str, list[Sample]]
"""Store -> its rounds; ours is the first."""


def alternate(
    running: Running,
    rounds: int,
    run: Callable[[str], Sample],
) -> Figures:
    """So many rounds of both in turn. `run` makes one of the store it is given, and counts its calls."""
    figures: Figures = {name: [] for name in running.asked}
    for number in range(rounds):
        for name in in_turn(figures, number):
            before = running.cpu_seconds(name)
            sample = run(name)
            sample["cpu_us"] = (running.cpu_seconds(name) - before) / max(sample["calls"], 1) * 1e6
            figures[name].append(sample)
    return figures


def ratios(ours: Sequence[float], theirs: Sequence[float], *, less: bool) -> list[float]:
    """How many times as good each of our rounds is; `less` of it is better."""
    pairs = [(b, a) if less else (a, b) for a, b in zip(ours, theirs, strict=True)]
    return [better / worse for better, worse in pairs if worse]


def spread(values: Sequence[float]) -> str:
    """As `1.31 (1.25-1.40)`."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def load_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Headings of `load_row`."""
    ours, theirs = names
    return (
        *(f"{ours}/s", f"{theirs}/s", "ratio"),
        *("p50 ms", theirs, "p99 ms", theirs),
        *("cpu us", theirs, "ratio"),
    )


def load_row(name: str, figures: Figures, note: str) -> Row:
    """The line of a load: calls a second, latencies, processor time for each call."""
    ours, theirs = figures.values()

    def both(key: str) -> tuple[list[float], list[float]]:
        return [each[key] for each in ours], [each[key] for each in theirs]

    rates, processor = ratios(*both("per_second"), less=False), ratios(*both("cpu_us"), less=True)
    cells = [f"{median(each):,.0f}" for each in both("per_second")] + [spread(rates)]
    shown: dict[str, float] = {"rate": median(rates)} if rates else {}
    for key in ("p50_ms", "p99_ms"):
        if key in ours[0]:
            cells += [f"{median(each):.2f}" for each in both(key)]
            shown[key.removesuffix("_ms")] = median(ratios(*both(key), less=True))
        else:
            cells += ["", ""]
    cells += [f"{median(each):,.1f}" for each in both("cpu_us")] + [spread(processor)]
    if processor:
        shown["cpu"] = median(processor)
    return Row(name, tuple(cells), note, shown)


def value_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Headings of `value_row`."""
    return (*names, "ratio")


def value_row(
    name: str, values: Mapping[str, Sequence[float]], unit: str, note: str, *, digits: int = 1
) -> Row:
    """The line of something of which less is better: seconds, MiB."""
    ours, theirs = values.values()
    found = ratios(ours, theirs, less=True)
    cells = (*(f"{median(each):,.{digits}f} {unit}" for each in (ours, theirs)), spread(found))
    return Row(name, cells, note, {"value": median(found)} if found else {})


LOOPBACK: Final = "all on one machine: the load takes processor from the store, and there is no network"
