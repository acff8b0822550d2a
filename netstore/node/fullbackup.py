"""Full backups: written from a copy of the state, and verified by restoring them into memory. Both are done
in a process of its own, so that neither the loop nor a request ever waits for the interpreter meanwhile:

    python -m netstore.node.fullbackup write COPY FILE HEADER
    python -m netstore.node.fullbackup verify FILE MOST_BYTES

COPY is a state file that nobody writes, FILE a backup (`disk.backupfile`). The process prints one JSON
document (`Found`). It takes about 3 us for each record that it writes, and 10 us for each that it restores.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.codec import Malformed
from netstore.disk.backupfile import BackupReader, BackupWriter, Header
from netstore.disk.memoryengine import MemoryEngine
from netstore.disk.statefile import StateFile
from netstore.errors import CorruptData, NetstoreError, StateDamaged
from netstore.inputfile import open_regular
from netstore.state import tables
from netstore.state.features import LEVEL
from netstore.state.machine import Machine
from netstore.state.v3 import keyvalue
from netstore.state.v3.store import NEW_V3, V3Scalars
from netstore.types import EtcdIndex, Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.types import ClusterId, Nanos, NodeId

    Record = tuple[str, bytes, bytes]

RESTORED: Final = "restored into memory"
READ_THROUGH: Final = "read through"
"""How a backup was verified. The second one, of a backup that is too large for memory: every record was read
and decoded, and counted, but nothing was made of them together.
"""

MEMORY_FACTOR: Final = 6
"""Bytes of memory for each byte of a backup that is restored into memory, about."""

_EXIT_DAMAGED: Final = 3
_EXIT_DAMAGED_STATE: Final = 5
_EXIT_REFUSED: Final = 4
_NICENESS: Final = 10


class Found(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is in a backup that was written or verified."""

    header: Header
    size: int
    """Bytes of the file."""
    digest: str
    """The SHA-256 that is at its end, hexadecimal."""
    records: dict[str, int]
    """By table."""
    keys: int | None = None
    """Live v3 keys; None where it was not restored."""
    nodes: int
    """Files and directories of the v2 tree."""
    leases: int
    members: int
    how: str = ""
    """How it was verified."""


def begun_header(cluster: ClusterId, member: NodeId, name: str, wall: Nanos, version: str) -> Header:
    """The header of a backup that a member begins now, without what its state says (`header_of`)."""
    return Header(
        id=secrets.token_hex(16),
        cluster=f"{cluster:x}",
        member=f"{member:x}",
        name=name,
        version=version,
        made=f"{datetime.fromtimestamp(wall // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}",
        index=0,
        revision=0,
        compacted=-1,
        v2_index=0,
        level=0,
    )


def header_of(source: StateFile, part: Header) -> Header:
    """The header of a backup of this state: `part` with what the state says."""
    v2, v3 = scalars_of(source.scan)
    return msgspec.structs.replace(
        part,
        index=source.applied,
        revision=v3.revision,
        compacted=v3.compacted,
        v2_index=v2.index,
        level=v2.level,
    )


def scalars_of(scan: Callable[[str], Iterator[tuple[bytes, bytes]]]) -> tuple[tables.Scalars, V3Scalars]:
    """The scalars of the v2 and of the v3 state, given a function that reads a table."""
    v2 = tables.Scalars(EtcdIndex(0), (), "")
    v3 = NEW_V3
    for _, record in scan(tables.STATE):
        v2 = msgspec.msgpack.decode(record, type=tables.Scalars)
    for _, record in scan(tables.V3_STATE):
        v3 = msgspec.msgpack.decode(record, type=V3Scalars)
    return v2, v3


def write(copy: Path, target: Path, part: Header) -> Found:
    """Write a full backup of a copy of the state to a new file, mode 0600, and sync it. Blocks.

    StateDamaged if the copy is not what was written; OSError if the file cannot be written, or is there.
    """
    opened = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as file, StateFile(copy) as source:
        header = header_of(source, part)
        writer = BackupWriter(file, header)
        counts: dict[str, int] = {}
        for table, key, value in source.records():
            writer.add(table, key, value)
            counts[table] = counts.get(table, 0) + 1
        digest = writer.finish()
        file.flush()
        os.fsync(file.fileno())
    return _found(header, writer.size, digest, counts)


def verify(path: Path, most_bytes: int) -> Found:
    """Verify a full backup by restoring it into memory, or by reading it through if that would take more than
    `most_bytes`. Blocks.

    CorruptData, with the offset, if it is damaged; NetstoreError if a later release wrote it.
    """
    with open_regular(path) as file:
        reader = BackupReader(file, str(path))
        check_level(reader.header, str(path))
        size = path.stat().st_size
        machine = None
        if size * MEMORY_FACTOR <= most_bytes:
            machine = _restored(reader, path)
        else:
            for record in reader.records():
                _check_record(reader, path, record)
    found = _found(reader.header, size, reader.digest, reader.counts)
    if machine is None:
        return msgspec.structs.replace(found, how=READ_THROUGH)
    return msgspec.structs.replace(found, how=RESTORED, keys=machine.mvcc.count(b"\0", b"\0"))


def check_level(header: Header, name: str) -> None:
    """NetstoreError if a backup is of a feature level that this release does not know."""
    if header.level > LEVEL:
        raise NetstoreError(
            f"{name}: is of feature level {header.level} (netstored {header.version}), and this version knows"
            f" {LEVEL}: upgrade netstore"
        )


def _found(header: Header, size: int, digest: bytes, counts: dict[str, int]) -> Found:
    return Found(
        header=header,
        size=size,
        digest=digest.hex(),
        records=counts,
        nodes=counts.get(tables.NODES, 0),
        leases=counts.get(tables.LEASES, 0),
        members=counts.get(tables.MEMBERS, 0),
    )


def _restored(reader: BackupReader, path: Path) -> Machine:
    """The state of a backup, as a member would load it."""
    header = reader.header
    engine = MemoryEngine(lambda call: call(), tables.TABLES)
    changes: dict[tuple[str, bytes], bytes | None] = {}
    for table, key, value in reader.records():
        if table not in tables.TABLES:
            raise _wrong(path, f"a table {table[:64]!r} that is not known")
        changes[table, key] = value
    engine.write(Index(header.index), changes)
    machine = Machine(engine)
    try:
        machine.load()
    except NetstoreError as error:
        raise _wrong(path, str(error)) from None
    told = (header.revision, header.compacted, header.v2_index, header.level)
    found = (machine.mvcc.revision, machine.mvcc.compacted, machine.tree.index, machine.roster.level)
    if told != found:
        raise _wrong(
            path, f"the header says {told} of revision, compacted, v2 index and level, it has {found}"
        )
    return machine


def _check_record(reader: BackupReader, path: Path, record: Record) -> None:
    table, key, value = record
    if table not in tables.TABLES:
        raise _wrong(path, f"a table {table[:64]!r} that is not known")
    try:
        if table == tables.RECORDS:
            if keyvalue.decode(value).modified > reader.header.revision:
                raise _wrong(path, f"table {table}, key {key!r}: is beyond the revision of the header")
        elif table != tables.WHEELS:
            msgspec.msgpack.decode(value)
    except (Malformed, msgspec.MsgspecError) as error:
        raise _wrong(path, f"table {table}, key {key!r}: {error}") from None


def _wrong(path: Path, what: str) -> CorruptData:
    return CorruptData(f"{path}: cannot be restored: {what}; take another backup")


class NotDone(NetstoreError):  # noqa: N818 - named for what happened
    """The process could not do its work, for want of memory, room or a process. It may be tried again."""


def command(*words: str | Path) -> tuple[list[str], dict[str, str]]:
    """The words that run the process, and its environment."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return [sys.executable, "-P", "-m", __spec__.name, *map(str, words)], environment


def run(*words: str | Path) -> Found:
    """Run the process with these words. Blocks, without the GIL.

    StateDamaged if the copy of the state is not what was written; CorruptData if a backup is not; NotDone if
    it could not do its work.
    """
    line, environment = command(*words)
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter and module, on files of the member's own
            line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except (OSError, MemoryError) as error:
        raise NotDone(f"no process could be started ({error})") from error
    return outcome(done.returncode, done.stdout, done.stderr)


def outcome(code: int, told: bytes, said: bytes) -> Found:
    """What a process that ended has found, or what it raised. See `run`."""
    if not code:
        return msgspec.json.decode(told, type=Found)
    message = said.decode(errors="replace").strip().rpartition("\n")[2]
    if code == _EXIT_DAMAGED_STATE:
        raise StateDamaged(message)
    if code == _EXIT_DAMAGED:
        raise CorruptData(message)
    if code == _EXIT_REFUSED:
        raise NotDone(message)
    name = signal.Signals(-code).name if code < 0 else str(code)
    raise NotDone(f"its process ended with {name} ({message[:200] or 'no word'})")


def main(arguments: Sequence[str]) -> int:
    """The process: the exit code."""
    os.nice(_NICENESS)
    try:
        if arguments[0] == "write":
            part = msgspec.json.decode(arguments[3], type=Header)
            found = write(Path(arguments[1]), Path(arguments[2]), part)
        else:
            found = verify(Path(arguments[1]), int(arguments[2]))
    except StateDamaged as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_DAMAGED_STATE
    except CorruptData as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_DAMAGED
    except OSError as error:
        sys.stderr.write(f"{error.filename or arguments[-1]}: {error.strerror or error}\n")
        return _EXIT_REFUSED
    except NetstoreError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_REFUSED
    sys.stdout.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
