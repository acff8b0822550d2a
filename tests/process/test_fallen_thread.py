"""A member in which a thread fails ends with the reason, instead of going on without it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

from tests.support.daemon import netstored_command
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_A_WRITER: Final = """
import sys
from netstore.cli.netstored import main
from netstore.disk import committer

def fall(changes):
    raise OSError(22, "no such clock")

committer.free_in_steps = fall
sys.exit(main())
"""
"""netstored, whose thread that writes the state ends by a fault after its first commit."""


def test_a_member_without_its_state_writer_ends(tmp_path: Path) -> None:
    command = netstored_command(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_WRITER, *command[3:]],
        capture_output=True,
        text=True,
        timeout=seconds(60),
        check=False,
    )
    assert done.returncode > 0
    assert "thread state-writer ended by OSError(22, 'no such clock')" in done.stdout + done.stderr
