"""A log that cannot be applied: what is shown of it, and passing over an entry, alike at every start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.cli.netstored import main
from netstore.disk.datadir import MemberIdentity
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.skipped import read_skipped, read_stopped, write_skipped, write_stopped
from netstore.disk.wal import Wal
from netstore.errors import CannotApply, NetstoreError
from netstore.node.inspection import Inspection
from netstore.node.member import OWN
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.state import commands, display
from netstore.state.commands import AddMember, encode
from netstore.state.digest import digest
from netstore.state.envelope import seal
from netstore.state.machine import Machine
from netstore.state.v2.commands import Set
from netstore.state.v3.commands import DeleteRange, Put
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.daemon import start_netstored
from tests.support.folders import adopted
from tests.support.group import Group, Peer
from tests.support.local_member import memory_engine
from tests.support.tree import file_at

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.disk.memoryengine import MemoryEngine

WHEN = 1_795_000_000_123_000_000
POISON = seal(b"\x92\x5a\xc4\x00", wall=WHEN)
UNKNOWN = "command 90, 4 bytes: not a command of this version: command 90 is not known"
PAYLOADS = (
    b"",
    seal(encode(Put(b"/registry/a", b"secret" * 9)), wall=WHEN, principal=b"node1"),
    POISON,
    seal(encode(Set(b"/a", b"1")), wall=WHEN),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    data = adopted(path, MemberIdentity(ClusterId(0xC1), NodeId(0xA), "node1"))
    wal, _ = Wal.open(PosixDevice(data.wal_dir, lambda call: call()), Identity(ClusterId(0xC1), NodeId(0xA)))
    entries = [
        Entry(Index(place), Term(2), EntryKind.NORMAL, payload) for place, payload in enumerate(PAYLOADS, 1)
    ]
    change = Change(
        (Step(StepKind.ADD_LEARNER, NodeId(9)),), context=seal(encode(AddMember(9, ("http://p:1",))))
    )
    entries.append(Entry(Index(5), Term(2), EntryKind.CHANGE, change.encode()))
    wal.append(HardState(Term(2), NodeId(0xA), Index(5)), entries, lambda _: None)
    wal.close()
    data.close()
    return path


def test_the_log_is_listed_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-dir", str(folder), "--inspect-log"]) == 0
    head, columns, *lines = capsys.readouterr().out.splitlines()
    assert head == "# member a of cluster c1: entries 1 to 5, committed 5, in the state 0"
    assert columns == "# index term kind hash time principal command"
    shown = [each.split(" ", 4) for each in lines]
    assert [each[:3] for each in shown] == [
        *([str(index), "2", "entry"] for index in range(1, 5)),
        ["5", "2", "change"],
    ]
    assert [each[3] for each in shown[:4]] == [display.payload_hash(each) for each in PAYLOADS]
    assert [each[4] for each in shown] == [
        "- - first entry of a term",
        "2026-11-18T11:06:40.123Z 'node1' Put(key='/registry/a', value=54 bytes)",
        f"2026-11-18T11:06:40.123Z - {UNKNOWN}",
        "2026-11-18T11:06:40.123Z - Set(path='/a', value=1 bytes)",
        "- - AddMember(id=9, peer_urls=['http://p:1'])",
    ]


def test_a_range_of_it_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words_, indexes in (
        (["2:3"], "23"),
        (["4:"], "45"),
        ([":1"], "1"),
        (["3"], "3"),
        (["--name", "x"], "12345"),
    ):
        assert main(["--inspect-log", *words_, "--data-dir", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()[2:]
        assert "".join(each[0] for each in lines) == indexes


@pytest.mark.parametrize(
    ("shown", "said", "status"),
    [
        ("x:y", "'x:y' is no range of entries; write FROM:TO", 2),
        ("9:4", "'9:4' ends before it begins; write the lower index first", 2),
        ("900:", "'900:' has no entry of the log, which has entries 1 to 5", 1),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_range_of_nothing_is_told(  # noqa: PLR0917 - parameters of a test
    folder: Path, capsys: pytest.CaptureFixture[str], shown: str, said: str, status: int, joined: bool
) -> None:
    words_ = [f"--inspect-log={shown}"] if joined else ["--inspect-log", shown]
    assert main([*words_, "--data-dir", str(folder)]) == status
    assert capsys.readouterr().err == f"netstored: --inspect-log: {said}\n"


def applied(folder: Path, upto: int = 5) -> Machine:
    """What a member does with the log at a start."""
    machine = Machine(memory_engine())
    machine.skipped = read_skipped(folder)
    for place, payload in enumerate(PAYLOADS[:upto], 1):
        machine.enter(Index(place), payload)
    return machine


def test_an_entry_is_skipped_once_it_was_confirmed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        CannotApply, match=r"entry 3 of the log: .*--inspect-log 3:3 shows it.*--skip-entry 3"
    ):
        applied(folder)
    flags = ["--data-dir", str(folder), "--skip-entry", "3"]
    hash_ = display.payload_hash(POISON)
    write_stopped(folder, Index(3), hash_)
    assert main(flags) == 1
    told = capsys.readouterr().err
    assert (
        f"was not skipped: this member would never apply it; to confirm that, add --confirm {hash_}" in told
    )
    assert main([*flags, "--confirm", "0" * 16]) == 1
    assert read_skipped(folder) == {}
    assert main([*flags, f"--confirm={hash_}"]) == 0
    said = capsys.readouterr().out
    assert f"netstored --data-dir FOLDER --skip-entry 3 --confirm {hash_}" in said
    assert "Every member of the cluster has to skip it" in said
    for _ in range(2):
        machine = applied(folder)
        assert machine.applied == 4
        assert file_at(machine.tree, b"/a") is not None
        assert machine.mvcc.exists(b"/registry/a")
    assert main(["--data-dir", str(folder), "--inspect-log", "3"]) == 0
    assert capsys.readouterr().out.endswith("[skipped]\n")


def test_only_what_has_ended_the_member_is_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = display.payload_hash(PAYLOADS[1])
    for stopped in ({}, {Index(3): display.payload_hash(POISON)}, {Index(2): "0" * 16}):
        for index, hash_ in stopped.items():
            write_stopped(folder, index, hash_)
        assert main(["--data-dir", str(folder), "--skip-entry", "2", "--confirm", sound]) == 1
        assert "entry 2 has not ended this member" in capsys.readouterr().err
        assert read_skipped(folder) == {}
        assert read_stopped(folder) == stopped


def test_a_skip_is_for_the_entry_that_was_seen_only(folder: Path) -> None:
    write_skipped(folder, {Index(2): "0" * 16})
    with pytest.raises(CannotApply, match="not the one that --skip-entry was given"):
        applied(folder)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--skip-entry", "9"], "entry 9 is not in the log"),
        (["--skip-entry", "x"], "'x' is no index"),
        (["--skip-entry"], "--skip-entry needs a value"),
        (["--inspect-log=x"], "no range of entries; write FROM:TO"),
        (["--confirm", "00"], "works only with --skip-entry"),
    ],
)
def test_inspection_failures_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    assert main(["--data-dir", str(folder), *flags]) in {1, 2}
    assert told in capsys.readouterr().err


def test_a_folder_that_is_none_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-dir", str(tmp_path / "none"), "--inspect-log"]) == 1
    assert "is no data folder of a member" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_folder_in_use_is_left_alone(folder: Path) -> None:
    with Inspection(folder, None), pytest.raises(NetstoreError, match="in use by process"):
        Inspection(folder, None)


BUG = encode(Put(b"bug", b"1"))


class Buggy(Machine):
    """A release that cannot apply what holds a certain word."""

    @staticmethod
    def decode(data: bytes) -> commands.Command:
        if b"bug" in data:
            raise ZeroDivisionError
        return Machine.decode(data)


def passing_over(index: int, payload: bytes) -> type[Machine]:
    """The same release, started with an entry to skip."""

    class Skipping(Buggy):
        def __init__(self, engine: MemoryEngine) -> None:
            super().__init__(engine)
            self.skipped = {Index(index): display.payload_hash(payload)}

    return Skipping


def test_a_cluster_that_an_entry_stops_goes_on_once_every_member_skips_it() -> None:
    group = Group(3)
    for id_ in (1, 2, 3):
        group.restart(id_, Buggy)
    for peer in group.peers.values():
        peer.engine.commit()
    leader = group.leader
    leader.host.propose(BUG, lambda _: None, OWN)
    with pytest.raises(
        CannotApply, match=r"Put\(key='bug', value=1 bytes\), cannot be applied: ZeroDivisionError"
    ):
        group.settle()
    [entry] = [each for each in leader.host.applier.waiting if b"bug" in each.data]
    skipping = passing_over(entry.index, entry.data)
    for id_ in (1, 2, 3):
        group.peers[NodeId(id_)] = Peer(group, NodeId(id_), None, skipping, group[id_])
    group.pass_time(5)
    outcomes: list[object] = []
    group.leader.host.propose(encode(Put(b"after")), outcomes.append, OWN)
    group.settle()
    assert len(outcomes) == 1
    machines = [peer.machine for peer in group.peers.values()]
    assert {machine.mvcc.exists(b"bug") for machine in machines} == {False}
    assert {machine.mvcc.exists(b"after") for machine in machines} == {True}
    assert len({digest(machine) for machine in machines}) == 1


def test_a_member_that_did_not_skip_what_the_others_did_has_another_digest() -> None:
    payload = seal(encode(Put(b"a")))
    states = []
    for skipped in ({}, {Index(1): display.payload_hash(payload)}, {Index(1): display.payload_hash(payload)}):
        machine = Machine(memory_engine())
        machine.skipped = skipped
        machine.enter(Index(1), payload)
        machine.enter(Index(2), seal(encode(DeleteRange(b"a"))))
        states.append(digest(machine))
    assert states[0] != states[1] == states[2]


def test_a_log_whose_files_are_gone_is_not_shown_as_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_netstored(tmp_path) as daemon:
        assert daemon.stop() == 0
        for path in (daemon.data_dir / "wal").glob("*.wal"):
            path.unlink()
        assert main(["--data-dir", str(daemon.data_dir), "--inspect-log"]) == 1
        told = capsys.readouterr()
        assert "# index" not in told.out
        assert "log" in told.err
        (daemon.data_dir / "wal" / "synced").unlink()
        assert main(["--data-dir", str(daemon.data_dir), "--inspect-log"]) == 1
        assert "files of the log are missing" in capsys.readouterr().err
