"""How a member gets its identity, and when it must not have one."""

# ruff: noqa: S106 - these tokens are no secrets

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias, cast

import pytest

from netstore.disk.datadir import DAMAGED, DataDir, MemberIdentity
from netstore.errors import CorruptData, NetstoreError
from netstore.node import bootstrap
from netstore.node.identity import (
    JOIN_SECONDS,
    NO_MEMBER,
    REPLACE_SECONDS,
    Enrollment,
    NoAnswer,
)
from netstore.node.membersettings import MemberSettings
from netstore.state.members import MemberInfo
from netstore.types import ClusterId, NodeId
from tests.support.links import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from netstore.state.machine import Machine

    Enrolled: TypeAlias = Callable[["MemberSettings", "Cluster"], "Enrollment"]

A, B = ("http://a:1",), ("http://b:1",)
PAIR = MemberSettings(
    name="a",
    peer_urls=A,
    initial={"a": A, "b": B},
    names_members=True,
    initial_token="t",
    known_token="known",
    joins_existing=False,
    join=(),
    join_token=None,
    force_new=False,
)
IDS = {name: bootstrap.member_id(urls, "t") for name, urls in PAIR.initial.items()}
CLUSTER = bootstrap.cluster_id(IDS.values())
NOBODY = NoAnswer("nobody is there", connected=False)


@dataclass(frozen=True)
class Listed:
    """A `node.identity.MemberList`."""

    cluster: ClusterId
    you: NodeId
    members: tuple[MemberInfo, ...]


class Cluster:
    """Gives the answers that a test lists, the last one again and again."""

    def __init__(self, *answers: Listed | NoAnswer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[list[str], NodeId | None]] = []
        """Where the members were asked, and whom the one that asked to be added replaces."""

    async def list_members(self, urls: Sequence[str]) -> Listed:
        return self._answer(urls, None)

    async def join(self, urls: Sequence[str], replaces: NodeId) -> Listed:
        return self._answer(urls, replaces)

    def _answer(self, urls: Sequence[str], replaces: NodeId | None) -> Listed:
        self.asked.append((list(urls), replaces))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, NoAnswer):
            raise answer
        return answer


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataDir]:
    locked = DataDir.lock(tmp_path / "data")
    yield locked
    locked.close()


@pytest.fixture
def enrolled(folder: DataDir) -> Enrolled:
    return lambda settings, cluster: Enrollment(settings, folder, cluster.list_members, cluster.join, Quiet())


def roster(*members: MemberInfo, cluster: ClusterId = CLUSTER, you: int = 0) -> Listed:
    return Listed(cluster, NodeId(you), members)


def member(id_: NodeId, urls: tuple[str, ...], name: str = "") -> MemberInfo:
    return MemberInfo(id_, name, (), urls)


async def test_a_cluster_of_one_begins_without_asking(enrolled: Enrolled) -> None:
    cluster = Cluster(NOBODY)
    alone = replace(PAIR, initial={"a": A}, names_members=False)
    enrollment = enrolled(alone, cluster)
    await enrollment.find()
    assert cluster.asked == []
    assert enrollment.identity == MemberIdentity(bootstrap.cluster_id([IDS["a"]]), IDS["a"], "a")
    assert enrollment.first_members() == {IDS["a"]: A}


async def test_a_new_cluster_begins_when_nobody_is_there(enrolled: Enrolled) -> None:
    cluster = Cluster(NOBODY)
    enrollment = enrolled(PAIR, cluster)
    await enrollment.find()
    assert cluster.asked == [(list(B), None)]
    assert enrollment.identity == MemberIdentity(CLUSTER, IDS["a"], "a")
    assert enrollment.first_members() == {IDS["a"]: A, IDS["b"]: B}


async def test_a_member_that_is_listed_and_has_not_started_begins(enrolled: Enrolled) -> None:
    enrollment = enrolled(PAIR, Cluster(roster(member(IDS["a"], A), member(IDS["b"], B, "b"))))
    await enrollment.find()
    assert enrollment.identity.member_id == IDS["a"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (roster(member(IDS["a"], A, "a")), "was started before, and may have voted"),
        (roster(member(IDS["b"], B, "b")), "was started before, and may have voted"),
        (roster(member(IDS["a"], A), cluster=ClusterId(5)), "are in cluster 5 already"),
    ],
)
async def test_a_member_that_lost_its_data_does_not_begin_again(
    enrolled: Enrolled, folder: DataDir, answer: Listed, told: str
) -> None:
    with pytest.raises(NetstoreError, match=told):
        await enrolled(PAIR, Cluster(answer)).find()
    assert folder.found is None


async def test_a_member_that_accepted_a_connection_once_has_to_answer(
    enrolled: Enrolled, autojump_clock: MockClock
) -> None:
    busy = NoAnswer("busy", connected=True)
    begun = roster(member(IDS["a"], A, "a"))
    with pytest.raises(NetstoreError, match="may have voted"):
        await enrolled(PAIR, Cluster(busy, NOBODY, begun)).find()
    with pytest.raises(
        NetstoreError,
        match="did not let this member in within 60 s: busy: name peer URLs of members that run",
    ):
        await enrolled(PAIR, Cluster(busy)).find()


async def test_another_token_is_told_at_once(enrolled: Enrolled, autojump_clock: MockClock) -> None:
    other = NoAnswer("not proved", connected=True, other_token=True)
    for settings, field in ((PAIR, "initial_cluster_token"), (replace(PAIR, join=B), "join_token")):
        cluster = Cluster(other)
        with pytest.raises(NetstoreError, match=f"^{field}: not proved: .*--join-token"):
            await enrolled(settings, cluster).find()
        assert len(cluster.asked) == 1


async def test_a_member_of_a_running_cluster_finds_itself_by_its_urls(enrolled: Enrolled) -> None:
    existing = replace(PAIR, joins_existing=True)
    listed = roster(member(NodeId(7), A), member(NodeId(8), B, "b"))
    enrollment = enrolled(existing, Cluster(listed))
    await enrollment.find()
    assert enrollment.identity == MemberIdentity(CLUSTER, NodeId(7), "a")
    assert enrollment.known_peer_urls == {8: B}
    members: dict[NodeId, MemberInfo] = {}
    machine = cast("Machine", SimpleNamespace(members=members, removed={3}))
    assert enrollment.directory(machine) == ({8: B}, {3}), "until the state has the members"
    members[NodeId(9)] = member(NodeId(9), A)
    assert enrollment.directory(machine) == ({9: A}, {3})
    assert enrollment.first_members() == {}, "it began no cluster"


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (roster(member(NodeId(8), B, "b")), "the cluster has no member at http://a:1: add it first"),
        (roster(member(NodeId(7), A, "a")), "was started before"),
    ],
)
async def test_a_member_that_was_not_added_is_refused(enrolled: Enrolled, listed: Listed, told: str) -> None:
    with pytest.raises(NetstoreError, match=told):
        await enrolled(replace(PAIR, joins_existing=True), Cluster(listed)).find()


async def test_a_member_that_joins_asks_until_it_is_let_in(
    enrolled: Enrolled, autojump_clock: MockClock
) -> None:
    joining = replace(PAIR, initial={"a": A}, names_members=False, join=B)
    let_in = roster(member(NodeId(7), A), member(NodeId(8), B, "b"), you=7)
    cluster = Cluster(NOBODY, NOBODY, let_in)
    enrollment = enrolled(joining, cluster)
    await enrollment.find()
    assert cluster.asked == 3 * [(list(B), NO_MEMBER)]
    assert enrollment.identity == MemberIdentity(CLUSTER, NodeId(7), "a")
    asked = len(cluster.asked)
    await enrollment.meet()
    assert len(cluster.asked) == asked, "it knows the others"


async def test_a_member_that_is_not_let_in_gives_up_in_the_end(
    enrolled: Enrolled, autojump_clock: MockClock
) -> None:
    cluster = Cluster(NOBODY)
    with pytest.raises(NetstoreError, match=f"within {JOIN_SECONDS:g} s: nobody is there"):
        await enrolled(replace(PAIR, join=B), cluster).find()
    assert len(cluster.asked) > 1


async def test_an_empty_folder_cannot_become_a_cluster_of_one(enrolled: Enrolled) -> None:
    with pytest.raises(NetstoreError, match=r"^force_new_cluster: .* is empty"):
        await enrolled(replace(PAIR, force_new=True), Cluster(NOBODY)).find()


async def test_a_damaged_member_is_replaced_by_another_one(enrolled: Enrolled, folder: DataDir) -> None:
    folder.adopt(MemberIdentity(CLUSTER, IDS["a"], "a"))
    (folder.wal_dir / "0.wal").write_bytes(b"damaged")
    new = roster(member(NodeId(9), A), member(IDS["b"], B, "b"), you=9)
    cluster = Cluster(new)
    enrollment = enrolled(PAIR, cluster)
    await enrollment.replace(CorruptData("damage"))
    assert cluster.asked == [(list(B), IDS["a"])]
    assert enrollment.identity == MemberIdentity(CLUSTER, NodeId(9), "a")
    assert (folder.wal_dir / DAMAGED / "0.wal").exists()
    assert enrollment.known_peer_urls == {IDS["b"]: B}


async def test_damage_is_raised_where_nobody_replaces_the_member(
    enrolled: Enrolled, folder: DataDir, autojump_clock: MockClock
) -> None:
    own = MemberIdentity(CLUSTER, IDS["a"], "a")
    folder.adopt(own)
    with pytest.raises(CorruptData, match=r"^damage$"):
        await enrolled(replace(PAIR, initial={"a": A}), Cluster(NOBODY)).replace(CorruptData("damage"))
    with pytest.raises(CorruptData, match=f"^damage; the cluster did not .* {REPLACE_SECONDS:g} s: nobody"):
        await enrolled(PAIR, Cluster(NOBODY)).replace(CorruptData("damage"))
    assert folder.identity == own
