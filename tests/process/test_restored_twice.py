"""Three members restored twice from one backup with one token, which gives both clusters the same ids: two of
them anew, the third one left of the first cluster.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import control
from tests.support.cluster import (
    PACE,
    START_SECONDS,
    Members,
    converged,
    exchange,
    get,
    healthy,
    put,
    request,
    write,
)
from tests.support.daemon import start_netstored
from tests.support.patience import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NEW, LEFT = "ab", "c"


class Restored(Members):
    """Members whose folders are restored from `folder/backup`."""

    def restore(self, names: str) -> None:
        """Make their data folders anew."""
        for name in names:
            self.wipe_if_there(name)
            flags = ("--data-dir", str(self.folder / f"{name}.data"), "--name", name, *self.beginning())
            words = ("snapshot", "restore", str(self.folder / "backup"), "--initial-cluster-token", "one")
            control.answer(*words, *flags)

    def start(self, names: str) -> None:
        """Start them, and wait until they serve."""
        for name in names:
            self.spawn(name)
        for name in names:
            self[name].wait_until_healthy(START_SECONDS)

    def hand_over(self) -> None:
        """Let the other new one lead: states are compared after its first entry."""
        leader = leader_among(self)
        (other,) = set(NEW) - {leader}
        body = json.dumps({"to": self.id_of(other)})

        def leads() -> bool:
            exchange(self[leader], "POST", "/netstore/leader", body, {"Content-Type": "application/json"})
            return leader_among(self) == other

        until(leads, f"{other} leads")


def leader_among(members: Restored) -> str:
    """Which new one says that it leads; empty if none does."""
    for name in NEW:
        answer = request(members[name], "GET", "/netstore/status")
        if answer.status == 200 and answer.body["role"] == "leader":
            return name
    return ""


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Restored]:
    """Restored, not started."""
    with start_netstored(tmp_path) as source:
        write(source, "base", "1")
        control.answer("snapshot", "save", str(tmp_path / "backup"), url=source.url)
    restored = Restored(tmp_path, flags=PACE)
    try:
        restored.restore(NEW + LEFT)
        yield restored
    finally:
        restored.kill_all()


def begin_twice(members: Restored, count: int) -> str:
    """The first cluster takes so many writes; then those that are not left are restored again. The id of who
    is left.
    """
    members.start(NEW + LEFT)
    for number in range(count):
        write(members[LEFT], "first", str(number))
    converged(members, "first", str(count - 1))
    id_ = members.id_of(LEFT)
    members.kill_all()
    members.restore(NEW)
    return id_


def second(members: Restored, number: int) -> None:
    """A write that the new ones acknowledge."""
    write(members[NEW[0]], f"second-{number}", str(number))


def check_second(members: Restored, count: int) -> None:
    """The new ones have what they acknowledged, and nothing of the first cluster."""
    for name in NEW:
        for number in range(count):
            until(partial(get, members[name], f"second-{number}"), f"{name} has number {number}")
        assert get(members[name], "first") is None
        assert members[name].process.poll() is None


def says_that_states_differ(left: Daemon) -> bool:
    """It says so where it is probed, while it has heard one of the others; it stops when it hears both."""
    if left.process.poll() is not None:
        assert left.process.poll() == 2
        assert "is not that of the others: 2 of 3 voters agree" in left.log.splitlines()[-1]
        return True
    ready = request(left, "GET", "/readyz")
    return ready.status == 503 and b"[-]data_corruption failed: " in ready.raw


def test_one_that_has_more_entries_says_that_states_differ_and_is_replaced(members: Restored) -> None:
    id_ = begin_twice(members, 60)
    members.start(NEW)
    for number in range(3):
        second(members, number)
    members.spawn(LEFT)
    left = members[LEFT]
    until(lambda: "here it is committed" in left.log, "it is refused what the leader has")
    members.hand_over()
    until(lambda: says_that_states_differ(left), "it says that its state is another one, or stops for it")
    second(members, 3)
    check_second(members, 4)
    assert request(members[NEW[0]], "DELETE", f"/v2/members/{id_}").status == 204
    if left.process.poll() is None:
        left.kill()
    members.wipe(LEFT)
    members.join(LEFT)
    converged(members, "second-3", "3")
    check_second(members, 4)


def test_one_that_has_fewer_entries_is_refused_and_serves_nothing_as_the_newest(members: Restored) -> None:
    begin_twice(members, 3)
    members.start(NEW)
    left = 40
    for number in range(left):
        second(members, number)
    members.spawn(LEFT)
    until(lambda: "here it is committed" in members[LEFT].log, "it is refused what the leader has")
    assert "one of the two is of an earlier cluster with the same ids" in members[LEFT].log
    members.hand_over()
    second(members, left)
    check_second(members, left + 1)
    assert not healthy(members[LEFT])
    assert request(members[LEFT], "GET", "/v2/keys/first?quorum=true", 2.0).status != 200
    assert put(members[LEFT], "lost", "1", 2.0).status not in (200, 201)


def test_before_the_new_ones_have_written_all_get_what_the_first_cluster_had(members: Restored) -> None:
    begin_twice(members, 5)
    members.spawn(LEFT)
    members.start(NEW[0])
    assert get(members[NEW[0]], "first", "?quorum=true") == "4"
    write(members[NEW[0]], "after", "1")
    members.start(NEW[1])
    converged(members, "after", "1")
    converged(members, "first", "4")
    assert all(each.process.poll() is None for each in members.daemons.values())
