"""How many client connections the limit on open files allows."""

from __future__ import annotations

import resource

import pytest

from netstore.ops.descriptors import OWN_DESCRIPTORS, connections_for, most_connections
from tests.support.links import Quiet

STREAMS = 416
"""Connections of other members that are accepted."""


@pytest.mark.parametrize("descriptors", [64, 1024, 1 << 20])
def test_few_open_files_leave_clients_a_part_and_the_member_the_rest(descriptors: int) -> None:
    own = OWN_DESCRIPTORS + STREAMS
    able = connections_for(descriptors, own)
    assert able >= 16, "one client more than those that say nothing and those that stay"
    assert descriptors - able >= min(own, descriptors * 3 // 4)


def test_fewer_connections_than_wanted_are_logged_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    lines = Quiet()
    assert most_connections(2000, 300, lines) == 2000, "the limit was raised"
    assert limits[-1] == (4096, 4096)
    assert lines.lines == []
    assert most_connections(10_000, 300, lines) == 4096 - OWN_DESCRIPTORS - 300
    (line,) = lines.events("connections_limited")
    assert "raise the limit on open files" in line
