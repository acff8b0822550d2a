"""What requests cost in this checkout against another one, in processor time and by turns.

    python -m contrib.bench.against CHECKOUT [--rounds 9] [PATH ...]

Each checkout has a process of its own (`paths`), and both stay: a round of one is followed by the same round
of the other, so that whatever else the machine does slows both. The ratio is the median of those of two such
rounds. The two must be
close enough for the same requests to go through both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Final, Self

from contrib.bench.report import Row, Table

HERE: Final = Path(__file__).resolve().parents[2]
SCRIPT: Final = Path(__file__).with_name("paths.py")


class Side:
    """A process that measures one checkout."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)],
            env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, path: str) -> float:
        """One round of a path: microseconds for each request."""
        given, told = self._process.stdin, self._process.stdout
        if given is None or told is None:
            raise AssertionError("both are pipes")
        print(path, file=given, flush=True)
        line = told.readline()
        if not line:
            sys.exit(f"{path} cannot be measured there")
        return float(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def measure(other: Path, paths: list[str], rounds: int) -> Table:
    """Every path for so many rounds on both."""
    figures: dict[str, dict[str, list[float]]] = {}
    with Side(other) as before, Side(HERE) as now:
        for path in paths:
            for side in (before, now):
                side.ask(path)  # what is made for the first time does not count
            took: dict[str, list[float]] = {"other": [], "this": []}
            for number in range(rounds):
                for name in sorted(took, reverse=number % 2 == 1):
                    took[name].append((before if name == "other" else now).ask(path))
            figures[path] = took
    return Table(
        title=f"processor time of requests, this checkout against {other}",
        note=f"microseconds, medians of {rounds} alternating rounds",
        columns=("other", "this", "ratio"),
        rows=tuple(_row(path, took["other"], took["this"]) for path, took in figures.items()),
        figures=figures,
    )


def _row(path: str, other: list[float], this: list[float]) -> Row:
    ratio = median(ours / theirs for ours, theirs in zip(this, other, strict=True))
    return Row(path, (f"{median(other):.2f}", f"{median(this):.2f}", f"{ratio:.2f}"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.against", description=__doc__)
    parser.add_argument("checkout", type=Path, help="the other checkout")
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a part of the names of those that are wanted"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each path on both (9)")
    arguments = parser.parse_intermixed_args()
    from contrib.bench.paths import PATHS  # noqa: PLC0415 - not before it is known that it is wanted

    wanted = [name for name in PATHS if any(part in name for part in arguments.paths or [""])]
    print(measure(arguments.checkout.resolve(), wanted, arguments.rounds).text())


if __name__ == "__main__":
    main()
