"""`netstorectl` as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.daemon import clean_environment
from tests.support.patience import seconds


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with nothing on its standard input."""
    return subprocess.run(
        (sys.executable, "-m", "netstore.cli.netstorectl", *words),
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds(60),
        check=False,
        text=True,
    )


def answer(*words: str, url: str = "http://127.0.0.1:1", status: int = 0) -> Any:
    """What it answers as JSON, with this exit status. Without a URL no store can be asked."""
    done = run("--endpoints", url, *words, "-o", "json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)
