"""Sorting many byte strings in steps: sorted runs, merged a few at a time (external merge sort).

The runs are packed, so that the garbage collector has few objects to visit, and so that the memory of a part
is freed as soon as it is merged.
"""

from __future__ import annotations

from collections import deque
from heapq import merge
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STEP_KEYS: Final = 1_000
"""Keys handled in one step: about 1 ms."""

STEP_BYTES: Final = 128 * 1024
"""Bytes of keys handled in one step."""

WAYS: Final = 8
"""Runs merged at the same time. A run consists of parts, each a step's keys and bytes divided by this, so
that one part of each run is what a step works on.
"""

RUNS_AT_ONCE: Final = 50
"""Runs freed in one step by `clear`."""

KEY_BYTES: Final = 8
"""Overhead of a key in a run or in a protobuf field, at most: its length and tag."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode

Run: TypeAlias = "deque[bytes]"
"""Sorted keys in packed parts."""


def batches(keys: Iterable[bytes], parts: int = 1) -> Iterator[list[bytes]]:
    """The keys in lists of what one step handles, or of that divided by `parts`."""
    most, most_bytes = STEP_KEYS // parts, STEP_BYTES // parts
    some: list[bytes] = []
    size = 0
    for key in keys:
        some.append(key)
        size += len(key)
        if len(some) >= most or size >= most_bytes:
            yield some
            some, size = [], 0
    if some:
        yield some


def run_size(keys: list[bytes]) -> int:
    """Bytes that keys take in a run, and no fewer than in a protobuf field."""
    return sum(map(len, keys)) + KEY_BYTES * len(keys)


def run_of(keys: Iterable[bytes]) -> Run:
    """A run of keys that are sorted already."""
    return deque(_pack(part) for part in batches(keys, WAYS))


def merged(runs: Iterable[Run]) -> Iterator[bytes]:
    """The keys of the runs in order. Each part of a run is freed as it is taken."""
    return merge(*map(_keys_of, runs))


def merge_most(runs: deque[Run]) -> Iterator[None]:
    """Merge runs, in steps, until there are no more than `WAYS`. O(keys * log(runs))."""
    while len(runs) > WAYS:
        longer: Run = deque()
        for some in batches(merged([runs.popleft() for _ in range(WAYS)])):
            longer += run_of(some)
            yield
        runs.append(longer)


def clear(runs: deque[Run]) -> Iterator[None]:
    """Free the runs that are left, in steps."""
    while runs:
        for _ in range(min(RUNS_AT_ONCE, len(runs))):
            runs.pop()
        yield


def _keys_of(run: Run) -> Iterator[bytes]:
    while run:
        yield from _unpack(run.popleft())
