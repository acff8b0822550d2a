"""Notifications of nftables: a netlink socket in the group of its changes, on Trio."""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import TYPE_CHECKING, Final, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

MAX_DATAGRAMS_AT_ONCE: Final = 256
"""Datagrams read before other tasks may run."""

READ_BYTES: Final = 64 * 1024
RECEIVE_BUFFER_BYTES: Final = 1024 * 1024

_NETLINK_NETFILTER: Final = 12
_GROUP: Final = 1 << 6
"""NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h is 7."""

_SUBSYSTEM: Final = 10
"""NFNL_SUBSYS_NFTABLES: the upper byte of a message's type."""

_header = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_attribute = Struct("=HH")  # nlattr: length, type
_BODY: Final = 20
"""Where the attributes begin: after nlmsghdr and the 4 bytes of nfgenmsg."""

_TABLE_NAME: Final = 1
"""NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and so on: 1 in every kind of message."""


def names_table(datagram: bytes, tables: Collection[str]) -> bool:
    """Whether a notification is about a table with one of these names, or a chain, a rule or a set in it."""
    at = 0
    while at + _BODY <= len(datagram):
        length, kind, _, _, _ = _header.unpack_from(datagram, at)
        end = at + length
        if length < _header.size or end > len(datagram):
            return False
        if kind >> 8 == _SUBSYSTEM and _table(datagram, at + _BODY, end) in tables:
            return True
        at += length + 3 & ~3
    return False


def _table(datagram: bytes, at: int, end: int) -> str:
    while at + _attribute.size <= end:
        length, kind = _attribute.unpack_from(datagram, at)
        if length < _attribute.size:
            break
        if kind & 0x3FFF == _TABLE_NAME:
            name = datagram[at + _attribute.size : min(at + length, end)]
            return name.rstrip(b"\0").decode(errors="replace")
        at += length + 3 & ~3
    return ""


class NftEvents:
    """The changes of nftables in the network namespace of this thread. Use it as a context manager.

    PermissionError from the constructor without CAP_NET_ADMIN, another OSError if the kernel has none.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_NETFILTER,
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((0, _GROUP))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    async def changed(self, tables: Collection[str]) -> None:
        """Wait until a table with one of these names, or anything in it, was changed, or notifications were
        lost.
        """
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if self._read(tables):
                return

    def discard(self) -> None:
        """Drop what `changed` was not told yet, as far as it can be read at once."""
        self._read(())

    def _read(self, tables: Collection[str]) -> bool:
        found = False
        for _ in range(MAX_DATAGRAMS_AT_ONCE):
            try:
                found = names_table(self._socket.recv(READ_BYTES), tables) or found
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True
        return found
