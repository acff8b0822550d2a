"""A release after this one, with one more command: what the tests of two releases side by side run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from netstore.state import features
from netstore.state.machine import Machine, Outcome
from netstore.state.v3.commands import Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netstore.state.commands import Command

NUMBER: Final = 200


class Append(msgspec.Struct, array_like=True, frozen=True, tag=NUMBER):
    """A made-up command of a later release: a value gets longer."""

    key: bytes
    more: bytes


_append: Final = msgspec.msgpack.Decoder(Append)


class Later(Machine):
    """The state machine of a later release, which knows one more command, of its own level."""

    LEVEL: ClassVar[int] = features.LEVEL + 1
    LEVELS: ClassVar[Mapping[int, int]] = {**features.LEVELS, NUMBER: LEVEL}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._handlers[Append] = self._append

    @staticmethod
    def decode(data: bytes) -> Command:
        if data[:3] == b"\x93\xcc\xc8":
            return _append.decode(data)  # type: ignore[return-value]  # no union of this release has it
        return Machine.decode(data)

    def _append(self, command: Append) -> Outcome:
        old = self.mvcc.values(command.key, b"")
        return self.v3.put(Put(command.key, b"".join(old) + command.more))


def appending(key: bytes) -> bytes:
    """The command, encoded: the value of this key gets longer by one byte."""
    return msgspec.msgpack.encode(Append(key, b"+"))
