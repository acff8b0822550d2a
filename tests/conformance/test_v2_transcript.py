"""What etcd 3.4 was recorded to answer, asked of a member in this process and of a real daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import REFERENCE
from tests.support.daemon import start_netstored
from tests.support.local_member import LocalMember
from tests.support.patience import seconds
from tests.support.replay import LocalServer, LocalTime, LocalWatch, load_player

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.shared

TRANSCRIPT: Final = REFERENCE / "v2-transcript.jsonl"

EXPECTED_TO_FAIL: Final = {
    "case38-misc-endpoints": "metrics; the rest of the case is served",
    "case40-auth-users-roles": "users and roles",
    "case41-auth-enforced": "users and roles",
}
"""Recorded cases that need what is not served yet, and what that is. One that passes must leave this list."""


def _cases() -> dict[str, list[dict[str, Any]]]:
    if not TRANSCRIPT.exists():
        return {}
    cases: dict[str, list[dict[str, Any]]] = load_player(REFERENCE).load([TRANSCRIPT])
    return cases


CASES: Final = _cases()


@pytest.mark.parametrize("name", sorted(CASES.keys() - EXPECTED_TO_FAIL.keys()))
def test_local_member_answers_as_recorded(name: str) -> None:
    player = load_player(REFERENCE)
    member = LocalMember()
    server = LocalServer(member)
    player.__dict__.update(Watch=LocalWatch, time=LocalTime(member))
    steps = CASES[name]
    context = player.start_case(server, steps[0].get("prefix", name), strict=True)
    failures = []
    for step in steps:
        try:
            player.run_step(context, step)
        except player.Mismatch as mismatch:
            failures.append(f"#{step['step']} {player.title(step)}: {mismatch}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_daemon_answers_as_recorded(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        command = (sys.executable, str(REFERENCE / "replay_v2.py"), "--strict", daemon.url, str(TRANSCRIPT))
        played = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(110))
    assert re.search(r"^\d+ passed, \d+ failed$", played.stdout, re.MULTILINE), played.stderr
    failed = set(re.findall(r"^FAIL (\S+) ", played.stdout, re.MULTILINE))
    assert failed == EXPECTED_TO_FAIL.keys(), played.stdout
