"""Stores that archive their log."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx

from tests.support.patience import Deadline, seconds

if TYPE_CHECKING:
    from tests.support.daemon import Daemon


def wait_until_archived(daemon: Daemon, gaps: int | None = 0) -> None:
    """Wait until all that was applied is archived, with a state, and with so many gaps; None for any."""
    deadline = Deadline(60)
    url = f"{daemon.url}/netstore/status"
    while True:
        status = httpx.get(url, trust_env=False, timeout=seconds(20)).json()
        told = status["archive"]
        if told["states"] and not told["waitingEntries"] and told["lastIndex"] >= status["appliedIndex"]:
            assert (status["problems"], told["gaps"]) == ([], told["gaps"] if gaps is None else gaps)
            return
        assert not deadline.passed(), told
        time.sleep(0.1)  # fixed: then it asks again


def shown(nanoseconds: int) -> str:
    """An instant as commands take it."""
    whole, rest = divmod(nanoseconds, 10**9)
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest // 1000:06}Z"
