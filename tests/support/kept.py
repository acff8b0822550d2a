"""Data folders of releases, kept so that every later release is shown to open them: how one is made.

`python -m tests.support.kept` writes `tests/data/level1.tar.gz` anew. Only before that release is out: after
it, the archive is what the world has on its disks, and a new one is added beside it.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Literal

from netstore.disk.datadir import MemberIdentity
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.node import bootstrap
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.state import commands
from netstore.state.commands import Command, encode
from netstore.state.envelope import seal
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v2 import commands as v2
from netstore.state.v3 import commands as v3
from netstore.types import Index, NodeId, Term
from tests.support.folders import adopted

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHIVE: Final = Path(__file__).resolve().parents[1] / "data" / "level1.tar.gz"

NAME: Final = "kept"
PEER_URL: Final = "http://127.0.0.1:2380"
MEMBER: Final = bootstrap.member_id((PEER_URL,), "netstore-cluster")
CLUSTER: Final = bootstrap.cluster_id((MEMBER,))
OTHER: Final = NodeId(0xB)

FILE_BYTES: Final = 256 * 1024
WALL: Final = 1_795_000_000_000_000_000

EXPIRES: Final = v2.LATEST
LEASE: Final = -7


def log() -> list[bytes]:
    """Payloads: every command of the first feature level, in an order in which each does something."""
    told: list[Command] = [
        commands.PublishMember(MEMBER, NAME, ("http://127.0.0.1:2379",), (PEER_URL,), level=1),
        commands.SetClusterVersion("3.4.0"),
        v2.Set(b"/dir/a", b"1"),
        v2.Set(b"/\xff\x00", b"\x00\xff", expires=EXPIRES, ttl=v2.LONGEST_TTL),
        v2.Create(b"/_hidden", b"h"),
        v2.Update(b"/dir/a", b"2"),
        v2.CompareAndSwap(b"/dir/a", b"3", prev_value=b"2"),
        v2.InOrder(b"/queue", b"job"),
        v2.Set(b"/gone", b"1"),
        v2.Delete(b"/gone"),
        v2.Set(b"/gone", b"2"),
        v2.CompareAndDelete(b"/gone", prev_value=b"2"),
        v2.QuorumGet(b"/dir"),
        v2.Create(b"/" + b"long" * 200, b"l"),
        v3.LeaseGrant(LEASE, 9_000_000_000),
        v3.LeaseGrant(8, 60),
        v3.LeaseRenew(LEASE),
        v3.Put(b"held", b"1", lease=LEASE),
        v3.Put(b"ends", b"1", lease=8),
        v3.LeaseRevoke(8),
        v3.Put(b"a", b"1"),
        v3.Put(b"a", b"2", prev_kv=True),
        v3.Put(b"b\x00" + b"k" * 600, b"long key"),
        v3.DeleteRange(b"a"),
        v3.Put(b"a", b"3"),
        v3.Compact(4),
        v3.Txn(
            (v3.Compare(b"a", v3.VALUE, v3.EQUAL, 0, b"3"),),
            (v3.Put(b"txn", b"yes"), v3.Range(b"a", b"z", 2)),
            (v3.Put(b"txn", b"no"),),
        ),
        v3.LeaseExpire(((LEASE, 1),)),
        v3.LeaseCheckpoint(((LEASE, 1, 5),)),
        v3.SetAlarm(MEMBER, v3.NOSPACE, active=True),
        v3.SetAlarm(MEMBER, v3.NOSPACE, active=False),
        commands.UpdateMember(MEMBER, (PEER_URL,)),
        commands.RefuseChange("no"),
        commands.RaiseLevel(1),
        v2.ExpireNodes(((b"/none", 1),)),
        v2.TtlCheckpoint(((b"/none", 1, 1),)),
        v2.Set(b"/last", b"in the log only"),
        v3.Put(b"last", b"in the log only"),
    ]
    return [
        seal(encode(command), request=place, wall=WALL, principal=b"node1" if place % 2 else b"")
        for place, command in enumerate(told, 1)
    ]


def make(path: Path) -> None:
    """A folder: half of its log is in the state, and all of it in the log."""
    data = adopted(path, MemberIdentity(CLUSTER, MEMBER, NAME))
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    wal, _ = Wal.open(PosixDevice(data.wal_dir, calls.put, FILE_BYTES), Identity(CLUSTER, MEMBER))
    _, entries = bootstrap.first_batch({MEMBER: (PEER_URL,)})
    payloads = [b"", *log()]  # a leader's first entry has nothing
    entries += [
        Entry(Index(place), Term(2), EntryKind.NORMAL, payload)
        for place, payload in enumerate(payloads, len(entries) + 1)
    ]
    for command, step in (
        (commands.AddMember(OTHER, ("http://127.0.0.1:3380",), learner=True), StepKind.ADD_LEARNER),
        (commands.PromoteMember(OTHER), StepKind.ADD_LEARNER),
        (commands.RemoveMember(OTHER), StepKind.REMOVE),
    ):
        change = Change((Step(step, OTHER),), context=seal(encode(command), wall=WALL))
        index = Index(entries[-1].index + 1)
        entries.append(Entry(index, Term(2), EntryKind.CHANGE, change.encode()))
    wal.mark(bootstrap.first_mark((MEMBER,)), _kept)
    wal.append(HardState(Term(2), MEMBER, entries[-1].index), entries, _kept)
    wal.close()
    engine = LmdbEngine(data.state_dir / "state.lmdb", calls.put, TABLES, _failed)
    machine = Machine(engine)
    machine.load()
    bootstrap.catch_up(machine, entries[: len(entries) // 2])
    engine.close()
    data.close()
    while not calls.empty():
        calls.get()()


def _kept(failure: OSError | None) -> None:
    if failure is not None:
        raise failure


def _failed(failure: OSError) -> None:
    raise failure


def pack(folder: Path, form: Literal["gz", "xz"] = "gz") -> bytes:
    """The folder as an archive, without anything of the machine it was made on."""
    out = io.BytesIO()
    mode: Literal["w:gz", "w:xz"] = "w:gz" if form == "gz" else "w:xz"
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in {"lock", "spare", "state.lmdb-lock"}:
                found = tarfile.TarInfo(str(path.relative_to(folder)))
                found.size, found.mode = path.stat().st_size, 0o600
                with path.open("rb") as file:
                    archive.addfile(found, file)
    return out.getvalue()


def unpack(archive: Path, folder: Path) -> None:
    """Put a kept folder back on the disk."""
    folder.mkdir(mode=0o700)
    with tarfile.open(archive) as packed:
        for each in packed:
            target = folder / each.name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = packed.extractfile(each)
            assert content is not None
            target.touch(mode=0o600)
            target.write_bytes(content.read())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch) / "data")
        ARCHIVE.parent.mkdir(exist_ok=True)
        ARCHIVE.write_bytes(pack(Path(scratch) / "data"))
