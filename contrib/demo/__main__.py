"""`python -m contrib.demo` (root): pods on three nodes reach each other over host-gw routes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
from typing import Final, NoReturn

from contrib.demo.playground import PREFIX, DemoError, Playground

NODES: Final = 3
CONFIG: Final = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'


def main() -> int:
    """Build, show, take away again; 1 when something did not work, 2 when it cannot be tried here."""
    if reason := _obstacle():
        print(reason, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    print("Three nodes on this machine: half a minute, all of it in network namespaces.", flush=True)
    try:
        with Playground(NODES) as playground:
            _show(playground)
    except DemoError as error:
        print(f"\nfailed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\nEverything is taken away again.")
    return 0


def _obstacle() -> str | None:
    if os.geteuid() != 0:
        return "the demo needs root, for network namespaces"
    for program, package in (("ip", "iproute2"), ("ping", "iputils-ping")):
        if shutil.which(program) is None:
            return f"the demo needs {program} (apt-get install {package})"
    return None


def _end(number: int, _: object) -> NoReturn:
    """Leave through every `with`, so that the namespaces go."""
    sys.exit(128 + number)


def _show(playground: Playground) -> None:
    _say("A switch, three nodes and a pod on each, in network namespaces")
    playground.build()

    _say("One store, and the network's config in it")
    playground.start_store()
    playground.control("network", "set", CONFIG)
    print(playground.control("network", "get").strip())

    _say("An agent on every node takes a subnet")
    numbers = range(1, NODES + 1)
    for number in numbers:
        playground.start_agent(number)
    took = playground.wait(
        "subnet.env on every node", lambda: all(playground.subnet_file(number).exists() for number in numbers)
    )
    print(playground.control("subnet", "ls").rstrip())
    print(f"({took:.2f} s after the last agent was started, under {PREFIX})")

    _say("and points a route at every other node")
    others = {number: [other for other in numbers if other != number] for number in numbers}
    playground.wait(
        "all routes", lambda: all(_has_routes(playground, number, others[number]) for number in numbers)
    )
    for number in numbers:
        for other in others[number]:
            route = playground.routes(number, str(playground.subnet(other))).strip()
            print(f"node{number}: {route}")

    _say("Pods reach each other")
    addresses = {number: playground.plug_pod(number) for number in numbers}
    failed = [
        f"pod{source} to pod{target}"
        for source, target in itertools.permutations(numbers, 2)
        if not _shown_ping(playground, source, target, addresses[target])
    ]
    if failed:
        raise DemoError(f"no answer: {', '.join(failed)}\n{playground.logs()}")

    _say("A route deleted by hand comes back")
    subnet = playground.subnet(2)
    begun = time.monotonic()
    playground.delete_route(1, subnet)
    playground.wait("the route to come back", lambda: _has_routes(playground, 1, [2]))
    took = time.monotonic() - begun
    print(f"node1: ip route delete {subnet}: back within {took * 1000:.0f} ms, both ip commands included")
    if not _shown_ping(playground, 1, 2, addresses[2]):
        raise DemoError("the repaired route does not carry packets")


def _has_routes(playground: Playground, number: int, others: list[int]) -> bool:
    return all(
        f"via {playground.node_address(other)} " in playground.routes(number, str(playground.subnet(other)))
        for other in others
    )


def _shown_ping(playground: Playground, source: int, target: int, address: str) -> bool:
    answered = playground.ping(source, address)
    print(f"pod{source} -> pod{target} {address}: {'answers' if answered else 'no answer'}")
    return answered


def _say(what: str) -> None:
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
