"""The release before this one, as far as folders and entries show it: it knows neither the commands of this
release's feature level nor its tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from netstore.disk.engine import LmdbEngine
from netstore.errors import UnknownCommand
from netstore.state import features, tables
from netstore.state.commands import head_of
from netstore.state.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from netstore.state.commands import Command
    from netstore.types import Index

_LATER_TABLES: Final = frozenset({tables.ORIGINS, tables.PLUGINS, tables.WHEELS})


class EarlierEngine(LmdbEngine):
    """The state on the disk, of which the release before writes the tables that it has."""

    def __init__(self, path: Path) -> None:
        known = [each for each in tables.TABLES if each not in _LATER_TABLES]
        super().__init__(path, lambda call: call(), known, lambda _: None)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        super().write(applied, {key: each for key, each in changes.items() if key[0] not in _LATER_TABLES})


class Earlier(Machine):
    """The state machine of the release before."""

    LEVEL: ClassVar[int] = features.LEVEL - 1
    LEVELS: ClassVar[Mapping[int, int]] = {
        number: level for number, level in features.LEVELS.items() if level < features.LEVEL
    }

    @staticmethod
    def decode(data: bytes) -> Command:
        head = head_of(data)
        if head is not None and features.LEVELS.get(head[0], 1) == features.LEVEL:
            raise UnknownCommand(f"not a command of this version: command {head[0]} is not known")
        return Machine.decode(data)
