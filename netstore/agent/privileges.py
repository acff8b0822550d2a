"""Whether this process may change the network: CAP_NET_ADMIN (capabilities(7)) in the user namespace that
owns its network namespace.

The capability in the process's own set does not tell: a process in a user namespace has all of them, but none
over the network namespace of its host. So the kernel is asked.
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import Final

from netstore.errors import NetstoreError

_DELLINK: Final = 17
_REQUEST_AND_ACK: Final = 1 | 4
_ERROR: Final = 2

_REQUEST: Final = Struct("=IHHII16x")
"""A header (netlink(7)) and an ifinfomsg (rtnetlink(7)) of zeros, which names no interface."""

_ANSWER: Final = Struct("=IHHIIi")

_ANSWER_SECONDS: Final = 1.0
"""The kernel answers while the request is sent; this only bounds a fault."""


class NoPrivilegeError(NetstoreError):
    """The process may not change routes; the text says what it needs."""


def require() -> None:
    """NoPrivilegeError if the kernel would refuse changes of routes and links.

    Asks it to delete an interface without saying which: it checks the permission before anything else, and
    then finds that the request makes no sense (EINVAL).
    """
    request = _REQUEST.pack(_REQUEST.size, _DELLINK, _REQUEST_AND_ACK, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
            sock.settimeout(_ANSWER_SECONDS)
            sock.send(request)
            answer = sock.recv(4096)
    except OSError as error:
        raise NoPrivilegeError(f"cannot talk to the kernel's routing (netlink): {error.strerror}") from None
    _, kind, _, _, _, code = _ANSWER.unpack_from(answer)
    if kind == _ERROR and -code in (errno.EPERM, errno.EACCES):
        raise NoPrivilegeError(
            "no permission to change routes; run the agent as root or give it the capability CAP_NET_ADMIN"
            " (in a container: securityContext.capabilities.add NET_ADMIN, with hostNetwork)"
        )
