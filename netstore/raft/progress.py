"""What a leader knows of one other member, and how much it may send it (Ongaro's dissertation, sections 3.5,
4.2.1, 10.2.1).

Three ways of sending: *probe* (one message, then wait: the place where the logs meet is not known),
*replicate* (a stream of messages, bounded by a window) and *snapshot* (nothing: a state copy is on its way).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from netstore.types import Index


class Flow(Enum):
    """How a follower is fed."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower. `match` is known to be the same there; `next` is the next place to send; match < next."""

    __slots__ = (
        "_unanswered",
        "_window",
        "caught_up",
        "commit_sent",
        "denials",
        "flow",
        "heard",
        "inflight_bytes",
        "match",
        "next",
        "round_acked",
        "round_goal",
        "round_started",
        "snapshot",
        "waiting",
    )

    def __init__(self, next_index: Index, now: int) -> None:
        """A follower whose log is not known yet; sending starts with a probe at `next_index`. `now` counts
        ticks."""
        self.flow = Flow.PROBE
        self.match = Index(0)
        self.next = next_index
        self.commit_sent = Index(0)
        self.waiting = False
        """A probe is out, or the receiver asked for a pause: nothing more until it speaks."""
        self.heard = now
        """The tick at which it last answered."""
        self.snapshot = Index(0)
        self.round_acked = 0
        """The newest read round it confirmed (`readindex`)."""
        self.denials = 0
        """Probes in a row that were answered by denying what it had acknowledged."""
        self._unanswered = False
        self.caught_up = False
        self.round_goal = Index(next_index - 1)
        self.round_started = now
        self._window: deque[tuple[Index, int]] = deque()
        self.inflight_bytes = 0

    # --- sending

    def sent(self, last: Index, size: int) -> None:
        """Entries up to `last` of `size` bytes left in one message."""
        if self.flow is Flow.REPLICATE:
            self.next = Index(last + 1)
            self._window.append((last, size))
            self.inflight_bytes += size
        else:
            self.waiting = self._unanswered = True

    def full(self, max_messages: int, max_bytes: int) -> bool:
        """Whether the window is used up."""
        return len(self._window) >= max_messages or self.inflight_bytes >= max_bytes

    # --- hearing

    def active(self, now: int, limit: int) -> bool:
        """Whether it answered less than `limit` ticks ago."""
        return now - self.heard < limit

    def accepted(self, index: Index) -> bool:
        """The follower's log matches up to `index`. True if that is news."""
        window = self._window
        while window and window[0][0] <= index:
            self.inflight_bytes -= window.popleft()[1]
        self.denials = 0
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, Index(index + 1))
        return True

    def denied(self, at: Index) -> bool:
        """Whether a follower that has no match at `at` denies what it acknowledged. Nothing is sent until it
        answers a heartbeat."""
        if self.flow is not Flow.PROBE or not at == self.match == self.next - 1 > 0:
            return False
        self.denials += self._unanswered
        self._unanswered = False
        return True

    def rejected(self, at: Index, retry: Index) -> bool:
        """The follower had no match at `at`; try again after `retry`. False if that is old news."""
        if self.flow is Flow.REPLICATE:
            if at <= self.match:
                return False
            self.probe()
            return True
        if at != self.next - 1 or self.flow is Flow.SNAPSHOT:
            return False
        self.next = Index(max(min(at, retry + 1), self.match + 1))
        self.waiting = False
        return True

    # --- changing the way

    def probe(self) -> None:
        """Start again at the last place known to match (past a state copy that was on its way)."""
        self._reset(Flow.PROBE)
        self.next = Index(self.match + 1)

    def replicate(self) -> None:
        """The meeting place is known: stream from there."""
        self._reset(Flow.REPLICATE)
        self.next = Index(self.match + 1)

    def await_snapshot(self, index: Index) -> None:
        """A state copy at `index` is on its way; send nothing until it arrived or failed."""
        self._reset(Flow.SNAPSHOT)
        self.snapshot = index

    def _reset(self, flow: Flow) -> None:
        self.flow = flow
        self.waiting = False
        self.denials = 0
        self.snapshot = Index(0)
        self._window.clear()
        self.inflight_bytes = 0

    # --- learners

    def count_round(self, last: Index, now: int, limit: int) -> None:
        """Replication to a learner in rounds (section 4.2.1): each copies what the log held when the round
        began.

        A learner whose last round took less than an election timeout (`limit` ticks) holds up nobody when it
        votes.
        """
        if self.match >= self.round_goal:
            self.caught_up = now - self.round_started < limit or self.match >= last
            self.round_goal = last
            self.round_started = now

    def is_caught_up(self, last: Index, now: int, limit: int) -> bool:
        """Whether it may be promoted now: heard from, last round short, and no long one under way."""
        if not self.caught_up or not self.active(now, limit):
            return False
        return self.match >= last or now - self.round_started < limit
