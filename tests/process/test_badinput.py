"""What an operator or a stranger can do wrong to a running store, and what it says then.

A start that cannot work ends at once with status 1 and one line that names the thing and the fix, never a
traceback. A running store outlives whatever arrives on its port, and a full disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import h11
import pytest

from tests.support.cluster import get, put, request
from tests.support.daemon import Daemon, free_port, run_netstored, start_netstored
from tests.support.disks import small_disk
from tests.support.patience import seconds, until
from tests.support.wire import Wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

VERSION: Final = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"


def assert_refused(outcome: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with status 1 and a last line that has these words."""
    assert outcome.returncode == 1, outcome.stdout
    assert "Traceback" not in outcome.stdout, outcome.stdout
    last = outcome.stdout.strip().splitlines()[-1]
    for word in words:
        assert word in last, outcome.stdout


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with start_netstored(tmp_path) as running:
        yield running
    assert "Traceback" not in running.log, running.log


# -- starts that cannot work ------------------------------------------------------------------------


def test_port_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert_refused(run_netstored(tmp_path, port=port), f"127.0.0.1:{port}", "in use")


def test_second_daemon_on_the_same_folder(tmp_path: Path, daemon: Daemon) -> None:
    assert put(daemon, "first", "1").status == 201
    assert_refused(run_netstored(tmp_path, data_dir=daemon.data_dir), str(daemon.data_dir))
    assert get(daemon, "first") == "1"


def test_data_folder_is_a_file(tmp_path: Path) -> None:
    place = tmp_path / "occupied"
    place.write_text("not a folder")
    assert_refused(run_netstored(tmp_path, data_dir=place), str(place))
    assert place.read_text() == "not a folder"


def test_data_folder_cannot_be_made(tmp_path: Path) -> None:
    """Not even root makes a folder in /proc."""
    assert_refused(run_netstored(tmp_path, data_dir=Path("/proc/netstore")), "/proc/netstore")


def test_data_folder_is_private(daemon: Daemon) -> None:
    for place in (daemon.data_dir, *daemon.data_dir.rglob("*")):
        assert place.stat().st_mode & 0o077 == 0, place


def test_data_folder_open_to_others_is_told(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o775)
    outcome = run_netstored(tmp_path, data_dir=place)
    assert_refused(outcome, str(place), "0775", "chmod 700")


@pytest.mark.root
def test_data_folder_of_somebody_else(tmp_path: Path) -> None:
    """A store without root's rights that cannot read its folder says so."""
    place = tmp_path / "foreign"
    place.mkdir(0o700)
    with start_netstored(tmp_path, data_dir=place) as first:
        put(first, "a", "1")
    os.chown(place, 65534, 65534)
    without_override = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--nnp")
    outcome = run_netstored(tmp_path, data_dir=place, prefix=without_override)
    assert_refused(outcome, str(place))


# -- strangers on the port --------------------------------------------------------------------------


def test_binary_garbage(daemon: Daemon) -> None:
    for size in (1, 3, 17, 1024, 65536):
        for _ in range(8):
            with socket.create_connection((daemon.host, daemon.port), timeout=seconds(10)) as stranger:
                with contextlib.suppress(ConnectionError):
                    stranger.sendall(secrets.token_bytes(size))
                    stranger.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while stranger.recv(65536):
                        pass
    assert put(daemon, "after", "1").status == 201


def test_enormous_announced_body_is_not_waited_for(daemon: Daemon) -> None:
    with Wire(daemon.host, daemon.port) as wire:
        wire.send(
            b"PUT /v2/keys/big HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 1099511627776\r\n\r\nvalue="
        )
        answer = wire.answer()
        assert (answer.status, json.loads(answer.body)["cause"]) == (400, "http: POST too large")
    assert request(daemon, "GET", "/v2/keys/big").status == 404


def test_endless_chunks_end(daemon: Daemon) -> None:
    """A chunked body has no length to look at: it is counted as it comes."""
    with Wire(daemon.host, daemon.port) as wire:
        wire.send(
            b"PUT /v2/keys/big HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunks = b"10000\r\n%b\r\n" % bytes(65536) * 256
        with pytest.raises(ConnectionError):  # it stops listening at 10 MiB; these are 256
            list(map(wire.send, [chunks] * 16))
    assert put(daemon, "after", "1").status == 201


def test_slow_client_is_cut_off_and_an_idle_one_is_not(tmp_path: Path) -> None:
    with (
        start_netstored(tmp_path, "--slow-client-seconds", "1") as daemon,
        Wire(daemon.host, daemon.port) as idle,
        Wire(daemon.host, daemon.port) as in_head,
        Wire(daemon.host, daemon.port) as in_body,
    ):
        assert idle.ask(VERSION).status == 200
        in_head.send(b"GET /version HTT")
        in_body.send(b"PUT /v2/keys/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nval")
        for slow in (in_head, in_body):
            with contextlib.suppress(ConnectionError):
                assert slow.answer().status == 408
            assert slow.ended()
        assert idle.ask(VERSION).status == 200


def test_client_that_reads_nothing_is_let_go(tmp_path: Path) -> None:
    """Answers nobody takes are held within bounds for a while, then the client is cut off."""
    with start_netstored(tmp_path, "--slow-client-seconds", "1") as daemon:
        assert put(daemon, "long", "x" * 4_000_000).status == 201
        with Wire(daemon.host, daemon.port) as lazy:
            assert lazy.ask(VERSION).status == 200
            held = _descriptors(daemon.pid)
            lazy.send(b"GET /v2/keys/long HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)  # 4 GB of answers
            sizes = []

            def gone() -> bool:
                sizes.append(_resident_bytes(daemon.pid))
                return _descriptors(daemon.pid) < held

            until(gone, "the client has no connection any more")
            assert max(sizes) < 300 << 20
        assert put(daemon, "after", "1").status == 201


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_too_many_connections(tmp_path: Path) -> None:
    """Those that are served go on; one more is closed or has to wait until another leaves."""
    with start_netstored(tmp_path, "--max-connections", "4") as daemon, contextlib.ExitStack() as open_ones:
        kept = [open_ones.enter_context(Wire(daemon.host, daemon.port)) for _ in range(4)]
        assert all(wire.ask(VERSION).status == 200 for wire in kept)
        waiting = open_ones.enter_context(Wire(daemon.host, daemon.port))
        with contextlib.suppress(ConnectionError):
            waiting.send(VERSION)
        assert all(wire.ask(VERSION).status == 200 for wire in kept)
        kept.pop().close()
        until(lambda: _served(daemon, waiting), "another one is served after one has left")
        assert all(wire.ask(VERSION).status == 200 for wire in kept)


def _served(daemon: Daemon, waiting: Wire) -> bool:
    """The one that waited is answered; or, if it was closed, a new one is."""
    try:
        return waiting.answer().status == 200
    except (OSError, h11.RemoteProtocolError):
        pass
    try:
        with Wire(daemon.host, daemon.port) as wire:
            return wire.ask(VERSION).status == 200
    except (OSError, h11.RemoteProtocolError):
        return False


# -- the disk ---------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 192) as place:
        yield place


def fill(disk: Path) -> Path:
    """Fill a small disk; returns the file whose removal frees it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    return ballast


def write_until_full(daemon: Daemon) -> dict[str, str]:
    """Set large values until one is not acknowledged; those that were."""
    acknowledged: dict[str, str] = {}
    for number in range(400):
        key, value = f"full/{number}", f"{number}".ljust(500_000, "x")
        answer = put(daemon, key, value)
        if answer.status != 201:  # 0 when the process ended before it could answer for what it could not keep
            assert answer.status == 0 or answer.body["errorCode"] == 300, answer
            return acknowledged
        acknowledged[key] = value
    pytest.fail("the disk never got full")


@pytest.mark.root
def test_full_disk_loses_nothing_acknowledged(tmp_path: Path, disk: Path) -> None:
    """Writes stop, with an error or with the process; with room again all acknowledged is there."""
    with start_netstored(tmp_path, data_dir=disk / "data") as daemon:
        assert put(daemon, "before", "1").status == 201
        ballast = fill(disk)
        acknowledged = write_until_full(daemon)
        ballast.unlink()
        if daemon.process.poll() is None:
            daemon.stop()
        assert "Traceback" not in daemon.log, daemon.log
        assert re.search(r"writ(able|ing)", daemon.log), daemon.log
        daemon.start_again()
        assert get(daemon, "before") == "1"
        for key, value in acknowledged.items():
            assert get(daemon, key) == value
        assert put(daemon, "after", "1").status == 201


@pytest.mark.root
def test_full_log_disk_stops_writes_and_heals(tmp_path: Path, disk: Path) -> None:
    """With the log alone on a full disk reads go on, and writes again as soon as there is room."""
    with start_netstored(tmp_path, "--wal-dir", str(disk / "wal")) as daemon:
        assert put(daemon, "before", "1").status == 201
        ballast = fill(disk)
        acknowledged = write_until_full(daemon)
        assert daemon.process.poll() is None, daemon.log
        assert get(daemon, "before") == "1"
        refused = put(daemon, "refused", "1")
        assert (refused.status, refused.body["cause"]) == (500, "etcdserver: no space left on device")
        gone, _ = acknowledged.popitem()
        assert request(daemon, "DELETE", f"/v2/keys/{gone}").status == 200, "what only removes has room"
        assert request(daemon, "GET", f"/v2/keys/{gone}").status == 404
        ballast.unlink()
        until(lambda: put(daemon, "after", "1").status in {200, 201}, "writes come back")
        daemon.kill()
        daemon.start_again()
        assert get(daemon, "after") == "1"
        for key, value in acknowledged.items():
            assert get(daemon, key) == value
        assert "Traceback" not in daemon.log, daemon.log


def test_port_reserved_for_tests_is_free() -> None:
    """`free_port` returns ports that nobody listens on, and each only once."""
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == len(ports)
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass
