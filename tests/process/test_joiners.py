"""Many real members that join at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import Members, listed, put, request
from tests.support.patience import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

JOINERS = "bcdefghi"
PATIENT = ("--heartbeat-interval", "100", "--election-timeout", "2000")
"""Nine processes start on two busy cores; what is tested is not how fast."""


@pytest.mark.slow
def test_of_eight_that_join_at_once_two_get_a_vote(tmp_path: Path) -> None:
    with Members(tmp_path, 1, PATIENT) as members:
        first = members["a"]
        for name in JOINERS:
            members.spawn(name, *members.joining("a"))
        until(lambda: len(named(first)) == 9, "all have joined and told their names", 120)
        until(lambda: len(voters(first)) == 3, "those that are to vote have caught up", 60)
        assert put(first, "after", "1").status == 201
        assert len(voters(first)) == 3
        assert not any(each["promote"] for each in shown(first)), "nobody is to follow"


def named(daemon: Daemon) -> list[str]:
    return [each["name"] for each in listed(daemon) if each["name"]]


def shown(daemon: Daemon) -> list[dict[str, object]]:
    """The members, as an operator is shown them."""
    members: list[dict[str, object]] = request(daemon, "GET", "/netstore/members", 5.0).body["members"]
    return members


def voters(daemon: Daemon) -> list[object]:
    return [each["name"] for each in shown(daemon) if each["role"] != "learner"]
