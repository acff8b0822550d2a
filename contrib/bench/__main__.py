"""`python -m contrib.bench`: run the benchmarks and print their tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from contrib.bench import cluster, keys, routes, v3
from contrib.bench.stores import beside
from tests.support.peers import missing


def main() -> int:
    """Run the parts asked for, all of them by default; 2 when something they need is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench",
        description="Measure netstore side by side with Debian's etcd, or with another checkout. All parts"
        " take half an hour on two cores, `keys --rounds 3` takes a minute.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="keys, v3, cluster, routes; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each load on each store (5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of each round (3)")
    parser.add_argument("--leases", default="1000,3000", help="numbers of leases (1000,3000)")
    parser.add_argument(
        "--restart-keys", type=int, default=1_000_000, help="small keys of the v3 restart (1000000)"
    )
    parser.add_argument("--kills", type=int, default=20, help="leaders killed in each cluster (20)")
    parser.add_argument("--nodes", type=int, default=1_000, help="nodes of the v3 control plane (1000)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="hold it against netstored of this folder instead of etcd; keys and v3 only",
    )
    parser.add_argument("--folder", type=Path, help="where the stores keep their data (a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE too")
    arguments = parser.parse_args()
    parts = arguments.parts or ["keys", "v3", "cluster", "routes"]
    if unknown := set(parts) - {"keys", "v3", "cluster", "routes"}:
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are keys, v3, cluster and routes")
    if arguments.against is not None:
        if not (arguments.against / "netstore" / "cli" / "netstored.py").is_file():
            parser.error(f"--against: {arguments.against} holds no checkout of netstore")
        if set(parts) - {"keys", "v3"}:
            parser.error("--against measures keys and v3: name them")
    stores = beside(arguments.against)
    tools = {"keys": "wrk", "v3": "h2load", "cluster": "wrk", "routes": "ip"}
    reason = missing(
        *(["etcd"] if "etcd" in stores else []), *(tool for part, tool in tools.items() if part in parts)
    )
    if "routes" in parts and os.geteuid() != 0:
        reason = (
            reason or "routes needs root, for a network namespace; `python -m contrib.bench keys` does not"
        )
    if reason:
        print(reason, file=sys.stderr)
        return 2

    print(f"{os.cpu_count()} processors, Linux {platform.release()}, Python {platform.python_version()}\n")
    tables = []
    if "keys" in parts:
        with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=arguments.folder) as folder:
            tables.append(keys.measure(Path(folder), stores, arguments.rounds, arguments.seconds))
        print(tables[-1].text(), flush=True)
    if "v3" in parts:
        with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=arguments.folder) as folder:
            for table in (
                v3.measure(Path(folder), stores, arguments.rounds, arguments.seconds),
                v3.measure_kubernetes(Path(folder), stores, arguments.nodes, min(arguments.rounds, 3)),
                v3.measure_size(Path(folder), stores, arguments.rounds, arguments.restart_keys),
            ):
                print(("\n" if tables else "") + table.text(), flush=True)
                tables.append(table)
    if "cluster" in parts:
        with tempfile.TemporaryDirectory(prefix="netstore-bench-", dir=arguments.folder) as folder:
            for table in cluster.measure(Path(folder), arguments.rounds, arguments.seconds, arguments.kills):
                print(("\n" if tables else "") + table.text(), flush=True)
                tables.append(table)
    if "routes" in parts:
        tables.append(routes.measure([int(count) for count in arguments.leases.split(",")]))
        print(("\n" if tables[:-1] else "") + tables[-1].text(), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([table.plain() for table in tables], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
