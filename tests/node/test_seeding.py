"""A data folder made from given records is that of a member which has just taken over such a state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.disk.datadir import STATE_FILE, DataDir, MemberIdentity, read_token
from netstore.errors import NetstoreError
from netstore.limits import SMALLEST, Shares
from netstore.node import seeding
from netstore.node.seeding import Founders, founders, seed
from netstore.node.storage import Storage
from netstore.outputfile import sync_folder
from netstore.raft.entry import ConfState, HardState
from netstore.state import tables
from netstore.state.v3 import keyvalue
from netstore.state.v3.store import V3Scalars
from netstore.types import EtcdIndex, Index, NodeId, Revision, Term
from tests.node.test_storage import Calls, Reports
from tests.support.links import Quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URLS = {"a": ["http://a:1"], "b": ["http://b:1", "http://b:2"]}
LAST = 50


def records() -> Iterator[tuple[str, bytes, bytes]]:
    """Fifty keys, each in a revision of its own; members of another cluster, which are left out."""
    yield tables.MEMBERS, b"%016x" % 1, b"old"
    yield tables.REMOVED, b"%016x" % 2, b"old"
    for number in range(2, LAST + 2):
        record = keyvalue.encode(b"key%03d" % number, number, number, 1, value=b"v" * 1000, lease=0)
        yield tables.RECORDS, (number << 32).to_bytes(12, "big"), record
    yield (
        tables.V3_STATE,
        tables.STATE_KEY,
        tables.encode(V3Scalars(Revision(LAST + 1), Revision(-1), Revision(-1), 0)),
    )
    yield tables.STATE, tables.STATE_KEY, tables.encode(tables.Scalars(EtcdIndex(0), (0,) * 13, ""))


def test_a_member_starts_with_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "COMMIT_CHANGES", 7)
    told: list[int] = []
    monkeypatch.setattr("time.time", lambda: 2e9)
    own = founders(URLS, "b", "a secret", "from somewhere")
    assert seed(tmp_path / "new", own, Index(33), records(), told.append) == LAST + 2
    assert told == [LAST + 2]
    assert read_token(tmp_path / "new") == "a secret"
    folder, calls = DataDir.lock(tmp_path / "new"), Calls()
    assert folder.identity.member_id == own.own
    assert (folder.identity.cluster_id, folder.identity.name) == (own.cluster, "b")
    storage = Storage(folder, calls.queue.put, Shares.of(SMALLEST), Reports(), Quiet())
    boot = storage.boot({})
    boot.check()
    assert boot.hard_state == HardState(Term(2 * 10**9), NodeId(0), Index(33))
    assert (boot.snapshot.index, boot.snapshot.term, boot.applied) == (33, 1, 33)
    assert boot.snapshot.conf == ConfState(voters=tuple(sorted(own.members)))
    machine = storage.machine
    assert machine.mvcc.revision == LAST + 1
    assert machine.mvcc.count(b"key", b"kez") == LAST
    assert {member.id: member.peer_urls for member in machine.members.values()} == dict(own.members)
    assert not machine.removed
    storage.close()
    folder.close()


def test_ids_depend_on_members_token_and_origin() -> None:
    one = founders(URLS, "a", "t", "o")
    assert one.members == founders(URLS, "b", "t", "o").members
    assert one.own != founders(URLS, "b", "t", "o").own
    for other in (founders(URLS, "a", "u", "o"), founders(URLS, "a", "t", "p")):
        assert one.cluster != other.cluster
        assert not set(one.members) & set(other.members)
    with pytest.raises(NetstoreError, match="names a, b, and not c"):
        founders(URLS, "c", "t", "o")


def own_only() -> Founders:
    return founders({"a": ["http://a:1"]}, "a", "t", "o")


def test_what_the_records_raise_leaves_an_empty_folder(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, bytes, bytes]]:
        yield from records()
        raise NetstoreError("the source is damaged")

    with pytest.raises(NetstoreError, match="the source is damaged"):
        seed(tmp_path / "new", own_only(), Index(1), broken())
    assert not list((tmp_path / "new").iterdir())
    seed(tmp_path / "new", own_only(), Index(1), records())


def test_two_records_under_one_key_are_refused(tmp_path: Path) -> None:
    twice = [*records(), *list(records())[-1:]]
    with pytest.raises(NetstoreError, match="some have the same key"):
        seed(tmp_path / "new", own_only(), Index(1), twice)
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_that_is_used_is_left_alone(tmp_path: Path) -> None:
    seed(tmp_path / "new", own_only(), Index(1), records())
    before = (tmp_path / "new" / "identity").read_bytes()
    with pytest.raises(NetstoreError, match="choose a new or empty folder"):
        seed(tmp_path / "new", own_only(), Index(1), records())
    assert (tmp_path / "new" / "identity").read_bytes() == before


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "MAP_BYTES", 1 << 20)
    monkeypatch.setattr(seeding, "MAP_LIMIT_BYTES", 1 << 20)
    many = (("v3", place.to_bytes(12, "big"), bytes(4000)) for place in range(2000))
    with pytest.raises(NetstoreError, match=r"new/state/state.lmdb: cannot be written: .*; free disk space"):
        seed(tmp_path / "new", own_only(), Index(1), many)
    assert not list((tmp_path / "new").iterdir())


def test_the_state_has_its_name_on_stable_storage_before_the_folder_is_a_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Path | str] = []
    adopt = DataDir.adopt

    def sync(path: Path) -> None:
        assert (path / STATE_FILE).exists()
        done.append(path)
        sync_folder(path)

    def adopted(folder: DataDir, fresh: MemberIdentity) -> None:
        done.append("adopted")
        adopt(folder, fresh)

    monkeypatch.setattr("netstore.node.seeding.sync_folder", sync)
    monkeypatch.setattr(DataDir, "adopt", adopted)
    seed(tmp_path / "new", founders(URLS, "a", "a secret", ""), Index(1), records())
    assert done == [tmp_path / "new" / "state", "adopted"]


def test_several_founders_begin_with_a_later_term_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = []
    for now in (2e9, 2e9 + 1):
        monkeypatch.setattr("time.time", lambda now=now: now)
        terms.append(founders(URLS, "a", "t", "o").term)
    assert terms[0] < terms[1]
    for wrong, said in ((-5.0, "1969-12-31"), (5e9, "2128-06-11")):
        monkeypatch.setattr("time.time", lambda wrong=wrong: wrong)
        with pytest.raises(NetstoreError, match=f"the clock says {said}: set it"):
            founders(URLS, "a", "t", "o")
    assert founders({"a": ["http://a:1"]}, "a", "t", "o").term == 1


def test_who_begins_alone_gets_other_ids_each_time() -> None:
    one, other = (founders({"a": ["http://a:1"]}, "a", "t", "o") for _ in range(2))
    assert one.own != other.own
    assert one.cluster != other.cluster
