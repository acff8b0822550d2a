"""Members that archive into folders of their own, and keep seconds of it by the real clock, while they are
killed, replaced and joined: each archive leads to every state of the time that it is kept for.
"""

from __future__ import annotations

import random
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from netstore.disk.archivefile import listing, read_head
from netstore.disk.backupfile import BackupReader
from netstore.node.pointintime import Goal, extract
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Found, Range
from netstore.types import Index
from tests.state.machines import machine_on
from tests.support.archives import wait_until_archived
from tests.support.certificates import Certificates
from tests.support.cluster import PACE, Members, request
from tests.support.local_member import memory_engine
from tests.support.patience import Deadline, until
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

KEEP: Final = 2
KEYS: Final = 7


class Written(NamedTuple):
    """The v3 keys when the store had a revision, which it had not before this time."""

    pairs: dict[bytes, bytes]
    time: int


class Archiving(Members):
    """Members with TLS between them, each with an archive that is kept for seconds."""

    certificates: Certificates

    def own_flags(self, name: str) -> tuple[str, ...]:
        made = self.certificates
        return (
            *("--peer-cert-file", str(made.certificate), "--peer-key-file", str(made.key)),
            *("--peer-trusted-ca-file", str(made.ca), "--peer-client-cert-auth"),
            *("--archive-folder", str(self.archive(name)), "--archive-lag-seconds", "1"),
            *("--archive-keep-seconds", str(KEEP), "--snapshot-count", "50"),
        )

    def archive(self, name: str) -> Path:
        return self.folder / f"{name}.archive"


class Writer:
    """Writes to whichever member answers, and keeps what each revision has."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._number = 0
        self._pairs: dict[bytes, bytes] = {}
        self.record: dict[int, Written] = {}

    def write(self, span: float) -> None:
        """Write for so many seconds; each write until it is acknowledged."""
        end = time.monotonic() + span  # fixed: how long is written
        while time.monotonic() < end:
            self._number += 1
            key, value = b"/k/%d" % (self._number % KEYS), b"v%d" % self._number
            revision, since = until(partial(self._try, key, value), "a write is taken", 40.0)
            self._pairs = self._pairs | {key: value}
            self.record[revision] = Written(self._pairs, since)

    def _try(self, key: bytes, value: bytes) -> tuple[int, ...]:
        """The revision, and a time before it; empty if no member takes the write."""
        for daemon in self._members.running():
            since = time.time_ns()
            try:
                with closing(V3Client(daemon.url)) as client:
                    put = pb.PutRequest(key=key, value=value)
                    answer = client.kv.Put(put, timeout=4.0)  # fixed: then another member is asked
                    return int(answer.header.revision), since
            except Refused:
                continue
        return ()


def told(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = request(daemon, "GET", "/netstore/status").body["archive"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_archive_leads_to_every_state_of_the_time_that_it_is_kept(tmp_path: Path) -> None:
    Archiving.certificates = Certificates(tmp_path / "certificates")
    chance = random.Random(11)  # noqa: S311 - repeatable
    program = "tests.support.shortarchive"
    with Archiving(tmp_path, peer_scheme="https", program=program, flags=PACE) as members:
        writer = Writer(members)
        writer.write(1.0)
        for name in (members.leader(), members.followers()[0]):
            members[name].kill()
            writer.write(1.0)
            members[name].start_again()
            writer.write(0.5)
        members.join("d", *members.own_flags("d"))
        deadline = Deadline(60.0)
        while not all(map(has_removed, members.daemons.values())):
            writer.write(0.5)
            assert not deadline.passed(), "each removes what is old"
        writer.write(1.0)
        for daemon in members.daemons.values():
            wait_until_archived(daemon)
            now = time.time_ns()
            status = told(daemon)
            assert (status["problems"], status["stopped"], status["gaps"]) == ([], False, 0)
            assert status["oldestUnixNanos"] <= now - KEEP * 10**9, "it leads back so far at least"
        members.kill_all()
        for name in members.daemons:
            check_points(members.archive(name), writer.record, chance, tmp_path / name)


def has_removed(daemon: Daemon) -> bool:
    return bool(told(daemon)["removedFiles"])


class Sharing(Members):
    """Members that were all given one folder for their archives."""

    def own_flags(self, _: str) -> tuple[str, ...]:
        return (
            *("--archive-folder", str(self.folder / "archive"), "--archive-lag-seconds", "1"),
            *("--snapshot-count", "20"),
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_folder_that_several_are_given_stays_the_archive_of_one(tmp_path: Path) -> None:
    with Sharing(tmp_path, flags=PACE) as members:
        writer = Writer(members)
        writer.write(2.0)
        until(
            lambda: sum(not told(each)["stopped"] for each in members.daemons.values()) == 1,
            "one has it",
            40.0,
        )
        (holder,) = [name for name, daemon in members.daemons.items() if not told(daemon)["stopped"]]
        others = [daemon for name, daemon in members.daemons.items() if name != holder]
        for daemon in others:
            (problem,) = told(daemon)["problems"]
            assert "another member writes its archive there: give each a folder of its own" in problem
            assert daemon.log.count('"archive_not_written"') == 1
        members[holder].kill()
        writer.write(2.0)
        until(lambda: any("archive_refused" in each.log for each in others), "another one tries it", 40.0)
        members[holder].start_again()
        until(lambda: not told(members[holder])["stopped"], "it goes on with its archive", 40.0)
        writer.write(2.0)
        wait_until_archived(members[holder], gaps=None)
        revision = max(writer.record)
        reached = extract(tmp_path / "archive", Goal(revision=revision), tmp_path / "x", tmp_path / "work")
        assert (reached.revision, pairs_of(tmp_path / "x")) == (revision, writer.record[revision].pairs)


def check_points(folder: Path, record: dict[int, Written], chance: random.Random, place: Path) -> None:
    """Restore points of the time that is kept, and compare."""
    place.mkdir()
    last = max(read_head(part.path).latest for part in listing(folder).parts)
    kept = [revision for revision, each in record.items() if each.time >= last - KEEP * 10**9]
    kept = kept or [max(record)]  # the last entry may be one of the members', long after the last write
    for revision in {kept[0], chance.choice(kept), kept[-1]}:
        target = place / str(revision)
        reached = extract(folder, Goal(revision=revision), target, place / "work")
        assert (reached.revision, pairs_of(target)) == (revision, record[revision].pairs), listing(folder)


def pairs_of(path: Path) -> dict[bytes, bytes]:
    """The v3 keys in a full backup, as a member would load it."""
    engine = memory_engine()
    with path.open("rb") as file:
        reader = BackupReader(file, str(path))
        records = {(table, key): value for table, key, value in reader.records()}
    engine.write(Index(reader.header.index), dict(records))
    found = machine_on(engine).mvcc.range(Range(b"\0", b"\0"))
    assert isinstance(found, Found)
    decoded = map(keyvalue.decode, found.kvs)
    return {each.key: each.value for each in decoded}
