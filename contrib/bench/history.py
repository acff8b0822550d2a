"""The ratios of each measured commit, and the page of graphs that is made from them.

    python -m contrib.bench.history add FILE     # what `python -m contrib.bench --json FILE` wrote
    python -m contrib.bench.history draw         # the graphs, from history.json as it is

An entry is one commit beside one other store: rows by their names, each with how many times as good netstored
was, by rate, latency, processor time or what else the row compares. Rows added later join the entry of their
commit. Of a run on a busy machine only the ratios of processor time are taken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from contrib.bench import svg

FILE: Final = Path(__file__).with_name("history.json")
PICTURE: Final = Path(__file__).parents[1] / "doc" / "history.svg"
COLUMNS: Final = 3
SHOWN: Final = {"rate": "calls a second", "cpu": "processor time", "p99": "p99", "value": "time or memory"}
"""The ratios that are drawn, and what they are called."""

DIRTY: Final = "+"
"""Behind a commit: the checkout had other changes as well."""

History = list[dict[str, Any]]


def kept() -> History:
    """What history.json has, oldest first."""
    found: History = json.loads(FILE.read_text())
    return found


def added(history: History, measured: dict[str, Any]) -> History:
    """With what a run of `contrib.bench` wrote."""
    try:
        about = {key: str(measured["about"][key]) for key in ("commit", "date", "beside", "machine")}
        busy = float(measured["about"]["busy"])
        compared = [
            (
                f"{table['part']}: {row['name'].strip()}",
                {key: round(ratio, 3) for key, ratio in ratios.items()},
            )
            for table in measured["tables"]
            for row in table["rows"]
            if (ratios := row["ratios"])
        ]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("no run of contrib.bench wrote that") from None
    if not about["beside"]:
        raise ValueError("the run does not say what it was measured beside")
    if about["commit"].endswith(DIRTY):
        raise ValueError("the checkout had changes that are in no commit")
    rows: dict[str, dict[str, float]] = {}
    for name, ratios in compared:
        if name in rows:
            raise ValueError(f"two rows are called {name}")
        rows[name] = ratios
    if not rows:
        raise ValueError("the run compared nothing")
    if busy > 1:  # what else ran decides rates and latencies then
        rows = {name: {"cpu": ratios["cpu"]} for name, ratios in rows.items() if "cpu" in ratios}
    same = [each for each in history if _key(each) == (about["commit"], about["beside"])]
    known = same[0]["rows"] if same else {}
    entry = {**about, "rows": known | rows}
    if same:
        return [entry if each is same[0] else each for each in history]
    return [*history, entry]


def _key(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["commit"], entry["beside"]


def drawn(history: History) -> str:
    """A panel for each row that was measured beside an etcd, over the commits in the order of their first
    entries. A line for each release of etcd, by its first two numbers.
    """
    entries = [each for each in history if each["beside"].startswith("etcd")]
    commits = list(dict.fromkeys(each["commit"] for each in entries))
    names = list(dict.fromkeys(name for each in entries for name in each["rows"]))
    releases = {_release(each["beside"]) for each in entries}
    panels = []
    for name in names:
        points: dict[str, list[tuple[float, float]]] = {}
        for each in entries:
            beside = f", {_release(each['beside'])}" if len(releases) > 1 else ""
            for key, ratio in each["rows"].get(name, {}).items():
                if key in SHOWN:
                    place = float(commits.index(each["commit"]))
                    points.setdefault(f"{SHOWN[key]}{beside}", []).append((place, ratio))
        lines = {line: sorted(each) for line, each in points.items()}
        panels.append(svg.Panel(name, lines, _ticks(commits), base=1.0))
    return svg.page(
        panels, COLUMNS, "how many times as good as etcd, over commits; the dashed line is the same"
    )


def _release(beside: str) -> str:
    """As `etcd 3.5`."""
    return ".".join(beside.split(".")[:2])


def in_order(history: History, commits: list[str]) -> History:
    """As the commits are, oldest first; behind them those that are not among them."""

    def place(entry: dict[str, Any]) -> int:
        short: str = entry["commit"]
        return next((at for at, each in enumerate(commits) if each.startswith(short)), len(commits))

    return sorted(history, key=place)


def _commits() -> list[str]:
    """All of this checkout, oldest first."""
    words = ("git", "rev-list", "--reverse", "--topo-order", "HEAD")
    done = subprocess.run(words, cwd=FILE.parent, capture_output=True, text=True, check=False)
    return done.stdout.split()


def _ticks(commits: list[str]) -> list[tuple[float, str]]:
    """The first, the last, and one between them."""
    places = sorted({0, len(commits) // 2, len(commits) - 1} & set(range(len(commits))))
    return [(float(place), commits[place]) for place in places]


def main() -> int:
    """Add or draw; 1 when a file cannot be added."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench.history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("add", "draw"))
    parser.add_argument("file", nargs="?", type=Path, help="what `--json` of the benchmarks wrote")
    arguments = parser.parse_args()
    history = kept()
    if arguments.what == "add":
        if arguments.file is None:
            parser.error("add needs the file that --json wrote")
        try:
            measured = json.loads(arguments.file.read_text())
            history = in_order(added(history, measured), _commits())
        except (OSError, ValueError) as error:
            print(f"{arguments.file}: {error}", file=sys.stderr)
            return 1
        FILE.write_text(json.dumps(history, indent=1) + "\n")
    PICTURE.write_text(drawn(history))
    return 0


if __name__ == "__main__":
    sys.exit(main())
