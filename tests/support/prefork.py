"""Starts the daemons under test without a new interpreter for each: a process of this module has imported one
program and forks for each start. Importing takes half a second of processor time, and the tests start
hundreds.

What runs is the program's own `main` with its arguments, environment, folder, log and network namespace, as
`python -m MODULE` would run it. The start itself, as users have it, is what `tests/cli`, `tests/ops` and the
documents' tests run.

The forked process becomes a child of the test's process (PR_SET_CHILD_SUBREAPER in prctl(2)), so it is waited
for as any other.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRELOADED: Final = {
    "netstore.cli.netstored": ("netstore.ops.logging", "netstore.server.daemon"),
    "netstore.cli.agent": (
        *("netstore.agent.netlink", "netstore.agent.ruleset", "netstore.agent.service"),
        *("netstore.client.subnets_v2", "netstore.client.transport", "netstore.client.v2"),
        *("netstore.client.grpc", "netstore.client.subnets_v3", "netstore.client.v3"),
        *("netstore.ops.logging", "netstore_plugins.hostgw"),
    ),
}
"""What each program imports when it starts to work; what only some runs need is left to them."""

ROOT: Final = Path(__file__).resolve().parents[2]

MAX_REQUEST_BYTES: Final = 1 << 20

INTERPRETERS: Final = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "COVERAGE")
"""Beginnings of variables that an interpreter reads when it starts."""

_IN_NAMESPACE: Final = ("ip", "netns", "exec")
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_MS_REC_SLAVE: Final = 0x4000 | 0x80000
_MNT_DETACH: Final = 2
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None, use_errno=True)


class Forked:
    """A process that was forked: the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. TimeoutExpired after so many seconds."""
        while (status := self.poll()) is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


def start(words: Sequence[str], environment: Mapping[str, str], log: int) -> Process:
    """Start a program, its standard output and error into this file: forked, where its interpreter would be
    one as the prepared one is.
    """
    netns, command = (words[3], words[4:]) if tuple(words[:3]) == _IN_NAMESPACE else (None, words)
    if tuple(command[:2]) != (sys.executable, "-m") or command[2] not in PRELOADED:
        return _execute(words, environment, log)
    if _interpreters(environment) != _interpreters(os.environ):
        return _execute(words, environment, log)
    request = {"netns": netns, "arguments": command[3:], "environment": dict(environment)}
    return Forked(_source(command[2]).fork(request, log))


def _execute(words: Sequence[str], environment: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )


def _interpreters(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(INTERPRETERS)}


_forking: Final = threading.Lock()
"""Held by the thread that forks: whether orphans become children of this process is one setting for all."""


class _Source:
    """The test's end of a process that has imported a program."""

    def __init__(self, module: str) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
        with other:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "tests.support.prefork", module, str(other.fileno())),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
            )
        atexit.register(self.process.wait, seconds(20))
        atexit.register(self._socket.close)

    def fork(self, request: Mapping[str, object], log: int) -> int:
        """The process id of a new process."""
        with _forking:
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [log])
                return int(self._socket.recv(64))
            finally:
                _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@cache
def _source(module: str) -> _Source:
    return _Source(module)


def _serve(module: str, requests: socket.socket) -> int:
    """Fork for each request, until there is none. In a forked process: run the program, give its status."""
    program = importlib.import_module(module)
    for each in PRELOADED[module]:
        importlib.import_module(each)
    gc.collect()
    gc.freeze()
    while True:
        text, files, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 1)
        if not text:
            return 0
        pid = _fork_twice()
        if pid == 0:
            requests.close()
            _become(module, json.loads(text), files[0])
            status: int = program.main()
            return status
        os.close(files[0])
        requests.send(str(pid).encode())


def _fork_twice() -> int:
    """0 in a process whose parent has ended; its id in this one."""
    reader, writer = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.close(writer)
            return 0
        os.write(writer, str(pid).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as found:  # noqa: PTH123 - a descriptor
        pid = int(found.read())
    os.waitpid(between, 0)
    return pid


def _become(module: str, request: dict[str, object], log: int) -> None:
    """Take over what the request says of the process."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    environment, arguments, netns = request["environment"], request["arguments"], request["netns"]
    assert isinstance(environment, dict) and isinstance(arguments, list)  # noqa: PT018 - `start` made them
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = [str(sys.modules[module].__file__), *arguments]
    if netns is not None:
        _enter(str(netns))


def _enter(netns: str) -> None:
    """As ip-netns(8) does: with the namespace's own /sys."""
    with Path("/run/netns", netns).open("rb") as space:
        _must(_libc.setns(space.fileno(), _CLONE_NEWNET), "setns")
    _must(_libc.unshare(_CLONE_NEWNS), "unshare")
    _must(_libc.mount(b"", b"/", b"none", _MS_REC_SLAVE, None), "mount /")
    _libc.umount2(b"/sys", _MNT_DETACH)
    _must(_libc.mount(netns.encode(), b"/sys", b"sysfs", 0, None), "mount /sys")


def _must(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))))
