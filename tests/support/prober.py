"""Traffic between pods that tells every packet that is lost: `python -m tests.support.prober`.

    pings ADDRESS...    an ICMP echo request to each address every 10 ms; at the end of standard input it
                        waits for late answers, and prints what was sent and lost as JSON
    serve               echo what comes in on TCP port 7100
    talk ADDRESS        one TCP session to such a server, 8 KiB every 10 ms; the same at its end

It prints a line when it is ready.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from typing import Final

from tests.support.patience import seconds

PERIOD: Final = 0.01
LATE_SECONDS: Final = 1.0
"""How long is waited for answers after the last request."""

PORT: Final = 7100
PIECE: Final = bytes(range(256)) * 32

MOST_TOLD: Final = 50
"""Lost packets that are told one by one."""


def main() -> None:
    """Run what the command line says."""
    what, *addresses = sys.argv[1:]
    if what == "pings":
        _pings(addresses)
    elif what == "serve":
        _serve()
    else:
        _talk(addresses[0])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _is_over() -> bool:
    """Whether standard input has ended."""
    return bool(select.select([sys.stdin], [], [], 0)[0]) and not os.read(0, 1024)


def _echo(number: int, sequence: int) -> bytes:
    """An ICMP echo request (RFC 792) with the whole sequence number in its data."""
    rest = struct.pack("!HHQ", number, sequence & 0xFFFF, sequence)
    words = struct.unpack(f"!{len(rest) // 2}H", rest)
    total = 0x0800 + sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", 8, 0, ~total & 0xFFFF) + rest


def _pings(addresses: list[str]) -> None:
    number = os.getpid() & 0xFFFF
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.setblocking(False)
    waiting: dict[tuple[str, int], float] = {}
    sent = sequence = worst = 0
    _say("ready")

    def hear(until: float) -> None:
        nonlocal worst
        while (left := until - time.monotonic()) > 0:
            if not select.select([sock], [], [], left)[0]:
                return
            data, (source, _) = sock.recvfrom(2048)
            answer = data[(data[0] & 15) * 4 :]
            if len(answer) < 16 or answer[0] != 0:
                continue
            told, _, there = struct.unpack("!HHQ", answer[4:16])
            if told == number and (begun := waiting.pop((source, there), None)) is not None:
                worst = max(worst, round(1e3 * (time.monotonic() - begun)))

    while not _is_over():
        began = time.monotonic()
        for address in addresses:
            waiting[address, sequence] = began
            try:
                sock.sendto(_echo(number, sequence), (address, 0))
            except OSError as error:
                sys.stderr.write(f"{address}: {error}\n")
            sent += 1
        sequence += 1
        hear(began + PERIOD)
    end = time.monotonic() + seconds(LATE_SECONDS)
    while waiting and time.monotonic() < end:
        hear(min(end, time.monotonic() + PERIOD))  # fixed: between two looks
    lost = [(address, round(at, 3)) for (address, _), at in waiting.items()]
    _say(json.dumps({"sent": sent, "lost": len(lost), "which": lost[:MOST_TOLD], "slowest_ms": worst}))


def _serve() -> None:
    listener = socket.create_server(("", PORT))
    _say("ready")
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)


def _talk(address: str) -> None:
    sock = socket.create_connection((address, PORT), timeout=seconds(10))
    _say("ready")
    pieces, worst = 0, 0.0
    while not _is_over():
        began = time.monotonic()
        sock.sendall(PIECE)
        got = b""
        while len(got) < len(PIECE):
            data = sock.recv(len(PIECE) - len(got))
            if not data:
                raise SystemExit("the session was closed")
            got += data
        if got != PIECE:
            raise SystemExit("the session's bytes were changed")
        pieces += 1
        took = time.monotonic() - began
        worst = max(worst, took)
        time.sleep(max(0.0, PERIOD - took))  # fixed: the pace of the traffic
    _say(json.dumps({"pieces": pieces, "bytes": pieces * len(PIECE), "slowest_ms": round(1e3 * worst)}))


if __name__ == "__main__":
    main()
