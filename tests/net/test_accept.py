"""Accepting: whose trouble an error of accept(2) is."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from netstore.net.accept import CannotAccept, accept

# accept(2), "Error handling", and the firewall's refusal.
OF_THE_CONNECTION = [
    "ENETDOWN",
    "EPROTO",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "ECONNABORTED",
    "EPERM",
    "EAGAIN",
    "EINTR",
]
OF_THE_PROCESS = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EINVAL"]


class Failing(socket.socket):
    """A listener whose accept fails with an error of this name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.error = getattr(errno, name)

    def accept(self) -> tuple[socket.socket, Any]:
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize("name", OF_THE_CONNECTION)
def test_the_trouble_of_a_connection_is_nobodys(name: str) -> None:
    with Failing(name) as listener:
        assert accept(listener) is None


@pytest.mark.parametrize("name", OF_THE_PROCESS)
def test_anything_else_says_that_accepting_has_to_rest(name: str) -> None:
    with Failing(name) as listener, pytest.raises(CannotAccept) as raised:
        accept(listener)
    assert str(raised.value) == os.strerror(getattr(errno, name))


def test_who_waits_is_given_with_its_address_and_does_not_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        assert accept(listener) is None
        with socket.create_connection(listener.getsockname()) as caller:
            found = None
            while found is None:
                found = accept(listener)
            sock, address = found
            assert address == caller.getsockname()
            assert not sock.getblocking()
            sock.close()
