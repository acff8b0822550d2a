"""`kube`: objects as kube-apiserver writes and reads them, and a whole control plane."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contrib.bench import compare
from contrib.bench.h2load import latencies
from contrib.bench.objects import Objects
from contrib.bench.report import Table, progress
from contrib.bench.stores import in_turn
from tests.support.v3kubernetes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contrib.bench.compare import Figures, Sample
    from contrib.bench.stores import Stores
    from tests.support.v3kubernetes import Outcome

CALLERS: Final = 20
SIZE: Final = 1_500
LISTS: Final = 20
PAGE: Final = 500

_CLIENT: Final = (
    "the client is Python and takes some 40 us a call on the other core, so rates above 20,000/s are its own;"
    " the processor time is the store's"
)
_PAGES: Final = f"pages of {PAGE}, as kube-apiserver asks for them; all are of the same {SIZE} bytes"


def measure(stores: Stores, folder: Path | None, rounds: int, objects: int, nodes: int) -> Iterator[Table]:
    """So many objects in each round; a control plane of so many nodes in some of them."""
    kinds: dict[str, Callable[[Objects], list[float]]] = {
        "create": Objects.create,
        "get": Objects.get,
        "update": Objects.update,
        "list, a page": lambda each: each.pages(LISTS, PAGE),
        "delete": Objects.delete,
    }
    figures: dict[str, Figures] = {kind: {name: [] for name in stores.names} for kind in kinds}
    with stores.running(folder) as running:
        all_objects = {
            name: Objects(daemon.url, CALLERS, objects, SIZE) for name, daemon in running.asked.items()
        }
        for each in all_objects.values():
            each.begin()
            for make in kinds.values():
                make(each)
        for number in range(rounds):
            progress(f"objects: round {number + 1} of {rounds}")
            for name in in_turn(stores.names, number):
                all_objects[name].begin()
                for kind, make in kinds.items():
                    before, began = running.cpu_seconds(name), time.monotonic()
                    took = sorted(make(all_objects[name]))
                    seconds = time.monotonic() - began
                    sample: Sample = {"calls": len(took), "per_second": len(took) / seconds}
                    sample["cpu_us"] = (running.cpu_seconds(name) - before) / len(took) * 1e6
                    figures[kind][name].append(sample | latencies(took, 0.001))
        for each in all_objects.values():
            each.close()
    yield Table(
        title=f"{objects:,} objects of {SIZE} bytes as kube-apiserver writes them, {CALLERS} callers",
        note=f"medians of {rounds} alternating rounds, new objects in each; every answer is checked",
        columns=compare.load_columns(stores.names),
        rows=tuple(
            compare.load_row(kind, each, _PAGES if kind.startswith("list") else _CLIENT)
            for kind, each in figures.items()
        ),
        figures=figures,
    )
    if nodes:
        yield _control_plane(stores, folder, nodes, min(rounds, 3))


def _control_plane(stores: Stores, folder: Path | None, nodes: int, rounds: int) -> Table:
    """A control plane of so many nodes on each store, everything it sees checked (`tests.support`)."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in stores.names}
    for number in range(rounds):
        progress(f"control plane of {nodes:,} nodes: round {number + 1} of {rounds}")
        for name in in_turn(stores.names, number):
            with (
                tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=folder) as scratch,
                stores.one[name](Path(scratch)) as daemon,
            ):
                outcomes[name].append(run(daemon.url, nodes=nodes, rounds=3, trust_progress=name != "etcd"))
    client = "the client is grpcio in Python and takes most of the time, which pulls the ratio towards 1"
    each = {name: [1000 * run.seconds / run.calls for run in runs] for name, runs in outcomes.items()}
    rows = [compare.value_row("a call of 4 writers, 8 informers following", each, "ms", client, digits=3)]
    for what in ("create", "update", "delete", "list"):
        for share in (50, 99):
            times = {
                name: [latencies(sorted(run.took[what]), 0.001)[f"p{share}_ms"] for run in runs]
                for name, runs in outcomes.items()
            }
            rows.append(compare.value_row(f"{what}, p{share}", times, "ms", client, digits=2))
    return Table(
        title=f"a Kubernetes control plane of {nodes:,} nodes",
        note=f"medians of {rounds} rounds",
        columns=compare.value_columns(stores.names),
        rows=tuple(rows),
        figures={name: [asdict(run) for run in runs] for name, runs in outcomes.items()},
    )
