"""Three real members in network namespaces, with mutual TLS between them, under load and under every fault
that can be made from outside; then the whole history is judged as the simulator's are.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from netstore.state.v2.commands import CompareAndDelete, CompareAndSwap, Create, Delete, InOrder, Set
from netstore.types import Event
from tests.check import linear, revisions
from tests.check.history import Door, Fate, Wrong
from tests.check.registers import register_histories
from tests.process.test_cluster_netns import Authority, Spread
from tests.support.cluster import healthy, leader_of, listed
from tests.support.judged import LONGEST_WAIT, REGISTERS, Recorder, stale_answers
from tests.support.netns import Wire
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

SEED: Final = "JUDGED_SEED"
"""Environment variable with the seed of a run to repeat: the order of faults and what clients ask."""

CALLS: Final = 40
"""Calls that must be answered under a fault, and after it, before the next one."""

SMALL: Final = "c"
"""The member whose data lies on a disk that can be filled."""

SMALL_DISK: Final = "size=192m,mode=0700"


def report(line: str) -> None:
    """Shown by pytest when the test fails, or with -s."""
    sys.stdout.write(line + "\n")


class Cramped(Spread):
    """A cluster in which one data folder is a symbolic link to a small file system."""

    def wipe(self, name: str) -> None:
        """Empty the folder: it may be a link."""
        for child in self.daemons[name].data_dir.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()


class Trial:
    """A cluster under load, and the faults to inject. Each returns after the cluster has recovered."""

    def __init__(self, cluster: Cramped, recorder: Recorder, chance: random.Random) -> None:
        self.cluster = cluster
        self.recorder = recorder
        self.chance = chance
        self.faults: dict[str, Callable[[], None]] = {
            "kill a member": lambda: self.kill(self.anyone()),
            "kill the leader": lambda: self.kill(self.leader()),
            "pause a member": lambda: self.pause(self.anyone()),
            "pause the leader": lambda: self.pause(self.leader()),
            "cut a follower off": lambda: self.cut(self.chance.choice(self.followers())),
            "cut the leader off": lambda: self.cut(self.leader()),
            "fill a follower's disk": lambda: self.fill(leading=False),
            "fill the leader's disk": lambda: self.fill(leading=True),
            "replace a follower": lambda: self.replace(self.chance.choice(self.followers())),
        }

    def kill(self, name: str) -> None:
        """SIGKILL, and a restart."""
        self.cluster[name].kill()
        self.recorder.progress(CALLS, f"without {name}")
        self.cluster[name].spawn_again()
        self.settle(name)

    def pause(self, name: str) -> None:
        """SIGSTOP until a client there got no answer and the others made progress, then SIGCONT."""
        process = self.cluster[name].process
        process.send_signal(signal.SIGSTOP)
        try:
            self.recorder.waited_in_vain(name, f"by {name}, which is paused")
            self.recorder.progress(CALLS, f"while {name} is paused")
        finally:
            process.send_signal(signal.SIGCONT)
        self.settle(name)

    def cut(self, name: str) -> None:
        """Drop all packets between a member with its clients and the others."""
        self.cluster.cut(name)
        self.recorder.waited_in_vain(name, f"by {name}, which is cut off")
        self.recorder.progress(CALLS, f"while {name} is cut off")
        self.cluster.mend(name)
        self.settle(name)

    def fill(self, *, leading: bool) -> None:
        """Fill the disk of one member until it says so. Its process may end."""
        if leading != (self.leader() == SMALL):
            self.move_leader(SMALL if leading else self.chance.choice("ab"))
        daemon = self.cluster[SMALL]
        told = len(daemon.log)
        ballast = daemon.data_dir.resolve().parent / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        until(
            lambda: "_not_writable" in daemon.log[told:] or daemon.process.poll() is not None,
            f"{SMALL} says that its disk is full",
            LONGEST_WAIT,
        )
        self.recorder.progress(CALLS, f"while the disk of {SMALL} is full")
        ballast.unlink()
        if daemon.process.poll() is not None:
            daemon.spawn_again()
        self.settle(SMALL)

    def replace(self, name: str) -> None:
        """Remove a member, wipe its data, and let it join again under another id."""
        other = next(each for each in self.cluster.daemons if each != name)
        number = self.cluster.id_of(name)
        until(
            lambda: self.control(other, "member", "rm", "--yes", number), f"{name} is removed", LONGEST_WAIT
        )
        assert self.cluster[name].process.wait(seconds(LONGEST_WAIT)) == 2
        self.recorder.progress(CALLS, f"without {name}")
        self.cluster.wipe(name)
        self.cluster.spawn(name, *self.cluster.joining(other), *self.cluster.own_flags(name))
        self.settle(name)
        new = self.id_of(name)
        assert new != number
        promoted = f'"member_promoted", "room": "cluster", "member": "{new}"'
        until(
            lambda: any(promoted in daemon.log for daemon in self.cluster.running()),
            f"{name} gets its vote again",
            LONGEST_WAIT,
        )

    def settle(self, name: str) -> None:
        """Wait until all members serve and clients are answered."""
        until(
            lambda: all(healthy(daemon) for daemon in self.cluster.daemons.values()),
            f"all serve after what happened to {name}",
            LONGEST_WAIT,
        )
        self.recorder.progress(CALLS, f"after what happened to {name}")

    # --- who

    def anyone(self) -> str:
        return self.chance.choice(sorted(self.cluster.daemons))

    def id_of(self, name: str) -> str:
        """The id under which a member has published itself."""

        def told() -> str:
            leader = self.cluster[self.leader()]
            return next((str(each["id"]) for each in listed(leader) if each["name"] == name), "")

        return until(told, f"{name} is listed", LONGEST_WAIT)

    def leader(self) -> str:
        def agreed() -> str:
            names = {leader_of(daemon) for daemon in self.cluster.running()}
            return names.pop() if len(names) == 1 else ""

        return until(agreed, "all follow one leader", LONGEST_WAIT)

    def followers(self) -> list[str]:
        leader = self.leader()
        return sorted(name for name in self.cluster.daemons if name != leader)

    def move_leader(self, name: str) -> None:
        """Move the leadership to this member; repeated until it leads."""

        def leads() -> bool:
            return self.leader() == name or (self.control(name, "move-leader", name) and False)

        until(leads, f"{name} leads", LONGEST_WAIT)

    def control(self, at: str, *words: str) -> bool:
        """netstorectl beside a member; whether it succeeded."""
        daemon = self.cluster[at]
        assert daemon.netns is not None
        command = (
            *("ip", "netns", "exec", daemon.netns, sys.executable, "-m", "netstore.cli.netstorectl"),
            *("--endpoints", daemon.url, *words),
        )
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds(LONGEST_WAIT)
        )
        return done.returncode == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cramped]:
    authority = Authority(tmp_path / "tls")
    small = tmp_path / "small"
    small.mkdir(mode=0o700)
    with ExitStack() as undo:
        wire = undo.enter_context(Wire(nodes=3))
        mount = ("mount", "-t", "tmpfs", "-o", SMALL_DISK, "netstore-test", str(small))
        subprocess.run(mount, check=True)
        undo.callback(subprocess.run, ("umount", "--lazy", str(small)), check=True)
        (tmp_path / f"{SMALL}.data").symlink_to(small / "data")
        (small / "data").mkdir(mode=0o700)
        members = Cramped(tmp_path, wire, authority)
        for name in "abc":
            authority.issue(name, members.node(name).address)
        yield undo.enter_context(members)


def test_what_clients_are_told_under_faults_is_one_history(cluster: Cramped) -> None:
    seed = int(os.environ.get(SEED) or secrets.randbelow(1 << 32))
    chance = random.Random(seed)  # noqa: S311 - repeatable
    with Recorder(cluster, seed) as recorder:
        trial = Trial(cluster, recorder, chance)
        order = chance.sample(sorted(trial.faults), len(trial.faults))
        report(f"{SEED}={seed}: {', '.join(order)}")
        recorder.progress(CALLS, "before any fault")
        for fault in order:
            trial.faults[fault]()
        recorder.finish()
    recorder.judge()
    for name, daemon in cluster.daemons.items():
        assert "Traceback" not in daemon.log, f"log of {name}:\n{daemon.log[-3000:]}"
    assert_all_was_tried(recorder)
    assert_a_spoiled_answer_is_noticed(recorder)


def assert_all_was_tried(recorder: Recorder) -> None:
    """A history in which nothing happened proves nothing."""
    fates = Counter(each.fate for each in recorder.operations)
    changes = Counter(type(each.outcome) for each in recorder.operations)
    report(f"{dict(fates)}, {dict(changes)}, {len(recorder.watches)} watches told of {len(recorder.events)}")
    assert fates[Fate.UNKNOWN] > 0
    for member in range(3):
        for kind in (Set, Create, CompareAndSwap, CompareAndDelete, Delete, InOrder):
            assert any(
                isinstance(each.command, kind) and isinstance(each.outcome, Event) and each.member == member
                for each in recorder.operations
            ), f"no {kind.__name__} succeeded at member {member}"
        for door in Door:
            assert any(each.door is door and each.fate is Fate.ANSWERED for each in recorder.operations)


def assert_a_spoiled_answer_is_noticed(recorder: Recorder) -> None:
    """Both judges reject the history with one answer changed, each alone."""
    read, stale = next(stale_answers(recorder.operations))
    told, read.outcome = read.outcome, stale
    try:
        with pytest.raises(Wrong, match="had been told before"):
            revisions.judge(recorder.operations, recorder.changes())
        calls = dict(register_histories(recorder.operations, REGISTERS))[stale.node.key]
        with pytest.raises(Wrong):  # "no order", or "no verdict" where it would take too long to be sure
            linear.judge(stale.node.key, calls)
    finally:
        read.outcome = told
