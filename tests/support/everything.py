"""What a member of this release leaves on its disks, with everything that can be in it: the data folder, the
archive of its log, and a full backup. Kept as test data, so that every later release is shown to read it.

`python -m tests.support.everything` writes `tests/data/level2.tar.xz`: the three, and `readable.json`, what
is readable of the state at places of the log (`sections`). Only before that release is out: after it, the
archive is what the world has on its disks, and a new one is added beside it. It is the same each time, but
for bytes of the state file that nothing uses.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.disk import keptindex
from netstore.disk.archivefile import ArchiveWriter
from netstore.disk.datadir import (
    STATE_FILE,
    MemberIdentity,
    add_checksum_line,
    keep_token,
    write_atomically,
)
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.network.lease import DRAINED, SUBNETS
from netstore.network.migration import FOLDER, PLAN, Change, Phase, Plan, encode_plan
from netstore.network.plugins import PART_BYTES, Plugin, Wheel, encode_plugin
from netstore.node import bootstrap, fullbackup
from netstore.node.replay import replay
from netstore.raft.change import Change as ConfChange
from netstore.raft.change import Step, StepKind
from netstore.raft.entry import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from netstore.state import commands
from netstore.state.commands import Command, encode
from netstore.state.digest import digest
from netstore.state.envelope import seal
from netstore.state.machine import Machine
from netstore.state.tables import RECORDS, TABLES
from netstore.state.v2 import commands as v2
from netstore.state.v3 import commands as v3
from netstore.state.v3 import keyvalue
from netstore.types import Index, Nanos, NodeId, Revision, Term
from tests.support.contents import nodes_of
from tests.support.folders import adopted
from tests.support.kept import FILE_BYTES, WALL, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ARCHIVE: Final = Path(__file__).resolve().parents[1] / "data" / "level2.tar.xz"

DATA: Final = "data"
LOG_ARCHIVE: Final = "archive"
BACKUP: Final = "backup"
READABLE: Final = "readable.json"
"""Names in the archive."""

NAME: Final = "kept"
PEER_URL: Final = "http://127.0.0.1:2380"
CLIENT_URL: Final = "http://127.0.0.1:2379"
MEMBER: Final = bootstrap.member_id((PEER_URL,), "netstore-cluster")
CLUSTER: Final = bootstrap.cluster_id((MEMBER,))
STORE: Final = "0f" * 16
"""The number of the data folder."""
LEARNER: Final = NodeId(0xA)
REMOVED: Final = NodeId(0xB)
TOKEN: Final = "0123456789abcdef" * 4

PREFIX: Final = "/coreos.com/network"
CONFIG: Final = '{"Network":"10.23.0.0/16","Backend":{"Type":"vxlan","VNI":7}}'
OLD_CONFIG: Final = '{"Network":"10.23.0.0/16","Backend":{"Type":"host-gw"}}'
DRAINED_NODE: Final = "192.0.2.9"
V3_PREFIX: Final = "/v3net"

WHEEL: Final = b"wheel " * (PART_BYTES // 6 + 20)
"""Of two parts."""
HALF: Final = b"half " * (PART_BYTES // 5 + 20)
"""Its first part is stored, the second one not."""

LEASE: Final = 0x7587654321ABCDEF
FREE_LEASE: Final = -7
"""One with a negative id, and no keys."""


def instant(place: int) -> int:
    """The time of the entry at an index, nanoseconds since 1970: one a second."""
    return WALL + place * 10**9


def _lease(address: str) -> bytes:
    return json.dumps({"PublicIP": address, "BackendType": "vxlan", "BackendData": {"VNI": 7}}).encode()


def _subnet(name: str) -> bytes:
    return f"{PREFIX}/{SUBNETS}/{name}".encode()


def _plugin(name: str, content: bytes, **fields: Any) -> commands.AdmitPlugin:
    wheel = None
    if content:
        wheel = Wheel(f"{name}-1.0-py3-none-any.whl", sha256(content).hexdigest(), len(content))
    document = encode_plugin(Plugin(name, wheel=wheel, since=WALL // 10**9, **fields))
    return commands.AdmitPlugin(name, document, sha256(content).digest() if content else b"", len(content))


def _part(name: str, content: bytes, number: int) -> commands.PutWheelPart:
    offset = number * PART_BYTES
    data = content[offset : offset + PART_BYTES]
    return commands.PutWheelPart(name, sha256(content).digest(), offset, data)


LONG: Final[dict[str, Any]] = {"expires": v2.LATEST, "ttl": v2.LONGEST_TTL}
"""A TTL that no test outlives."""

_PLAN: Final = Plan("p1", Phase.ABORTED, Change.BACKEND, OLD_CONFIG, CONFIG, canaries=("192.0.2.1",))


def sections() -> dict[str, list[Command | tuple[StepKind, Command]]]:
    """The log. After `base` the archive has a state, and to the end of `log` the member has forgotten it;
    after `backup` the backup was made, to `point` the archive is replayed, `state` is in the state on the
    disk, and `end` in the log alone. A pair is a change of the members.
    """
    key = V3_PREFIX.encode()
    return {
        "base": [
            commands.PublishMember(MEMBER, NAME, (CLIENT_URL,), (PEER_URL,), level=2),
            commands.SetClusterVersion("3.5.0"),
            commands.RaiseLevel(2),
            v2.Set(f"{PREFIX}/config".encode(), OLD_CONFIG.encode()),
            v2.Create(_subnet("10.23.1.0-24"), _lease("192.0.2.1"), **LONG),
            v2.Create(_subnet("10.23.2.0-24"), _lease("192.0.2.2"), **LONG),
            v2.Create(_subnet("10.23.3.0-24"), _lease("192.0.2.3")),
            v2.Create(_subnet("10.23.9.0-24"), _lease(DRAINED_NODE), **LONG),
            v3.Put(b"first", b"1"),
        ],
        "log": [
            v2.Set(f"{PREFIX}/{FOLDER}/{PLAN}".encode(), encode_plan(_PLAN).encode()),
            v2.Set(f"{PREFIX}/config".encode(), CONFIG.encode()),
            v2.Create(f"{PREFIX}/{DRAINED}/{DRAINED_NODE}".encode(), b'{"since":"2026-11-18T08:00:00Z"}'),
            v2.Delete(_subnet("10.23.9.0-24")),
            v2.Set(b"/dir/a", b"1"),
            v2.Set(b"/dir/ttl", dir=True, **LONG),
            v2.Set(b"/dir/ttl/below", b"\x00\xff"),
            v2.Set(b"/\xff\x00", b"\x00\xff", **LONG),
            v2.Set(b"/\xff\x00", refresh=True, **LONG),
            v2.TtlCheckpoint(((b"/dir/ttl", 14, 8_000_000_000),)),
            v2.Create(b"/_hidden/a", b"h"),
            v2.Update(b"/dir/a", b"2"),
            v2.CompareAndSwap(b"/dir/a", b"3", prev_value=b"2"),
            v2.InOrder(b"/queue", b"job"),
            v2.Set(b"/gone", b"1", **LONG),
            v2.Set(b"/cut", b"2"),
            v2.CompareAndDelete(b"/cut", prev_value=b"2"),
            v2.Set(b"/tree/a/b/c", b"deep"),
            v2.Delete(b"/tree", recursive=True),
            v2.QuorumGet(b"/dir"),
            v2.Create(b"/" + b"long" * 200, b"l"),
        ],
        "backup": [
            _plugin("whole-net", WHEEL, versions=">=1", settings={"Speed": 7}),
            _part("whole-net", WHEEL, 0),
            _part("whole-net", WHEEL, 1),
            _plugin("half-net", HALF),
            _part("half-net", HALF, 0),
            _plugin("bare-net", b"", schema={"type": "object", "properties": {"A": {"type": "integer"}}}),
            _plugin("gone-net", b""),
            commands.RetirePlugin("gone-net"),
            v3.LeaseGrant(LEASE, 9_000_000_000),
            v3.LeaseGrant(FREE_LEASE, 3_600_000),
            v3.LeaseGrant(8, 60),
            v3.LeaseGrant(9, 9_000_000_000),
            v3.Put(key + b"/config", CONFIG.encode()),
            v3.Put(key + b"/subnets/10.23.4.0-24", _lease("192.0.2.4"), lease=LEASE),
            v3.Put(b"ends", b"1", lease=8),
            v3.Put(b"expires", b"1", lease=9),
            v3.LeaseRevoke(8),
            v3.LeaseCheckpoint(((LEASE, 41, 8_999_999_000), (FREE_LEASE, 42, 5))),
            v3.LeaseRenew(FREE_LEASE),
            v3.Put(b"a", b"1"),
            v3.Put(b"brief", b"1"),
            v3.Put(b"a", b"2", prev_kv=True),
            v3.Put(b"b\x00" + b"k" * 600, b"long key"),
            v3.DeleteRange(b"a"),
            v3.Put(b"a", b"3"),
            v3.Compact(8),
            v3.Txn(
                (v3.Compare(b"a", v3.VALUE, v3.EQUAL, 0, b"3"),),
                (
                    v3.Put(b"txn", b"yes"),
                    v3.Range(b"a", b"z", 2),
                    v3.Txn((), (v3.Put(b"txn/inner", b"yes"), v3.DeleteRange(b"brief"))),
                ),
                (v3.Put(b"txn", b"no"),),
            ),
            v3.Put(b"a", b"4", ignore_lease=True),
            v3.SetAlarm(MEMBER, v3.NOSPACE, active=True),
            (StepKind.ADD_LEARNER, commands.AddMember(REMOVED, ("http://127.0.0.1:4380",), learner=True)),
        ],
        "point": [
            v3.SetAlarm(MEMBER, v3.NOSPACE, active=False),
            v3.LeaseExpire(((9, 44),)),
        ],
        "state": [
            (StepKind.ADD_LEARNER, commands.AddMember(LEARNER, ("http://127.0.0.1:3380",), learner=True)),
            (StepKind.REMOVE, commands.RemoveMember(REMOVED)),
            v2.ExpireNodes(((b"/gone", 22), (b"/none", 1))),
            commands.UpdateMember(MEMBER, (PEER_URL, "http://localhost:2380")),
            commands.UpdateMember(MEMBER, (PEER_URL,)),
            commands.RefuseChange("no"),
            v3.Put(b"a", b"5"),
        ],
        "end": [
            v2.Set(b"/last", b"in the log only"),
            v3.Put(b"last", b"in the log only", lease=LEASE),
            v3.Compact(12),
            v3.Put(b"a", b"6"),
        ],
    }


def entries() -> list[Entry]:
    """The log, with the entry by which the cluster began, and its leader's first one."""
    _, made = bootstrap.first_batch({MEMBER: (PEER_URL,)})
    made.append(Entry(Index(len(made) + 1), Term(2), EntryKind.NORMAL, b""))
    for told in (each for section in sections().values() for each in section):
        index = Index(len(made) + 1)
        kind, command = told if isinstance(told, tuple) else (None, told)
        data = seal(encode(command), request=index, wall=instant(index), principal=b"cn:node%d" % (index % 3))
        if kind is None:
            made.append(Entry(index, Term(2), EntryKind.NORMAL, data))
        else:
            member: Any = command
            change = ConfChange((Step(kind, member.id),), context=data)
            made.append(Entry(index, Term(2), EntryKind.CHANGE, change.encode()))
    return made


def ends() -> dict[str, Index]:
    """The index of the last entry of each section."""
    lengths = accumulate((len(section) for section in sections().values()), initial=2)
    return dict(zip(sections(), map(Index, list(lengths)[1:]), strict=True))


# --- what is readable


def readable(machine: Machine) -> dict[str, Any]:
    """All that can be read of a state, as JSON has it. Bytes are text in Latin-1."""
    tree, mvcc, roster = machine.tree, machine.mvcc, machine.roster
    nodes = sorted(nodes_of(tree), key=lambda node: node.key)
    found: dict[str, Any] = _plain(
        {
            "applied": machine.applied,
            "digest": digest(machine).hex(),
            "v2": {
                "index": tree.index,
                "nodes": [(node, tree.timed.get(node.key)) for node in nodes],
                "events": machine.history.since(0),
                "counts": machine.statistics.replicated(),
            },
            "v3": {
                "revision": mvcc.revision,
                "compacted": mvcc.compacted,
                "oldest": _pairs(machine, max(mvcc.compacted, 1)),
                "newest": _pairs(machine, mvcc.revision),
                "changes": _changes(machine),
                "origins": [each for each in mvcc.origins.since(0)[0] if each.last > mvcc.compacted],
                "leases": [
                    (each.id, each.ttl, each.since, each.remaining, sorted(each.all_keys()))
                    for each in sorted(machine.leases, key=lambda lease: lease.id)
                ],
                "alarms": sorted(machine.alarms.active),
            },
            "members": [machine.members[each] for each in sorted(machine.members)],
            "removed": sorted(machine.removed),
            "version": roster.cluster_version,
            "level": roster.level,
            "plugins": [
                (each, sha256(_wheel(machine, name)).hexdigest())
                for name, each in sorted(machine.plugins.by_name.items())
            ],
        }
    )
    return found


def _pairs(machine: Machine, revision: int) -> list[keyvalue.KeyValue]:
    found = machine.mvcc.range(v3.Range(b"\0", b"\0", revision=revision))
    assert isinstance(found, v3.Found)
    return [keyvalue.decode(each) for each in found.kvs]


def _changes(machine: Machine) -> list[tuple[keyvalue.KeyValue, bool]]:
    """Every change of a v3 key after the compacted revision, and whether it is a deletion."""
    found = []
    following: int | None = max(machine.mvcc.compacted, 0) + 1
    while following is not None and following <= machine.mvcc.revision:
        begun = machine.mvcc.history(
            Revision(following), b"\0", b"\0", looked=1_000, told=1_000, size=1 << 20
        )
        for changes, after in begun:
            found += [(keyvalue.decode(each.pair), each.deleted) for each in changes]
            following = after
    return found


def _wheel(machine: Machine, name: str) -> bytes:
    """What is stored of the wheel of a plugin."""
    record = machine.plugins.by_name[name]
    parts = (machine.plugins.part(name, offset) for offset in range(0, record.received, PART_BYTES))
    return b"".join(part or b"" for part in parts)


def _plain(value: Any) -> Any:
    """The same of what JSON has."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.astuple(value))
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, str | int | None):
        return value
    return [_plain(each) for each in value]


# --- the folders


def make(folder: Path, states: Path) -> None:
    """Write data folder, archive, backup and `readable.json` to an empty folder; `states` is one for what is
    needed meanwhile.
    """
    log = entries()
    recorded = {}
    for name, index in ends().items():
        (states / name).mkdir(parents=True)
        recorded[name] = _state_of(states / name / STATE_FILE, log[:index])
    (folder / READABLE).write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    _write_data(folder / DATA, log)
    _write_archive(folder / LOG_ARCHIVE, log, states / "base" / STATE_FILE)
    header = fullbackup.begun_header(CLUSTER, MEMBER, NAME, Nanos(instant(ends()["backup"])), "0.1.0")
    header = msgspec.structs.replace(header, id=b"kept".hex() * 4)
    fullbackup.write(states / "backup" / STATE_FILE, folder / BACKUP, header)


def _state_of(path: Path, log: Sequence[Entry], position: bytes = b"") -> dict[str, Any]:
    """Write the state that has applied these entries, and the index of its keys beside it, as a clean stop
    does. What is readable of it.
    """
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    engine = LmdbEngine(path, calls.put, TABLES, _failed)
    engine.log_position = lambda: position
    machine = Machine(engine)
    machine.load()
    for _ in replay(machine, log):
        pass
    while machine.sweeping:
        machine.sweep()
    machine.save()
    found = readable(machine)
    engine.close()
    summary = engine.summary
    saved = machine.saved_keys(summary.applied, summary.sums[RECORDS].records)
    if saved is not None:
        keptindex.write(path.parent, summary, *saved)
    while not calls.empty():
        calls.get()()
    return found


def _write_data(path: Path, log: Sequence[Entry]) -> None:
    """A data folder whose log begins after the section `log`, and whose state ends with `state`."""
    first, last = ends()["log"], ends()["state"]
    data = adopted(path, MemberIdentity(CLUSTER, MEMBER, NAME))
    keep_token(path, TOKEN)
    write_atomically(path, "instance", add_checksum_line(f"{STORE}\n".encode()))
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    wal, _ = Wal.open(PosixDevice(data.wal_dir, calls.put, FILE_BYTES), Identity(CLUSTER, MEMBER))
    wal.mark(SnapshotMeta(first, log[first - 1].term, ConfState(voters=(MEMBER,))), _kept)
    wal.append(HardState(Term(2), MEMBER, log[-1].index), log[first:], _kept)
    wal.close()
    while not calls.empty():
        calls.get()()
    _state_of(data.state_dir / STATE_FILE, log[:last], wal.position())
    data.close()


def _write_archive(folder: Path, log: Sequence[Entry], state: Path) -> None:
    """Files of ten entries each, and the state of the section `base`."""
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    for first in range(0, len(log), 10):
        writer.add(log[first : first + 10])
    writer.add_base(partial(_copied, state))
    writer.close()


def _copied(state: Path, file: int) -> Index:
    Path(f"/proc/self/fd/{file}").write_bytes(state.read_bytes())
    return ends()["base"]


def _kept(failure: OSError | None) -> None:
    if failure is not None:
        raise failure


def _failed(failure: OSError) -> None:
    raise failure


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as scratch:
        make(Path(made), Path(scratch))
        ARCHIVE.write_bytes(pack(Path(made), "xz"))
