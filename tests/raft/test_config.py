"""Settings that are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netstore.raft.config import Config
from netstore.types import NodeId

ONE = NodeId(1)


@pytest.mark.parametrize("field", ["id", "election_ticks", "max_append_bytes", "max_waiting_reads"])
def test_settings_out_of_range_are_named(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0"):
        replace(Config(id=ONE), **{field: 0})  # type: ignore[arg-type] # the field is one of numbers


def test_heartbeats_must_be_more_frequent_than_elections() -> None:
    with pytest.raises(ValueError, match="election_ticks is 10"):
        Config(id=ONE, heartbeat_ticks=10)
