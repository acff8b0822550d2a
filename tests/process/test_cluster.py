"""Three real members on loopback: what holds while they are killed, paused, wiped and removed."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.cluster import (
    PACE,
    Members,
    converged,
    cut_before,
    fill,
    get,
    healthy,
    listed,
    put,
    request,
    write,
)
from tests.support.patience import seconds, until
from tests.support.stopped import rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon


SHORT_LOG = ("--snapshot-count", "10")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    """Three members; a test leaves them all running and in agreement."""
    with Members(tmp_path_factory.mktemp("cluster"), flags=(*PACE, *SHORT_LOG)) as members:
        yield members


def read_by_quorum(daemon: Daemon, key: str) -> str:
    """The value of a key that no former value is known of; asked again while a leader is elected."""
    return until(lambda: get(daemon, key, "?quorum=true") or "", f"a read of {key} at {daemon.url}")


def test_a_write_at_any_member_shows_at_all(cluster: Members) -> None:
    for name, daemon in cluster.daemons.items():
        assert put(daemon, f"from-{name}", name).status == 201
        converged(cluster, f"from-{name}", name)
        for other in cluster.running():
            assert read_by_quorum(other, f"from-{name}") == name


def test_all_list_the_same_members_and_one_leader(cluster: Members) -> None:
    lists = [listed(daemon) for daemon in cluster.running()]
    assert lists[0] == lists[1] == lists[2]
    assert [each["name"] for each in sorted(lists[0], key=lambda each: each["name"])] == ["a", "b", "c"]
    assert {cluster.peer_url(name) for name in "abc"} == {
        url for each in lists[0] for url in each["peerURLs"]
    }
    assert cluster.leader() in "abc"


def test_writes_go_on_after_the_leader_was_killed_and_it_catches_up(cluster: Members) -> None:
    leader = cluster.leader()
    first, second = cluster.followers()
    write(cluster[first], "before", "1")
    cluster[leader].kill()
    write(cluster[first], "after", "2")
    assert cluster.leader() != leader
    assert read_by_quorum(cluster[second], "before") == "1"
    cluster[leader].start_again()
    converged(cluster, "after", "2")


def test_a_stopping_leader_hands_over(cluster: Members) -> None:
    leader = cluster.leader()
    assert cluster[leader].stop() == 0
    assert cluster.leader() != leader
    stopped = cluster[leader].log.rpartition("member_stopping")[2]
    assert '"leader_changed"' in stopped, "it saw the next leader before it ended"
    cluster[leader].start_again()


def test_a_paused_leader_is_replaced_and_follows_when_it_goes_on(cluster: Members) -> None:
    leader = cluster.leader()
    follower = cluster.followers()[0]
    cluster[leader].process.send_signal(signal.SIGSTOP)
    try:
        write(cluster[follower], "paused", "1")
    finally:
        cluster[leader].process.send_signal(signal.SIGCONT)
    # What it answers now must not be what it believed before: the read goes through the new leader.
    assert read_by_quorum(cluster[leader], "paused") == "1"
    converged(cluster, "paused", "1")


def test_without_quorum_reads_are_local_and_everything_else_times_out(cluster: Members) -> None:
    write(cluster["a"], "kept", "1")
    converged(cluster, "kept", "1")
    for name in "bc":
        cluster[name].kill()
    until(lambda: not healthy(cluster["a"]), "a says that it is not healthy")
    assert get(cluster["a"], "kept") == "1"
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(put, cluster["a"], "lost", "1", 20),
            pool.submit(request, cluster["a"], "GET", "/v2/keys/kept?quorum=true", 20),
        ]
    for refused in (each.result() for each in asked):
        assert (refused.status, refused.body["errorCode"]) == (500, 300)
        assert refused.body["cause"].startswith("etcdserver: request timed out")
    cluster["a"].kill()
    cluster["a"].spawn_again()
    until(lambda: get(cluster["a"], "kept") == "1", "a member alone serves what it has, restarted too")
    for name in "bc":
        cluster[name].spawn_again()
    for name in "abc":
        cluster[name].wait_until_healthy()


def test_a_member_that_comes_back_too_late_gets_a_state_copy(cluster: Members) -> None:
    late = cluster.followers()[1]
    cluster[late].kill()
    leader = cluster.leader()
    write(cluster[leader], "gone", "1")
    shown = httpx.get(f"{cluster[leader].url}/v2/keys/gone", timeout=seconds(10))
    known = int(shown.headers["x-raft-index"])
    until(
        lambda: fill(cluster[leader], 100) and cut_before(cluster[leader]) > known,
        "the leader's log has nothing left that the late one knows",
    )
    copied = cluster[late].log.count('"state_copy_installed"')
    cluster[late].start_again()
    write(cluster[leader], "after-copy", "1")
    converged(cluster, "after-copy", "1")
    assert get(cluster[late], "fill-99") == "99"
    assert cluster[late].log.count('"state_copy_installed"') == copied + 1
    wal = cluster[leader].data_dir / "wal"
    until(lambda: len(list(wal.glob("*.wal"))) <= 2, "segments that nobody needs are removed")


def test_a_member_whose_data_was_lost_may_not_begin_as_if_new(cluster: Members) -> None:
    victim = cluster.followers()[0]
    write(cluster[victim], "before-loss", "1")
    cluster[victim].kill()
    cluster.wipe(victim)
    cluster[victim].spawn_again()
    assert cluster[victim].process.wait(seconds(20)) != 0
    assert "was started before, and may have voted" in cluster[victim].log
    other = next(name for name in "abc" if name != victim)
    old = cluster.id_of(victim)
    assert request(cluster[other], "DELETE", f"/v2/members/{old}").status == 204
    cluster.wipe(victim)
    cluster.join(victim, at=other)
    converged(cluster, "before-loss", "1")
    assert cluster.id_of(victim) != old
    until(lambda: votes(cluster, victim), "the newcomer votes")


def test_a_member_with_a_rotten_log_is_replaced_by_itself(cluster: Members) -> None:
    rotten = cluster.followers()[0]
    other = cluster.leader()
    old = cluster.id_of(rotten)
    write(cluster[other], "before-rot", "1")
    converged(cluster, "before-rot", "1")
    cluster[rotten].kill()
    segment = max((cluster[rotten].data_dir / "wal").glob("*.wal"))
    flip(segment, stored_at(segment, b"before-rot"))
    cluster[rotten].start_again()
    converged(cluster, "before-rot", "1")
    assert f"{segment.name} at offset" in cluster[rotten].log
    assert (segment.parent / "damaged" / segment.name).exists()
    assert cluster.id_of(rotten) != old
    assert old not in {each["id"] for each in listed(cluster[other])}
    until(lambda: votes(cluster, rotten), "the newcomer votes")


def test_a_member_whose_state_differs_stops(cluster: Members) -> None:
    odd = cluster.followers()[1]
    leader = cluster.leader()
    write(cluster[leader], "truth", "true")
    converged(cluster, "truth", "true")
    cluster[odd].stop()
    rewrite(cluster[odd].data_dir / "state" / "state.lmdb", b"/truth", b"true", b"lies")
    cluster[odd].spawn_again()
    until(lambda: get(cluster[odd], "truth") == "lies", "the test has spoiled its state")
    swapped = request(cluster[leader], "PUT", "/v2/keys/truth?prevValue=true&value=told")
    assert swapped.status == 200, "what the odd one refuses"
    for _ in range(11):
        fill(cluster[leader], 100)
    assert cluster[odd].process.wait(seconds(20)) == 2
    assert "is not that of the others" in cluster[odd].log.splitlines()[-1]
    until(lambda: get(cluster[leader], "truth", "?quorum=true") == "told", "the others go on")
    number = cluster.id_of(odd)
    assert request(cluster[leader], "DELETE", f"/v2/members/{number}").status == 204
    cluster.wipe(odd)
    cluster.join(odd, at=leader)
    converged(cluster, "truth", "told")
    until(lambda: votes(cluster, odd), "the newcomer votes")


def stored_at(segment: Path, word: bytes) -> int:
    """The offset of this word in a segment: masked records (contrib/doc/format-wal.md), and then zeros."""
    data = segment.read_bytes().rstrip(b"\0")
    return max(data.find(bytes(byte ^ mask for byte in word)) for mask in range(256))


def flip(file: Path, offset: int) -> None:
    """Change one bit of a file."""
    with file.open("r+b") as stream:
        stream.seek(offset)
        (byte,) = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def votes(members: Members, name: str) -> bool:
    """The log of the leader says that this member was promoted."""
    return f'"member_promoted", "room": "cluster", "member": "{members.id_of(name)}"' in "".join(
        daemon.log for daemon in members.running()
    )


def test_more_members_than_are_to_vote_learn_and_pass_writes_on(cluster: Members) -> None:
    learner = cluster.join("d")
    assert put(learner, "from-learner", "1").status == 201
    converged(cluster, "from-learner", "1")
    number = cluster.id_of("d")
    assert not votes(cluster, "d")
    assert request(cluster["a"], "DELETE", f"/v2/members/{number}").status == 204
    assert learner.process.wait(seconds(20)) == 2
    del cluster.daemons["d"]


def test_a_removed_member_stops_and_says_why_also_later(cluster: Members) -> None:
    removed = cluster.followers()[0]
    other = cluster.leader()
    number = cluster.id_of(removed)
    assert request(cluster[other], "DELETE", f"/v2/members/{number}").status == 204
    assert cluster[removed].process.wait(seconds(20)) == 2
    assert "was removed from cluster" in cluster[removed].log.splitlines()[-1]
    cluster[removed].spawn_again()
    assert cluster[removed].process.wait(seconds(20)) == 2
    del cluster.daemons[removed]
    write(cluster[other], "two-left", "1")
    converged(cluster, "two-left", "1")


def test_a_sole_survivor_becomes_a_cluster_with_all_it_has(cluster: Members) -> None:
    *others, survivor = sorted(cluster.daemons)
    lost = others[0]
    write(cluster[survivor], "kept", "to the end")
    converged(cluster, "kept", "to the end")
    cluster.kill_all()
    old = cluster[survivor].command
    cluster[survivor].command = (*old, "--force-new-cluster")
    cluster[survivor].start_again()
    assert get(cluster[survivor], "kept", "?quorum=true") == "to the end"
    until(lambda: [each["name"] for each in listed(cluster[survivor])] == [survivor], "the others are gone")
    assert cluster[survivor].stop() == 0
    cluster[survivor].command = old
    cluster[survivor].start_again()
    write(cluster[survivor], "alone", "1")
    cluster[lost].spawn_again()
    assert cluster[lost].process.wait(seconds(20)) == 2, "the lost one was removed, and finds out"
    cluster.wipe(lost)
    cluster.join(lost, at=survivor)
    converged(cluster, "alone", "1")
    assert get(cluster[lost], "kept") == "to the end"
