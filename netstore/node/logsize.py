"""What payloads weigh in the log, and how much of them one turn of the member puts there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.raft.entry import ENTRY_OVERHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

PAYLOADS_PER_TURN: Final = 512
"""Payloads proposed in one turn, about 5 ms of work to apply; the rest waits for the next turn."""

BYTES_PER_TURN: Final = 1024 * 1024
"""Bytes of payloads proposed in one turn: of the member's own requests, of postponed requests of other
members, and of new ones, each; one payload or message may exceed it. They are framed for the log and for each
member: 8 ms for a MiB on a busy machine of 2020.
"""


def log_size(payloads: Sequence[bytes]) -> int:
    """By how many bytes the log in memory grows when these are proposed."""
    return sum(map(len, payloads)) + len(payloads) * ENTRY_OVERHEAD_BYTES
