"""The independent judge: is there any order of these calls that explains every answer?

The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with the remembered states of
Lowe ("Testing for Linearizability", 2017): at each point one of the calls that may come next is taken, the
earliest to return first; a set of taken calls together with the state they led to is tried once. It sees
calls and answers only, no index and no log.

Calls without an answer never return: they may be taken at any point after their call, or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from tests.check.history import NEVER, Wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    State = bytes | None

STEPS: Final = 4_000_000
"""Steps after which the search gives up, which counts as a failure: a judge that falls silent proves
nothing.
"""


@dataclass(slots=True, frozen=True)
class Call:
    """One call. `step` says whether it may happen in a state with the answer it got, and what it leaves.

    Calls without an answer and of the same `kind` (not None) do the same: of those only the first is tried.
    """

    called: int
    returned: int
    step: Callable[[State], tuple[bool, State]]
    shown: object = None
    kind: object = None


def judge(what: object, calls: Sequence[Call]) -> None:
    """Wrong when no order explains the answers, with the calls among which the search ended."""
    stuck = search(calls)
    if stuck is not None:
        told = "\n  ".join(str(call.shown) for call in stuck)
        raise Wrong(f"no order of the calls on {what!r} explains what they were told; stuck at\n  {told}")


def search(calls: Sequence[Call]) -> list[Call] | None:
    """None when there is an order; else the calls of which one had to come next in the longest try.

    The number of steps is linear for histories with little concurrency, and in the worst case exponential
    in the number of calls that overlap.
    """
    ordered = sorted(calls, key=lambda call: call.called)
    needed = sum(call.returned != NEVER for call in ordered)
    # The window: calls from `first` on of which none before is untaken; a bit each for what is taken in it.
    seen: set[tuple[int, int, State, State | _Known]] = set()
    path: list[tuple[int, int, int, State, State | _Known, list[int], int]] = []
    first, mask, done = 0, 0, 0
    state: State = None
    before: State | _Known = _KNOWN
    """The state before the last call taken, if that was one without an answer."""
    best: tuple[int, list[int]] = (-1, [])
    steps = 0
    options = _options(ordered, first, mask)
    at = 0
    while done < needed:
        if done > best[0]:
            best = (done, options)
        taken = False
        while at < len(options):
            place = options[at]
            at += 1
            steps += 1
            if steps > STEPS:
                raise Wrong(f"no verdict on {len(ordered)} calls within {STEPS} steps")
            call = ordered[place]
            fits, after = call.step(state)
            if not fits:
                continue
            told = call.returned != NEVER
            if not told and (after == state or _in_vain(call, before, after)):
                continue
            next_first, next_mask = first, mask | 1 << (place - first)
            while next_mask & 1:
                next_mask >>= 1
                next_first += 1
            next_before: State | _Known = _KNOWN if told else state
            key = (next_first, next_mask, after, next_before)
            if key in seen:
                continue
            seen.add(key)
            path.append((first, mask, done, state, before, options, at))
            first, mask, state, before = next_first, next_mask, after, next_before
            done += told
            options, at, taken = _options(ordered, first, mask), 0, True
            break
        if not taken:
            if not path:
                return [ordered[place] for place in best[1]]
            first, mask, done, state, before, options, at = path.pop()
    return None


class _Known(Enum):
    """In the place of a state: the last call taken had an answer."""

    KNOWN = 0


_KNOWN: Final = _Known.KNOWN


def _in_vain(call: Call, before: State | _Known, after: State) -> bool:
    """Whether a call without an answer makes the one taken right before it, which has none either, needless:
    it would have led to the same without that one. An order that explains the answers does without it too.
    """
    return not isinstance(before, _Known) and call.step(before) == (True, after)


def _options(ordered: Sequence[Call], first: int, mask: int) -> list[int]:
    """Calls that may come next: those called before any untaken one returned, the first to return first."""
    found: list[int] = []
    kinds: set[object] = set()
    deadline = NEVER
    for place in range(first, len(ordered)):
        call = ordered[place]
        if call.called > deadline:
            break
        if mask >> (place - first) & 1 or call.kind in kinds:
            continue
        if call.kind is not None:
            kinds.add(call.kind)
        found.append(place)
        deadline = min(deadline, call.returned)
    found = [place for place in found if ordered[place].called <= deadline]
    found.sort(key=lambda place: ordered[place].returned)
    return found
