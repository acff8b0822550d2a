"""What a member uses of settings that are more than it can give, and what it says of them."""

from __future__ import annotations

import pytest

from netstore.ops.lowered import LARGEST_REQUEST, MOST_TXN_OPS, Bounded
from netstore.ops.store import StoreConfig


def test_what_can_be_given_is_given() -> None:
    bounded = Bounded(StoreConfig(memory_budget=1 << 30, max_txn_ops=MOST_TXN_OPS))
    assert bounded.lowered == []
    assert (bounded.txn_ops, bounded.shares.whole.limit) == (MOST_TXN_OPS, 1 << 30)


@pytest.mark.parametrize(
    ("budget", "used", "reason"),
    [
        (64 << 20, 16 << 20, "that is a quarter of the memory budget: for more set memory_budget"),
        (1 << 30, LARGEST_REQUEST, "no entry of the log is larger"),
    ],
)
def test_more_is_lowered_and_told_with_the_reason(budget: int, used: int, reason: str) -> None:
    bounded = Bounded(StoreConfig(memory_budget=budget, max_request_bytes=1 << 30, max_txn_ops=1 << 20))
    assert (bounded.request_bytes, bounded.txn_ops) == (used, MOST_TXN_OPS)
    assert [str(each) for each in bounded.lowered] == [
        f"max_request_bytes: 1073741824 is lowered to {used}: {reason}",
        "max_txn_ops: 1048576 is lowered to 65536: decoding more would hold all other requests for too long",
    ]
