"""`python -m contrib.bench.noop_grpc`: what the wire alone costs. Unary calls that answer a constant, asked
by h2load: the reactor, the codecs and Python, with no store behind.
"""

from __future__ import annotations

import argparse
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

from netstore.net.grpc import TIMEOUT_FIELD, GrpcServer, Services
from netstore.net.http1 import Http1Server
from netstore.net.http2 import Http2Connection, Http2Server
from netstore.net.reactor import Limits, Reactor
from tests.support.peers import missing

if TYPE_CHECKING:
    from netstore.net.grpc import Call

PATH: Final = "/etcdserverpb.KV/Put"
BODY: Final = b"\0\0\0\0\x32" + b"\x0a\x10" + b"k" * 16 + b"\x12\x1e" + b"v" * 30
ANSWER: Final = b"\x0a\x1c" + b"h" * 28


class Rounds:
    """Nobody works at the end of a round. Implements `reactor.Rounds`."""

    def begin(self) -> None:
        """A round begins."""

    def end(self) -> None:
        """It ends."""


def answer(call: Call, _: bytes) -> None:
    """The unary method."""
    call.reply(ANSWER)


def serve() -> None:
    """Serve until killed; the port is printed first."""
    log: Any = structlog.get_logger()
    reactor = Reactor(Limits(), Http1Server(lambda exchange: exchange.respond(404, b"")), log, time.monotonic)
    calls = GrpcServer(
        Services({PATH.encode(): answer}, {}), time.monotonic, lambda _seconds, _call: None, log
    )
    http2 = Http2Server(calls, lambda: reactor.now, varying=TIMEOUT_FIELD)
    sock = socket.create_server(("127.0.0.1", 0))
    reactor.listen(sock)
    print(sock.getsockname()[1], flush=True)
    trio.run(reactor.run, lambda connection, _: Http2Connection(http2, connection), Rounds())


def h2load(port: int, seconds: int, connections: int, streams: int) -> float:
    """Calls a second."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(BODY)
        body.flush()
        done = subprocess.run(
            [
                "h2load",
                f"-D{seconds}",
                "--warm-up-time=1",
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
    if found is None or " 0 failed" not in done.stdout:
        sys.exit(done.stdout + done.stderr)
    return float(found[1])


def main() -> int:
    """Measure; 2 when a program is missing."""
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.noop_grpc", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each load (5)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    if reason := missing("h2load"):
        print(reason, file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "contrib.bench.noop_grpc", "--serve"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as server:
        try:
            port = int((server.stdout or sys.stdin).readline())
            for connections, streams in ((20, 5), (100, 1), (1, 1), (20, 50)):
                rate = h2load(port, arguments.seconds, connections, streams)
                print(
                    f"{connections * streams:5} clients on {connections:3} connections {rate:10,.0f} calls/s"
                )
        finally:
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
