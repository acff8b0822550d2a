"""`python -m contrib.bench.noop_grpc`: what the wire alone costs. Unary calls that answer a constant, asked
by h2load: the reactor, the codecs and Python, with no store behind.

On a machine that does other things too, look at the processor time: a million over it is what one core could
answer in a second.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import Http2Connection, Http2Server
from netstore.net.reactor import Limits, Reactor
from netstore.node.timekeeper import Deadline
from tests.support.peers import missing

if TYPE_CHECKING:
    from netstore.net.grpc.protocols import Call

PATH: Final = "/etcdserverpb.KV/Put"
BODY: Final = b"\0\0\0\0\x32" + b"\x0a\x10" + b"k" * 16 + b"\x12\x1e" + b"v" * 30
ANSWER: Final = b"\x0a\x1c" + b"h" * 28


LOADS: Final = ((20, 5), (100, 1), (1, 1), (20, 50))
"""Connections, and calls in flight on each."""


class Rounds:
    """Nobody works at the end of a round. Implements `reactor.Rounds`."""

    def begin(self) -> None:
        """A round begins."""

    def rest(self) -> None:
        """No round follows soon."""

    def end(self, *, is_idle: bool) -> None:
        """It ends."""


def answer(call: Call, _: bytes) -> None:
    """The unary method."""
    call.reply(ANSWER)


def serve() -> None:
    """Serve until killed; the port is printed first."""
    log: Any = structlog.get_logger()
    reactor = Reactor(Limits(), Http1Server(lambda exchange: exchange.respond(404, b"")), log, time.monotonic)
    calls = GrpcServer(
        Services({PATH.encode(): answer}, {}), time.monotonic, lambda _seconds, call: Deadline(0.0, call), log
    )
    http2 = Http2Server(calls, lambda: reactor.now, varying=TIMEOUT_FIELD)
    sock = socket.create_server(("127.0.0.1", 0))
    reactor.listen(sock)
    print(sock.getsockname()[1], flush=True)
    trio.run(reactor.run, lambda connection, _: Http2Connection(http2, connection), Rounds())


def h2load(port: int, calls: int, connections: int, streams: int) -> float:
    """Calls a second."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(BODY)
        body.flush()
        done = subprocess.run(
            [
                "h2load",
                f"-n{calls}",
                f"-c{connections}",
                f"-m{streams}",
                f"-d{body.name}",
                "-Hcontent-type: application/grpc",
                "-Hte: trailers",
                f"http://127.0.0.1:{port}{PATH}",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"finished in .*, ([\d.]+) req/s", done.stdout)
    if found is None or f"{calls} succeeded, 0 failed" not in done.stdout:
        sys.exit(done.stdout + done.stderr)
    return float(found[1])


def processor_seconds(process: int) -> float:
    """What a process has used so far, in user and system mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure; 2 when a program is missing."""
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.noop_grpc", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="calls of each load (100000)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    if reason := missing("h2load"):
        print(reason, file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "contrib.bench.noop_grpc", "--serve"]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        try:
            port = int((server.stdout or sys.stdin).readline())
            h2load(port, 5000, 20, 5)
            for connections, streams in LOADS:
                before = processor_seconds(server.pid)
                rate = h2load(port, arguments.calls, connections, streams)
                each = (processor_seconds(server.pid) - before) / arguments.calls
                print(
                    f"{connections * streams:5} clients on {connections:3} connections: {rate:8,.0f} calls/s,"
                    f" {each * 1e6:5.1f} us of the server's processor each"
                )
        finally:
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
