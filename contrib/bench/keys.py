"""v2 sets and gets by wrk against netstored and etcd or another checkout, in alternating rounds."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from contrib.bench.report import Row, Table, progress
from contrib.bench.stores import columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contrib.bench.stores import Start
    from tests.support.daemon import Daemon

SCRIPT: Final = Path(__file__).with_name("keys.lua")
LOADS: Final = (("set", 64), ("get", 64), ("set", 1), ("get", 1))

Figures = dict[str, dict[str, list[dict[str, float]]]]
"""Load -> store -> one measurement for each round."""


def measure(folder: Path, starters: dict[str, Start], rounds: int, seconds: int) -> Table:
    """Run every load for `rounds` rounds of `seconds` on each store; the data lies in `folder`."""
    with ExitStack() as running:
        stores: dict[str, Daemon] = {}
        for name, start in starters.items():
            (folder / name).mkdir()
            stores[name] = running.enter_context(start(folder / name))
        for store in stores.values():
            wrk(store, "set", 8, 1)
        figures: Figures = {
            f"{mode}, {_connections(count)}": alternate(stores, mode, count, rounds, seconds)
            for mode, count in LOADS
        }
    return Table(
        title="v2 keys by wrk, 1,000 keys of 32 bytes",
        note=f"medians of {rounds} alternating rounds of {seconds} s; data on {file_system(folder)}",
        columns=(*columns(starters), *(f"p99 {name}" for name in starters)),
        rows=tuple(row(name, by_store) for name, by_store in figures.items()),
        figures=figures,
    )


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def alternate(
    stores: Mapping[str, Daemon], mode: str, connections: int, rounds: int, seconds: int
) -> dict[str, list[dict[str, float]]]:
    """Each round takes the stores in the other order, so that a drift of the machine favours neither."""
    progress(f"v2 {mode}, {_connections(connections)}: {rounds} rounds of {seconds} s on each store")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
    for number in range(rounds):
        for name in sorted(stores, reverse=number % 2 == 1):
            results[name].append(wrk(stores[name], mode, connections, seconds))
    return results


def wrk(store: Daemon, mode: str, connections: int, seconds: int) -> dict[str, float]:
    """One run of wrk; RuntimeError when a request failed."""
    outcome = subprocess.run(
        ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), store.url, "--", mode),
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    figures: dict[str, float] = json.loads(outcome.stdout.strip().splitlines()[-1])
    if figures["failed"]:
        raise RuntimeError(f"{figures['failed']:.0f} requests to {store.url} failed:\n{store.log[-2000:]}")
    figures["per_second"] = figures["requests"] / figures["seconds"]
    return figures


def row(name: str, by_store: Mapping[str, list[dict[str, float]]]) -> Row:
    """The line of one load: medians of the rounds, netstored over etcd."""
    ours, theirs = (median(each["per_second"] for each in rounds) for rounds in by_store.values())
    tails = [median(each["p99_ms"] for each in rounds) for rounds in by_store.values()]
    return Row(
        name,
        (
            f"{ours:,.0f}/s",
            f"{theirs:,.0f}/s",
            f"{ours / theirs:.2f}",
            *(f"{tail:.2f} ms" for tail in tails),
        ),
    )


def file_system(folder: Path) -> str:
    """The kind of file system a folder lies on."""
    outcome = subprocess.run(
        ("stat", "-f", "-c", "%T", str(folder)), capture_output=True, text=True, check=True
    )
    return outcome.stdout.strip()
