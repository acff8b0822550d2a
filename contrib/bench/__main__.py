"""`python -m contrib.bench`: run the benchmarks and print their tables."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contrib.bench import cluster, fair, growth, kube, large, lists, restart, routes, single
from contrib.bench.history import DIRTY
from contrib.bench.stores import beside
from tests.support.peers import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contrib.bench.report import Table
    from contrib.bench.stores import Stores

ROOT: Final = Path(__file__).resolve().parents[2]

PARTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "single": ("one member: puts, transactions, reads, leases, watchers, v2 keys", ("h2load", "wrk")),
    "cluster": ("three members, and leaders that are killed", ("h2load", "wrk")),
    "list": ("long lists", ("h2load",)),
    "restart": ("restarts with many keys", ()),
    "kube": ("objects as kube-apiserver writes them", ()),
    "fair": ("small requests beside large ones", ()),
    "growth": ("what more keys and watchers cost netstored; compared with nobody", ()),
    "routes": ("netstore-agent; needs root", ("ip",)),
    "large": ("10 GiB of data in one member", ("h2load",)),
}
"""Part -> what it is, and the programs it needs beside the stores."""

ALONE: Final = {"growth", "routes"}
"""Parts that are not run against another checkout."""

NAMED: Final = {"large"}
"""Parts that are run only where they are named: they write much."""


def _numbers(text: str) -> list[int]:
    """Of a list with commas; each 1 or more."""
    return [_number(each) for each in text.split(",")]


def _number(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _gib(text: str) -> float:
    if not 0 < (gib := float(text)) < math.inf:
        raise ValueError
    return gib


_numbers.__name__ = "list of numbers"  # what argparse calls it when it refuses a value
_number.__name__ = "number of 1 or more"
_gib.__name__ = "number above 0"


def _arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    told = ", ".join(f"{part} ({what})" for part, (what, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench",
        description="Measure netstore side by side with etcd, or with another checkout. All parts take more"
        " than an hour on two cores, `single --only put --rounds 3` a minute.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{told}; all but large by default")
    parser.add_argument("--rounds", type=_number, default=5, help="rounds of each load on each store (5)")
    parser.add_argument("--seconds", type=_number, default=3, help="seconds of each round (3)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="loads of `single` with TEXT in their names"
    )
    parser.add_argument(
        "--leases",
        type=_numbers,
        default="1000,3000,10000",
        help="numbers of leases of `routes` (1000,3000,10000)",
    )
    parser.add_argument(
        "--churn-seconds", type=_number, default=60, help="seconds in which `routes` changes leases (60)"
    )
    for api in ("v2", "v3"):
        parser.add_argument(
            f"--flanneld-{api}",
            type=Path,
            metavar="PATH",
            help=f"a flanneld with the API {api}, for `routes`",
        )
    parser.add_argument(
        "--restart-keys",
        type=_numbers,
        default="300000,1000000",
        help="numbers of keys of `restart` (300000,1000000)",
    )
    parser.add_argument("--kills", type=_number, default=20, help="leaders killed in each cluster (20)")
    parser.add_argument("--objects", type=_number, default=2_000, help="objects of a round of `kube` (2000)")
    parser.add_argument(
        "--nodes", type=int, default=1_000, help="nodes of the control plane; 0 for none (1000)"
    )
    parser.add_argument("--mib", type=_number, default=100, help="MiB listed in `fair` (100)")
    parser.add_argument(
        "--keys", type=_numbers, default="10000,100000,1000000", help="numbers of keys of `growth`"
    )
    parser.add_argument(
        "--watchers", type=_numbers, default="1,100,1000,10000", help="numbers of watchers of `growth`"
    )
    parser.add_argument("--gib", type=_gib, default=10.0, help="GiB written in `large` (10)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw what `growth` found into FILE")
    beside_what = parser.add_mutually_exclusive_group()
    beside_what.add_argument("--etcd", default="etcd", metavar="PATH", help="the etcd (that in PATH)")
    beside_what.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="netstored of this folder instead of etcd"
    )
    parser.add_argument("--folder", type=Path, help="where the stores keep their data (a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE too")
    return parser, parser.parse_args()


def _missing(parts: Iterable[str], arguments: argparse.Namespace) -> str | None:
    """Why these parts cannot be run here."""
    needed = sorted({program for part in parts for program in PARTS[part][1]})
    compared = arguments.against is None and set(parts) - {"growth", "routes"}
    if compared and arguments.etcd != "etcd" and not os.access(arguments.etcd, os.X_OK):
        return f"{arguments.etcd} is no program"
    if compared and arguments.etcd == "etcd":
        needed.append("etcd")
    if reason := missing(*needed):
        return reason
    if compared and not _said(arguments.etcd, "--version").startswith("etcd Version: "):
        return f"{arguments.etcd} is no etcd"
    for path in (arguments.flanneld_v2, arguments.flanneld_v3):
        if "routes" in parts and path is not None and not os.access(path, os.X_OK):
            return f"{path} is no program"
    if "routes" in parts and os.geteuid() != 0:
        return "routes needs root, for a network namespace; the other parts do not"
    return None


def _wrong(arguments: argparse.Namespace, parts: Iterable[str]) -> str | None:
    """Which argument cannot be right; files that are to be written are opened for it."""
    if arguments.nodes < 0:
        return "--nodes: 0 or more"
    if arguments.folder is not None and not (
        arguments.folder.is_dir() and os.access(arguments.folder, os.W_OK | os.X_OK)
    ):
        return f"--folder: {arguments.folder} is no folder that can be written to"
    if "large" in parts and (lack := large.lack_of_space(arguments.gib, arguments.folder)):
        return f"--gib: {lack}"
    if arguments.only and "single" in parts and not any(arguments.only in name for name in single.names()):
        return f"--only: no load has {arguments.only} in its name; there are {'; '.join(single.names())}"
    for option, file in (("--json", arguments.json), ("--svg", arguments.svg)):
        if file is not None:
            try:
                file.open("a").close()
            except OSError as error:
                return f"{option}: {error}"
    return None


def _measured(part: str, stores: Stores, arguments: argparse.Namespace) -> Iterable[Table]:
    folder, rounds, seconds = arguments.folder, arguments.rounds, arguments.seconds
    measure: dict[str, Callable[[], Iterable[Table]]] = {
        "single": lambda: single.measure(stores, folder, rounds, seconds, arguments.only),
        "cluster": lambda: cluster.measure(stores, folder, rounds, seconds, arguments.kills),
        "list": lambda: [lists.measure(stores, folder, rounds, seconds)],
        "restart": lambda: [restart.measure(stores, folder, min(rounds, 3), arguments.restart_keys)],
        "kube": lambda: kube.measure(stores, folder, rounds, arguments.objects, arguments.nodes),
        "fair": lambda: [
            fair.measure(stores, folder, min(rounds, 3), seconds=10.0, mib=arguments.mib, listers=8)
        ],
        "growth": lambda: growth.measure(arguments.keys, arguments.watchers, folder, arguments.svg),
        "large": lambda: large.measure(stores, folder, large.Size(arguments.gib, min(rounds, 3), seconds)),
        "routes": lambda: [
            routes.measure(
                arguments.leases,
                arguments.churn_seconds,
                [
                    (api, path)
                    for api, path in (("v2", arguments.flanneld_v2), ("v3", arguments.flanneld_v3))
                    if path is not None
                ],
                folder,
            )
        ],
    }
    return measure[part]()


def _said(*words: str) -> str:
    """The first line that a command prints; empty if it cannot be run."""
    try:
        outcome = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return outcome.stdout.partition("\n")[0].strip()


def _commit(checkout: Path) -> str:
    """With a + if files that git knows differ from it."""
    git = ("git", "-C", str(checkout))
    changed = _said(*git, "status", "--porcelain", "--untracked-files=no")
    return _said(*git, "rev-parse", "--short", "HEAD") + (DIRTY if changed else "")


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and where."""
    other = (
        f"netstored {_commit(arguments.against)}"
        if arguments.against
        else _said(arguments.etcd, "--version").replace(" Version:", "")
    )
    kernel = platform.release().partition("-")[0]
    machine = f"{os.cpu_count()} processors, Linux {kernel}, Python {platform.python_version()}"
    return {
        "commit": _commit(ROOT),
        "date": _said("git", "show", "--no-patch", "--format=%cs", "HEAD"),
        "beside": other,
        "machine": machine,
        "busy": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    """Run the parts asked for, all of them by default; 2 when something they need is missing."""
    parser, arguments = _arguments()
    left_out = NAMED | (ALONE if arguments.against is not None else set())
    parts = arguments.parts or [part for part in PARTS if part not in left_out]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if os.sep in arguments.etcd:
        arguments.etcd = str(Path(arguments.etcd).absolute())  # parts have other working folders
    if arguments.against is not None:
        if not (arguments.against / "netstore" / "cli" / "netstored.py").is_file():
            parser.error(f"--against: {arguments.against} holds no checkout of netstore")
        if set(parts) & ALONE:
            parser.error(f"--against does not measure {' and '.join(sorted(set(parts) & ALONE))}")
    if wrong := _wrong(arguments, parts):
        parser.error(wrong)
    if reason := _missing(parts, arguments):
        print(reason, file=sys.stderr)
        return 2
    found = about(arguments)
    compared = f", beside {found['beside']}" if set(parts) - {"growth"} else ""
    print(f"{found['machine']}; commit {found['commit']}{compared}")
    if found["busy"] > 1:
        print(f"the machine is busy (load {found['busy']}): only ratios of processor time say something")
    stores = beside(arguments.against, arguments.etcd)
    tables = []
    for part in parts:
        for table in _measured(part, stores, arguments):
            print("\n" + table.text(), flush=True)
            tables.append((part, table))
    if arguments.json:
        plain = [{"part": part, **table.plain()} for part, table in tables]
        arguments.json.write_text(json.dumps({"about": found, "tables": plain}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
