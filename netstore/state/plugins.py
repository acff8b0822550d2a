"""The admitted plugins and their wheels, as the cluster keeps them.

What a document says is the business of `network.plugins`; here it is bytes. A wheel belongs to an admitted
plugin from its first part on, so nothing is left behind by an upload that breaks off.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.errors import Fault, fault_from_text
from netstore.network.plugins import MAX_DOCUMENT_BYTES, MAX_PLUGINS, MAX_WHEEL_BYTES, PART_BYTES
from netstore.state import tables
from netstore.state.commands import AdmitPlugin, PutWheelPart, RetirePlugin

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.seams import Engine
    from netstore.state.checksum import RunningChecksum

MAX_NAME_BYTES: Final = 64
DIGEST_BYTES: Final = 32

_NUMBER: Final = Struct(">H")


class PluginRecord(msgspec.Struct, array_like=True, frozen=True):
    """An admitted plugin. `digest` and `size` are those of its wheel: empty and 0 without one. `received`
    bytes of the wheel are stored, from its start.
    """

    name: str
    document: bytes
    digest: bytes
    size: int
    received: int = 0


def _part_key(name: str, number: int) -> bytes:
    return name.encode() + _NUMBER.pack(number)


class Plugins:
    """The table of admitted plugins, with a method for each command. Each gives None, or why it did
    nothing.
    """

    def __init__(self, engine: Engine, checksum: RunningChecksum) -> None:
        self._engine = engine
        self._checksum = checksum
        self.by_name: dict[str, PluginRecord] = {}
        self.changes = 0
        """Rises with each change of `by_name`, and when the state is loaded."""
        self.touched: set[str] = set()
        """Plugins whose records, or parts of wheels, changed since the last `save`."""
        self._parts: dict[bytes, bytes | None] = {}
        """Their parts that changed."""

    def handlers(self) -> dict[type, Callable[..., Fault | None]]:
        """The method for each command."""
        return {AdmitPlugin: self.admit, PutWheelPart: self.put_part, RetirePlugin: self.retire}

    def load(self) -> None:
        """Load the plugins from the engine; their wheels stay there."""
        records = tables.load_all(self._engine, tables.PLUGINS, PluginRecord)
        self.by_name = {record.name: record for record in records}
        self.touched, self._parts = set(), {}
        self.changes += 1

    def save(self, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        """Add what changed since the last call."""
        for name in self.touched:
            record = self.by_name.get(name)
            changes[tables.PLUGINS, name.encode()] = None if record is None else tables.encode(record)
        for key, data in self._parts.items():
            changes[tables.WHEELS, key] = data
        self.touched, self._parts = set(), {}

    def content(self) -> list[tuple[str, bytes, int, int]]:
        """What the digest of the state includes of them."""
        return [
            (name, record.digest, record.size, record.received)
            for name, record in sorted(self.by_name.items())
        ]

    def part(self, name: str, offset: int) -> bytes | None:
        """The part of a plugin's wheel that begins at a multiple of `PART_BYTES`; None if it is not there."""
        record = self.by_name.get(name)
        if record is None or offset % PART_BYTES or not 0 <= offset < record.received:
            return None
        key = _part_key(name, offset // PART_BYTES)
        return self._parts[key] if key in self._parts else self._engine.get(tables.WHEELS, key)

    # --- commands

    def admit(self, command: AdmitPlugin) -> Fault | None:
        """Carry out an AdmitPlugin."""
        name = command.name
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or len(command.document) > MAX_DOCUMENT_BYTES:
            return fault_from_text(f"plugin: a name has 1 to {MAX_NAME_BYTES} bytes")
        if len(command.digest) != (DIGEST_BYTES if command.size else 0) or command.size > MAX_WHEEL_BYTES:
            return fault_from_text(f"plugin {name}: a wheel has a digest and {MAX_WHEEL_BYTES} bytes at most")
        known = self.by_name.get(name)
        if known is None and len(self.by_name) >= MAX_PLUGINS:
            return fault_from_text(f"plugin {name}: {MAX_PLUGINS} are admitted; retire one first")
        received = 0
        if known is not None:
            if (known.digest, known.size) == (command.digest, command.size):
                received = known.received
            else:
                self._drop_wheel(known)
        self._checksum.add(command.document)
        self._record(PluginRecord(name, command.document, command.digest, command.size, received))
        return None

    def put_part(self, command: PutWheelPart) -> Fault | None:
        """Carry out a PutWheelPart. A part that is there already is not written again. With the last part the
        wheel's digest is checked: one that is not as admitted is dropped, and can be sent again.
        """
        record = self.by_name.get(command.name)
        if record is None or record.digest != command.digest:
            return fault_from_text(
                f"plugin {command.name}: no such wheel is expected; admit the plugin first"
            )
        offset = command.offset
        if offset < record.received and not offset % PART_BYTES:
            return None
        if offset != record.received:
            return fault_from_text(f"plugin {command.name}: send the wheel from byte {record.received} on")
        if not command.data or len(command.data) != min(PART_BYTES, record.size - offset):
            return fault_from_text(f"plugin {command.name}: send parts of {PART_BYTES} bytes, and the rest")
        self._checksum.add(command.data)
        self._parts[_part_key(command.name, offset // PART_BYTES)] = command.data
        whole = msgspec.structs.replace(record, received=offset + len(command.data))
        if whole.received == whole.size and self._digest(whole) != whole.digest:
            self._drop_wheel(whole)
            self._record(msgspec.structs.replace(record, received=0))
            return fault_from_text(
                f"plugin {command.name}: what was sent is not the admitted wheel, its SHA-256 differs;"
                " send the wheel again from byte 0 on"
            )
        self._record(whole)
        return None

    def retire(self, command: RetirePlugin) -> Fault | None:
        """Carry out a RetirePlugin."""
        record = self.by_name.pop(command.name, None)
        if record is None:
            return fault_from_text(f"plugin {command.name}: is not admitted")
        self._drop_wheel(record)
        self.touched.add(command.name)
        self.changes += 1
        return None

    def _record(self, record: PluginRecord) -> None:
        self.by_name[record.name] = record
        self.touched.add(record.name)
        self.changes += 1

    def _digest(self, record: PluginRecord) -> bytes:
        """SHA-256 of the parts that are stored: 20 ms for the largest wheel."""
        digest = sha256()
        for number in range(-(-record.received // PART_BYTES)):
            key = _part_key(record.name, number)
            part = self._parts[key] if key in self._parts else self._engine.get(tables.WHEELS, key)
            digest.update(part or b"")
        return digest.digest()

    def _drop_wheel(self, record: PluginRecord) -> None:
        for number in range(-(-record.received // PART_BYTES)):
            self._parts[_part_key(record.name, number)] = None
