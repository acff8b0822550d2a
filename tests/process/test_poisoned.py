"""A member whose log holds what it cannot apply says so and ends; an operator can pass over the entry."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

from netstore.disk.datadir import DataDir
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.raft.entry import Entry, EntryKind
from netstore.state.display import payload_hash
from netstore.state.envelope import seal
from netstore.types import Index
from tests.support.daemon import start_netstored

if TYPE_CHECKING:
    from pathlib import Path

POISON = seal(b"\x92\x5a\xc4\x00")


def poison(folder: Path) -> Index:
    """Put an entry at the end of a stopped member's log."""
    data = DataDir.lock(folder)
    identity = data.identity
    device = PosixDevice(data.wal_dir, lambda call: call())
    wal, replay = Wal.open(device, Identity(identity.cluster_id, identity.member_id))
    last = replay.entries[-1]
    entry = Entry(Index(last.index + 1), last.term, EntryKind.NORMAL, POISON)
    failures: list[OSError | None] = []
    wal.append(replay.hard_state, [entry], failures.append)
    wal.close()
    data.close()
    assert failures == [None]
    return entry.index


def put(url: str) -> None:
    request = urllib.request.Request(f"{url}/v2/keys/a", b"value=1", method="PUT")  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        assert answer.status in {200, 201}


def tool(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netstore.cli.netstored", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def test_a_poisoned_folder_is_refused_inspected_skipped_and_serves(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        put(daemon.url)
        assert daemon.stop() == 0
        index = poison(daemon.data_dir)
        for _ in range(2):
            daemon.spawn_again()
            assert daemon.process.wait(60) == 2
        last = daemon.log.splitlines()[-1]
        assert f"entry {index} of the log: not a command of this version: command 90 is not known" in last
        assert "older than the cluster: upgrade it" in last
        assert f"--skip-entry {index} passes over it" in last
        folder = ("--data-dir", str(daemon.data_dir))
        shown = tool(*folder, "--inspect-log", f"{index}:{index}").stdout
        hash_ = payload_hash(POISON)
        assert f"committed {index - 1}, in the state {index - 1}\n" in shown
        assert f" entry {hash_} - - command 90, 4 bytes:" in shown
        refused = tool(*folder, "--skip-entry", str(index))
        assert refused.returncode == 1
        assert f"--confirm {hash_}" in refused.stderr
        done = tool(*folder, "--skip-entry", str(index), "--confirm", hash_)
        assert done.returncode == 0, done.stderr
        assert "Every member of the cluster has to skip it" in done.stdout
        for _ in range(2):
            daemon.start_again()
            with urllib.request.urlopen(f"{daemon.url}/v2/keys/a", timeout=20) as answer:  # noqa: S310
                assert b'"value":"1"' in answer.read()
            put(daemon.url)
            daemon.kill()
