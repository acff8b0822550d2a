"""v2 sets and gets by wrk."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contrib.bench.compare import alternate
from contrib.bench.report import progress

if TYPE_CHECKING:
    from contrib.bench.compare import Figures, Sample
    from contrib.bench.stores import Running
    from tests.support.daemon import Daemon

KEYS: Final = 1_000
"""As in the script."""

SCRIPT: Final = Path(__file__).with_name("keys.lua")


def run(running: Running, name: str, mode: str, *, connections: int, rounds: int, seconds: int) -> Figures:
    """`rounds` rounds of `seconds` on each store, after all keys were set, and a second of it that does
    not count.
    """
    progress(f"{name}: {rounds} rounds of {seconds} s on each store")
    for store in running.asked.values():
        _fill(store)
        _wrk(store, mode, connections, 1)
    return alternate(running, rounds, lambda store: _wrk(running.asked[store], mode, connections, seconds))


def _fill(store: Daemon) -> None:
    connection = http.client.HTTPConnection(store.host, store.port, timeout=60)
    for number in range(KEYS):
        connection.request("PUT", f"/v2/keys/bench/{number}?value=v", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        answer.read()
        if answer.status not in {http.HTTPStatus.OK, http.HTTPStatus.CREATED}:
            raise RuntimeError(f"{store.url} set no key: {answer.status}")
    connection.close()


def _wrk(store: Daemon, mode: str, connections: int, seconds: int) -> Sample:
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
    calls = figures["requests"]
    return {
        "calls": calls,
        "per_second": calls / figures["seconds"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
    }
