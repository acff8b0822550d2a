"""Taking connections off a listening socket, for the ports of clients and of members alike.

accept(2) tells of two kinds of trouble besides "nobody waits": that the connection it would have given has
failed already, which concerns nobody but the caller, and that this process can take none for now.
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
"""Errors of the connection that was to be accepted, to be taken like EAGAIN (accept(2), "Error handling");
EPERM is a firewall's.
"""


class CannotAccept(NetstoreError):  # noqa: N818 - named for what happened
    """Nothing can be accepted for now, for want of descriptors or memory most often. The socket stays ready:
    whoever gets this stops watching it for a while.
    """


def accept(listener: socket.socket) -> tuple[socket.socket, Any] | None:
    """The next connection and its address, not blocking; None when nobody waits, or who waited is gone.

    CannotAccept, with the system's words, for everything else.
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
