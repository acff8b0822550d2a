"""Every transcript in scripts/ is what the core does.

With NETSTORE_REWRITE=1 in the environment the transcripts are rewritten; review the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.raft_script import replay

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    expected = path.read_text()
    seen = replay(expected)
    if os.environ.get("NETSTORE_REWRITE"):
        path.write_text(seen)
        return
    assert seen == expected


def test_there_are_transcripts() -> None:
    assert len(SCRIPTS) >= 10
