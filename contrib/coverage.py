"""Which part of each room its own tests run, and whether that is as much as pyproject.toml asks for.

`python -m contrib.coverage` measures all rooms, `python -m contrib.coverage raft state` these two. A room is
a package in netstore that has a folder of the same name in tests; `shared` are the modules beside the rooms.
Only what runs in the test's own process counts: daemons that a test starts are not seen.

With Python 3.11 coverage has only a tracer, which doubles the time of a test. From 3.12 on the interpreter
itself monitors lines, at a small cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SHARED: Final = "shared"
CORE: Final = "sysmon" if sys.version_info >= (3, 12) else "ctrace"
WORKERS: Final = 2

GENERATED: Final = "proto"
"""A room that protoc writes."""


@dataclass(frozen=True)
class Measured:
    """What the tests of a room ran. `failure` is what pytest printed, empty if all tests passed."""

    room: str
    lines: int
    missed: int
    failure: str = ""

    @property
    def percent(self) -> float:
        """Of its lines."""
        return 100.0 * (self.lines - self.missed) / max(1, self.lines)

    def problem(self, floor: float) -> str:
        """What is wrong; empty if nothing is."""
        if self.failure:
            return "tests fail"
        return f"below {floor:g}" if self.percent < floor else ""


def floors() -> dict[str, float]:
    """Room -> the least percentage of its lines."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, float] = tomllib.load(file)["tool"]["netstore"]["coverage"]
    return table


def rooms() -> list[str]:
    """Every room that has tests."""
    packages = sorted(path.parent.name for path in (ROOT / "netstore").glob("*/__init__.py"))
    tested = (name for name in packages if any((ROOT / "tests" / name).glob("test_*.py")))
    return [SHARED, *(name for name in tested if name != GENERATED)]


def settings(room: str, data: Path) -> str:
    """Coverage's configuration."""
    measured = f"source = netstore.{room}"
    if room == SHARED:
        measured = "source = netstore\nomit =\n    netstore/*/*"
    return f"[run]\ndata_file = {data}\n{measured}\n"


def paths(room: str) -> list[str]:
    """What pytest is told to run."""
    if room == SHARED:
        return [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").glob("test_*.py"))]
    return [f"tests/{room}"]


def measure(room: str) -> Measured:
    """Run the tests of a room in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        configuration, report = Path(folder, "coveragerc"), Path(folder, "report.json")
        configuration.write_text(settings(room, Path(folder, "data")))
        coverage = (sys.executable, "-m", "coverage")
        environment = {**os.environ, "COVERAGE_CORE": CORE, "COVERAGE_RCFILE": str(configuration)}
        done = subprocess.run(
            (*coverage, "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths(room)),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        subprocess.run((*coverage, "json", "-q", "-o", report), cwd=ROOT, env=environment, check=True)
        totals = json.loads(report.read_text())["totals"]
    failure = done.stdout if done.returncode else ""
    return Measured(room, totals["num_statements"], totals["missing_lines"], failure)


def main(words: list[str] | None = None) -> int:
    """Measure, print the table, and return 1 if a room is below its floor or its tests fail."""
    parser = argparse.ArgumentParser(prog="python -m contrib.coverage", description=__doc__)
    parser.add_argument("room", nargs="*", help="a package in netstore; all if left out")
    chosen = parser.parse_args(words).room or rooms()
    if unknown := set(chosen) - set(rooms()):
        parser.error(f"no such room: {', '.join(sorted(unknown))}; there are {', '.join(rooms())}")
    least, failed = floors(), []
    if without := sorted(set(chosen) - set(least)):
        parser.error(f"no floor in pyproject.toml (tool.netstore.coverage) for {', '.join(without)}: add one")
    print(f"{'room':10} {'lines':>6} {'missed':>6} {'percent':>8} {'floor':>6}")
    with ThreadPoolExecutor(WORKERS) as pool:
        for each in pool.map(measure, chosen):
            problem = each.problem(least[each.room])
            numbers = f"{each.lines:6} {each.missed:6} {each.percent:8.1f} {least[each.room]:6g}"
            print(f"{each.room:10} {numbers}  {problem}".rstrip(), flush=True)
            if problem:
                failed.append(each)
    for each in failed:
        print(each.failure, end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
