"""What a leader knows of one follower, and how much it may send to it (Ongaro's dissertation, sections 3.5,
4.2.1, 10.2.1).

As in etcd a follower is in one of three states: *probe* (one message at a time, because the index where the
logs match is not known), *replicate* (a stream of messages, bounded by a window) or *snapshot* (no appends: a
snapshot is on its way).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from netstore.types import Index


class ProgressState(Enum):
    """How appends are sent to a follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower. Its log is known to match up to `match`; `next` is the next index to send; match <
    next."""

    __slots__ = (
        "_probe_unanswered",
        "_window",
        "caught_up",
        "commit_sent",
        "inflight_bytes",
        "last_heard",
        "match",
        "match_rejections",
        "next",
        "paused",
        "read_round",
        "round_started",
        "round_target",
        "snapshot",
        "state",
        "waits",
    )

    def __init__(self, next_index: Index, now: int) -> None:
        """A follower whose log is not known yet: it is probed at `next_index`. `now` is in ticks."""
        self.state = ProgressState.PROBE
        self.match = Index(0)
        self.next = next_index
        self.commit_sent = Index(0)
        self.waits = True
        """Somebody there waits for commits, as far as is known: it is told of them at once."""
        self.paused = False
        """A probe is unanswered, or no snapshot can be sent: no append until the follower is heard."""
        self.last_heard = now
        """The tick at which it last answered."""
        self.snapshot = Index(0)
        self.read_round = 0
        """The newest ReadIndex round that it confirmed (`readindex`)."""
        self.match_rejections = 0
        """How many probes in a row it rejected at `match`, which it had acknowledged."""
        self._probe_unanswered = False
        self.caught_up = False
        self.round_target = Index(next_index - 1)
        self.round_started = now
        self._window: deque[tuple[Index, int]] = deque()
        self.inflight_bytes = 0

    # --- sending

    def sent(self, last: Index, size: int) -> None:
        """An append with entries up to `last`, of `size` bytes, or a probe was sent."""
        if self.state is ProgressState.REPLICATE:
            self.next = Index(last + 1)
            self._window.append((last, size))
            self.inflight_bytes += size
        else:
            self.paused = self._probe_unanswered = True

    def tell(self, commit: Index) -> Index:
        """The commit index for a heartbeat: as far as the follower's log is known to match."""
        known = min(self.match, commit)
        self.commit_sent = max(self.commit_sent, known)
        return known

    def full(self, max_messages: int, max_bytes: int) -> bool:
        """Whether the window is used up."""
        return len(self._window) >= max_messages or self.inflight_bytes >= max_bytes

    # --- answers

    def active(self, now: int, limit: int) -> bool:
        """Whether it answered less than `limit` ticks ago."""
        return now - self.last_heard < limit

    def accepted(self, index: Index) -> bool:
        """The follower's log matches up to `index`. True if `match` moved."""
        window = self._window
        while window and window[0][0] <= index:
            self.inflight_bytes -= window.popleft()[1]
        self.match_rejections = 0
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, Index(index + 1))
        return True

    def rejects_match(self, at: Index) -> bool:
        """Whether a follower that rejects a probe at `at` lacks an entry which it had acknowledged. It is
        paused until it answers a heartbeat."""
        if self.state is not ProgressState.PROBE or not at == self.match == self.next - 1 > 0:
            return False
        self.match_rejections += self._probe_unanswered
        self._probe_unanswered = False
        return True

    def rejected(self, at: Index, retry: Index) -> bool:
        """The follower has no matching entry at `at`; probe next after `retry`. False if that is outdated."""
        if self.state is ProgressState.REPLICATE:
            if at <= self.match:
                return False
            self.become_probe()
            return True
        if at != self.next - 1 or self.state is ProgressState.SNAPSHOT:
            return False
        self.next = Index(max(min(at, retry + 1), self.match + 1))
        self.paused = False
        return True

    # --- states

    def become_probe(self) -> None:
        """Probe after the last index known to match."""
        self._reset(ProgressState.PROBE)
        self.next = Index(self.match + 1)
        self.commit_sent = Index(0)

    def become_replicate(self) -> None:
        """The index where the logs match is known: stream from there."""
        self._reset(ProgressState.REPLICATE)
        self.next = Index(self.match + 1)

    def become_snapshot(self, index: Index) -> None:
        """A snapshot at `index` is on its way; no appends until it has arrived or failed."""
        self._reset(ProgressState.SNAPSHOT)
        self.snapshot = index

    def _reset(self, flow: ProgressState) -> None:
        self.state = flow
        self.paused = False
        self.match_rejections = 0
        self.snapshot = Index(0)
        self._window.clear()
        self.inflight_bytes = 0

    # --- learners

    def count_round(self, last: Index, now: int, limit: int) -> None:
        """Replication to a learner in rounds (section 4.2.1): a round replicates what the log had when the
        round began.

        A learner whose last round took less than an election timeout (`limit` ticks) may become a voter
        without delaying commits.
        """
        if self.match >= self.round_target:
            self.caught_up = now - self.round_started < limit or self.match >= last
            self.round_target = last
            self.round_started = now

    def is_caught_up(self, last: Index, now: int, limit: int) -> bool:
        """Whether it may be promoted: it is active, its last round was short, and the present one is not
        long."""
        if not self.caught_up or not self.active(now, limit):
            return False
        return self.match >= last or now - self.round_started < limit
