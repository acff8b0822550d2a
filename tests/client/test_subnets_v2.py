"""What is particular to leases in the v2 API."""

from __future__ import annotations

import math
from typing import cast

import pytest

from netstore.client.subnets_v2 import V2Subnets
from netstore.client.subnetstore import Entry
from netstore.client.v2 import Answer, Node, V2Client

A = "10.23.1.0-24"


class Shown:
    """A store that shows one file with what is left of its time, as v2 does: in whole seconds, rounded up."""

    def __init__(self, left: float | None) -> None:
        self.left = left

    async def get(self, key: str, *, quorum: bool = False) -> Answer:
        assert quorum
        ttl = None if self.left is None else math.ceil(self.left)
        expiration = None if self.left is None else "2030-01-01T00:00:00Z"
        node = Node(key, "one", expiration=expiration, ttl=ttl, modified_index=7, created_index=5)
        return Answer("get", node, None, 9, "c")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("left", "told"), [(None, None), (-0.5, 0), (0.0, 0), (0.2, 0), (1.0, 0), (1.2, 1), (59.9, 59)]
)
async def test_no_more_time_is_told_than_is_left(left: float | None, told: int | None) -> None:
    entry = await V2Subnets(cast("V2Client", Shown(left)), "/coreos.com/network").entry(A)
    assert entry == Entry(A, "one", 7, told, 5)
