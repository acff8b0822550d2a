"""accept(2) for the ports of clients and of members. Besides "no connection waits" it reports two kinds of
errors: that the connection it would have returned has failed already, which concerns only that caller, and
that this process cannot accept any for now.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    import socket

_LOST: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.EPERM,
    )
)
"""Errors of the connection that was to be accepted, treated like EAGAIN (accept(2), "Error handling");
EPERM comes from a firewall.
"""


class CannotAccept(NetstoreError):  # noqa: N818 - named for what happened
    """Nothing can be accepted for now, mostly because descriptors or memory are exhausted. The socket
    stays ready, so the caller should stop watching it for a while.
    """


def accept(listener: socket.socket) -> tuple[socket.socket, Any] | None:
    """The next connection, non-blocking, and its address; None if none waits, or the one that waited has
    failed. Raises CannotAccept with the system's error text for every other error.
    """
    try:
        sock, address = listener.accept()
    except (BlockingIOError, InterruptedError):
        return None
    except OSError as fault:
        if fault.errno in _LOST:
            return None
        raise CannotAccept(fault.strerror or str(fault)) from None
    sock.setblocking(False)
    return sock, address
