"""Outcomes with everything that was left to be read later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.state.v3 import txn
from netstore.state.v3.commands import Deleted, Found, Later, PutDone, TxnDone

if TYPE_CHECKING:
    from netstore.state.machine import Machine, Outcome


def settled(machine: Machine, outcome: Outcome) -> Outcome:
    """What a client is answered that waits for this outcome."""

    def find(later: Later) -> Found:
        found = machine.mvcc.range(later.query, later.bound)
        assert isinstance(found, Found)
        return found

    return txn.settle(outcome, find) if isinstance(outcome, PutDone | Deleted | Later | TxnDone) else outcome
