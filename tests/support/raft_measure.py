"""How long the core takes for a batch in a group of one: `python -m tests.support.raft_measure`.

A batch is what a host does for it: propose, take_ready, persisted, take_ready, applied_to. Best of nine runs.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING

from netstore.raft.entry import decode_entries, encode_entries
from tests.support.raft_cluster import entry, member, voters

if TYPE_CHECKING:
    from netstore.raft.core import Raft

BATCHES = 3000
RUNS = 9
PAYLOAD = b"x" * 120


def batch_seconds(raft: Raft, size: int) -> float:
    """Seconds for one batch of `size` payloads, mean of BATCHES."""
    payloads = [PAYLOAD] * size
    start = perf_counter()
    for _ in range(BATCHES):
        raft.propose(payloads)
        last = raft.take_ready().entries[-1]
        raft.persisted(last.index, last.term)
        raft.applied_to(raft.take_ready().committed[-1].index)
    return (perf_counter() - start) / BATCHES


def main() -> None:
    """Print a table."""
    raft = member(1, voters(1))
    raft.campaign()
    for size in (1, 4, 16, 64):
        best = 1.0
        for _ in range(RUNS):
            best = min(best, batch_seconds(raft, size))
            raft.compact(raft.log.applied)
        sys.stdout.write(f"batch of {size:2}: {best * 1e6:5.1f} us, {best * 1e6 / size:5.2f} us an entry\n")
    entries = [entry(index, 1, PAYLOAD) for index in range(1, 65)]
    data = encode_entries(entries)
    for name, call in (("encode", lambda: encode_entries(entries)), ("decode", lambda: decode_entries(data))):
        best = 1.0
        for _ in range(RUNS):
            start = perf_counter()
            for _ in range(BATCHES):
                call()
            best = min(best, (perf_counter() - start) / BATCHES)
        sys.stdout.write(f"{name} 64 entries: {best * 1e6 / 64:.2f} us an entry\n")


if __name__ == "__main__":
    main()
