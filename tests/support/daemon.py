"""Real store processes for tests: start one on free ports, wait until it serves, stop it or kill it.

Every wait is bounded and every failure shows what the process wrote. A port is reserved for the life of the
test process, so tests that run side by side never race for one.
"""

from __future__ import annotations

import atexit
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from tests.support.inside import inside
from tests.support.patience import PAUSE, Deadline, seconds
from tests.support.prefork import start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.support.prefork import Process

START_SECONDS: Final = 20.0
"""How long a process may take until it serves; generous, because two cores run many tests at once."""

STOP_SECONDS: Final = 15.0
PROBE_SECONDS: Final = 1.0

FIRST_PORT: Final = 20_000
LAST_PORT: Final = 32_000
"""Below the range the kernel gives to outgoing connections: none of them can sit on a port picked here."""

ROOT: Final = Path(__file__).resolve().parents[2]

FOREIGN_VARIABLES: Final = ("ETCD_", "NETSTORE_", "FLANNELD_")

_reserved: list[socket.socket] = []
_spawned: list[Process] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on and no other test process on this machine will pick."""
    for _ in range(1000):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mark.bind(f"\0netstore-tests-{port}")
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _reserved.append(mark)
        return port
    raise AssertionError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


@dataclass
class Daemon:
    """A running store. As a context manager it is stopped at the end, killed if it will not stop."""

    url: str
    """What its clients use, as `http://127.0.0.1:20379`."""
    process: Process
    data_dir: Path
    log_path: Path
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    netns: str | None = None

    @property
    def pid(self) -> int:
        """The process itself; `ip netns exec` replaces itself by it."""
        return self.process.pid

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def log(self) -> str:
        """All it has written to standard output and standard error so far, over every restart."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self, limit: float = STOP_SECONDS) -> int:
        """Ask it to end with SIGTERM and return its exit status; killed, and an error, past the limit."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds(limit))
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not stopped {limit} s after SIGTERM; it wrote:\n{self.log}") from None

    def kill(self) -> None:
        """End it with SIGKILL: none of its own code runs any more."""
        self.process.kill()
        self.process.wait(seconds(STOP_SECONDS))

    def spawn_again(self) -> None:
        """Start the same command, folder and ports after `stop` or `kill`, and do not wait."""
        assert self.process.poll() is not None, "still running"
        self.process = _spawn(self.command, self.environment, self.log_path)

    def start_again(self, limit: float = START_SECONDS) -> None:
        """Start the same command, folder and ports after `stop` or `kill`; return when it serves."""
        self.spawn_again()
        self.wait_until_healthy(limit)

    def wait_until_healthy(self, limit: float = START_SECONDS) -> None:
        """Return when `/health` answers 200; raises, with the log, if it ends first or the limit passes."""
        deadline = Deadline(limit)
        while not is_healthy(self.url, self.netns):
            status = self.process.poll()
            if status is not None:
                raise AssertionError(f"ended with status {status} before it served; it wrote:\n{self.log}")
            if deadline.passed():
                self.kill()
                raise AssertionError(f"not healthy after {deadline}; it wrote:\n{self.log}")
            time.sleep(PAUSE)  # fixed: between two looks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is not None:
            return
        if kind is None:
            self.stop()
        else:
            self.kill()
            if error is not None:
                error.add_note(f"log of {self.command[0]} on {self.url}:\n{self.log[-4000:]}")


def netstored_command(
    data_dir: Path, *flags: str, host: str = "127.0.0.1", port: int = 0, peer_port: int = 0, also: str = ""
) -> tuple[str, ...]:
    """The words that start a one-member store; ports left at 0 are picked free. Later `flags` win. It serves
    clients at the URL `also`, too.
    """
    client = f"http://{host}:{port or free_port()}"
    peer = f"http://{host}:{peer_port or free_port()}"
    return (
        *(sys.executable, "-m", "netstore.cli.netstored"),
        *("--data-dir", str(data_dir)),
        *("--listen-client-urls", f"{client},{also}" if also else client),
        *("--advertise-client-urls", client),
        *("--listen-peer-urls", peer),
        *flags,
    )


def start_netstored(
    tmp_path: Path,
    *flags: str,
    data_dir: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    peer_port: int = 0,
    netns: str | None = None,
    environment: Mapping[str, str] | None = None,
    also: str = "",
    limit: float = START_SECONDS,
) -> Daemon:
    """Start netstored and return when it serves.

    The data folder is `tmp_path/netstored.data`, unless told otherwise, and the log `tmp_path/netstored.log`.
    With `netns` it runs in that network namespace and listens on `host` there.
    """
    folder = data_dir or tmp_path / "netstored.data"
    port = port or free_port()
    command = netstored_command(folder, *flags, host=host, port=port, peer_port=peer_port, also=also)
    url = f"http://{host}:{port}"
    return launch(
        command, url, folder, tmp_path / "netstored.log", netns=netns, environment=environment, limit=limit
    )


def run_netstored(
    tmp_path: Path,
    *flags: str,
    data_dir: Path | None = None,
    port: int = 0,
    peer_port: int = 0,
    prefix: Sequence[str] = (),
    limit: float = START_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run netstored where it should refuse to start: its status, and both output streams in `stdout`.

    `prefix` are words before the command, for a program that runs it under other rights.
    """
    folder = data_dir or tmp_path / "netstored.data"
    command = netstored_command(folder, *flags, port=port, peer_port=peer_port)
    return subprocess.run(
        (*prefix, *command),
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds(limit),
        check=False,
        text=True,
        errors="replace",
    )


def spawn(
    command: Sequence[str],
    url: str,
    data_dir: Path,
    log_path: Path,
    *,
    netns: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Daemon:
    """Start any store by its command line, and do not wait."""
    words = ("ip", "netns", "exec", netns, *command) if netns else tuple(command)
    surroundings = {**clean_environment(), **(environment or {})}
    return Daemon(url, _spawn(words, surroundings, log_path), data_dir, log_path, words, surroundings, netns)


def launch(
    command: Sequence[str],
    url: str,
    data_dir: Path,
    log_path: Path,
    *,
    netns: str | None = None,
    environment: Mapping[str, str] | None = None,
    limit: float = START_SECONDS,
) -> Daemon:
    """Start any store by its command line and return when `/health` of `url` answers 200."""
    daemon = spawn(command, url, data_dir, log_path, netns=netns, environment=environment)
    try:
        daemon.wait_until_healthy(limit)
    except BaseException:
        if daemon.process.poll() is None:
            daemon.kill()
        raise
    return daemon


def clean_environment() -> dict[str, str]:
    """The environment without what configures a store or an agent of this machine."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_VARIABLES)}


def _spawn(command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> Process:
    with log_path.open("ab") as log:
        process = start(command, environment, log.fileno())
    _spawned.append(process)
    return process


@atexit.register
def _end_what_was_left() -> None:
    """Kill stores of tests that failed before their `with` block."""
    for process in _spawned:
        if process.poll() is None:
            process.kill()
            process.wait(seconds(STOP_SECONDS))


def is_healthy(url: str, netns: str | None = None) -> bool:
    """`/health` of this store answers 200 now; asked from inside the network namespace if one is named."""
    return _is_healthy(url) if netns is None else inside(netns, lambda: _is_healthy(url))


def _is_healthy(url: str) -> bool:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=seconds(PROBE_SECONDS))
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
