"""The agent's local socket: what `netstorectl` on this node asks the agent, over HTTP on a Unix socket that
its user alone may connect to.

It lies beside the subnet file, with the same name and the ending `.sock`, so that two agents of one node have
two. Its pages are /status, as on the health port, and /routes (`Routes`).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.health import MAX_CONNECTIONS
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, show_ip
from netstore.network.ipv6 import show_ip6

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.agent.health import Health
    from netstore.agent.reconciler import Reconciler
    from netstore.agent.wanted import Route

ENDING: Final = ".sock"
MODE: Final = 0o600
_PROBE_SECONDS: Final = 1.0


class WantedRoute(msgspec.Struct, frozen=True):
    """A route that the agent wants: to a subnet of either family, through a gateway, if there is one, out of
    the device of this name.
    """

    subnet: str
    gateway: str | None
    device: str


class Routes(msgspec.Struct, frozen=True):
    """The document of /routes: whether the agent knows its routes already, what is wanted, the ranges in
    which the agent's routes lie, and the reason for each route that the kernel did not take, by subnet.
    """

    known: bool
    wanted: list[WantedRoute]
    ranges: list[str]
    problems: dict[str, str]


def socket_of(subnet_file: Path) -> Path:
    """Where the socket of the agent with this subnet file lies."""
    return subnet_file.with_suffix(ENDING)


def routes_of(reconciler: Reconciler | None) -> Routes:
    """The document for the routes of a reconciler; nothing is known before there is one."""
    if reconciler is None or not reconciler.has_wanted:
        return Routes(False, [], [], {})
    routes = reconciler.routes
    wanted = [
        WantedRoute(str(route.subnet), _gateway(route), route.device) for route in routes.named.values()
    ]
    return Routes(True, wanted, [str(each) for each in routes.ranges], reconciler.problems)


def _gateway(route: Route) -> str | None:
    if not route.gateway:
        return None
    return show_ip(route.gateway) if isinstance(route.subnet, Subnet) else show_ip6(route.gateway)


async def serve(
    path: Path, health: Health, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve forever; started once the socket is there. NetstoreError if it cannot be made. A socket that an
    earlier run has left behind is replaced; one that answers is another agent's.
    """
    listener = await _listener(path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, health.session, [listener])
            task_status.started()
    finally:
        _remove(path)


async def _listener(path: Path) -> trio.SocketListener:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        await _clear(path)
        sock = _bound(path)
    except OSError as error:
        raise NetstoreError(f"{path}: {error.strerror or error}") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on. OSError if there is something else."""
    if not _is_there(path):
        return
    with trio.move_on_after(_PROBE_SECONDS):
        try:
            stream = await trio.open_unix_socket(str(path))
        except ConnectionRefusedError:
            _remove(path)
            return
        await stream.aclose()
    raise OSError(errno.EADDRINUSE, "another agent with this subnet file runs here")


# These take microseconds in a memory file system; a thread would take longer.


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~MODE)
    try:
        sock.bind(str(path))
        sock.listen(MAX_CONNECTIONS)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    """Whether there is a socket. OSError if it is something else."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False
    if not is_socket:
        raise OSError(errno.EEXIST, "it exists and is no socket; remove it")
    return True
