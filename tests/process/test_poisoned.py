"""A member whose log holds what it cannot apply says so and ends; an operator can pass over the entry."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from netstore.state.display import payload_hash
from netstore.state.envelope import seal
from tests.support import control
from tests.support.archives import wait_until_archived
from tests.support.cluster import get, put
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.stopped import append_to_log

if TYPE_CHECKING:
    from pathlib import Path

POISON = seal(b"\x92\x5a\xc4\x00")


def tool(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netstore.cli.netstored", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds(60), check=False, stdin=subprocess.DEVNULL
    )


def test_a_poisoned_folder_is_refused_inspected_skipped_and_serves(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        assert put(daemon, "a", "1").status in {200, 201}
        assert daemon.stop() == 0
        index = append_to_log(daemon.data_dir, [POISON])
        for _ in range(2):
            daemon.spawn_again()
            assert daemon.process.wait(seconds(60)) == 2
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
            assert get(daemon, "a") == "1"
            assert put(daemon, "a", "1").status in {200, 201}
            daemon.kill()


def test_an_archive_leads_to_points_after_an_entry_that_was_passed_over(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    flags = ("--archive-folder", str(archive), "--archive-lag-seconds", "1")

    def extract(index: int) -> subprocess.CompletedProcess[str]:
        target = tmp_path / f"backup{index}"
        words = ("archive", "extract", str(archive), str(target), "--to-index", str(index))
        return control.run(*words)

    with start_netstored(tmp_path, *flags) as daemon:
        assert put(daemon, "a", "1").status in {200, 201}
        wait_until_archived(daemon)
        assert daemon.stop() == 0
        index = append_to_log(daemon.data_dir, [POISON])
        daemon.spawn_again()
        assert daemon.process.wait(seconds(60)) == 2
        hash_ = payload_hash(POISON)
        done = tool("--data-dir", str(daemon.data_dir), "--skip-entry", str(index), "--confirm", hash_)
        assert done.returncode == 0, done.stderr
        daemon.start_again()
        assert put(daemon, "a", "2").status in {200, 201}
        wait_until_archived(daemon)
        assert daemon.stop() == 0
        found = extract(index + 1)
        assert found.returncode == 0, found.stderr
        (archive / "skipped").unlink()  # as an earlier release left it
        refused = extract(index + 2)
        assert refused.returncode != 0
        advice = f"copy the file skipped of one's data folder to {archive}/skipped;"
        assert advice in refused.stderr
        daemon.start_again()
        assert put(daemon, "a", "3").status in {200, 201}
        wait_until_archived(daemon)
        assert daemon.stop() == 0
        found = extract(index + 2)
        assert found.returncode == 0, found.stderr
