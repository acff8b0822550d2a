"""Write pacing: flow control of the leader's writes while other members are brought up, so that the log
behind each of them stays within its bound until it has caught up.

Without it, a member that was away would be given a snapshot, the log after which is dropped before it
arrives, then another one, for as long as the load lasts. A member counts if it is alive, if the log after its
position is still there, and if it is fast enough to catch up in time, by a snapshot or by taking the log.
Others slow nobody.

Pure: the host gives times, positions and bytes. Rates are computed once a tick; between two ticks at most
what the rate gives for that time is proposed, and one request more. Requests of the member itself and changes
of the members do not wait, but are counted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.raft.status import Role
from netstore.types import Index, NodeId

if TYPE_CHECKING:
    from netstore.raft.status import PeerStatus, Status

PACED_SECONDS: Final = 256.0
"""The longest time for which writes are paced for one member: it is not paced for at all if it is expected to
take longer, since it is then slow by itself, and others are not to pay for that. A tenth of the time in which
it is not paced for is given back. The least rate is that at which the log outgrows its bound in this time: a
lower one would save nothing, and at a higher one a slow snapshot would be lost though it may take as long.
"""

WINDOW_SECONDS: Final = 5.0
"""How fast a member takes the log is measured over this time. A member that takes less than the least rate in
it does not count; a single slow sync does not cause that.
"""

LINGER_SECONDS: Final = 5.0
"""Writes count as paced for this time after one had to wait."""

DEBT_SECONDS: Final = 3.0
"""If more was written than there was room for, because one request was so large, what waits does so for what
the rate gives in this time, at most. That is less than half of the time limit of a request if the election
timeout is more than 500 ms, so that it is done; with a shorter one, forwarded requests may be refused. It is
1.5 MiB, the default limit of a request, at the least rate of the default log size. A larger excess shows in
what the log weighs, and so in the next rates.
"""

SPARE_PART: Final = 8
"""Meanwhile this part of the rate is for small requests; what is not used of it is kept for a second. It
counts like all that is written, so the rate stays the same.
"""

BEHIND_PART: Final = 2
"""A member is brought up once the log after its position weighs this part of its bound."""

NEAR_PART: Final = 8
"""It has caught up once no more than this part is after its position."""

_MARKS: Final = 256
"""Positions of the log are recorded once for this part of its bound."""

_LEAST_SPAN: Final = 0.5
"""Seconds after which a speed may be computed."""


class Behind(msgspec.Struct, frozen=True, gc=False):
    """A member that is brought up, as its leader sees it."""

    id: NodeId
    gets_snapshot: bool
    """It is given a snapshot; otherwise it takes the log."""
    sent: int
    """Bytes of the snapshot that were sent, of `size`; 0 of 0 while it is made."""
    size: int
    entries: int
    """Entries of the log after its position."""
    counts: bool
    """Writes are paced for it if needed."""


class _Peer:
    """Another member. All times are monotonic seconds."""

    __slots__ = (
        "begun",
        "counts",
        "entries",
        "gap",
        "is_alive",
        "is_behind",
        "is_installing",
        "is_sending",
        "is_too_slow",
        "place",
        "refused",
        "samples",
        "sent",
        "size",
        "used",
    )

    def __init__(self) -> None:
        self.place = Index(0)
        """Its position: it needs the log after it."""
        self.gap = 0.0
        """What that part of the log weighs."""
        self.entries = 0
        self.is_sending = False
        """A snapshot is being made or sent."""
        self.is_installing = False
        """A snapshot was delivered, and it has not taken the log after it yet."""
        self.begun = 0.0
        """When that snapshot was begun."""
        self.sent = self.size = 0
        self.refused: int | None = None
        """How much of the last snapshot was sent when it refused it; None if it did not."""
        self.is_alive = False
        self.is_behind = False
        """It was far behind, and has not caught up since."""
        self.is_too_slow = False
        """It will not catch up in time."""
        self.counts = False
        self.used = 0.0
        """Seconds that writes were paced for it, less what was given back."""
        self.samples: deque[tuple[float, float]] = deque()
        """Times, and how much of the log it had taken by then."""

    @property
    def takes_snapshot(self) -> bool:
        """A snapshot is made or sent, or the log after one was not taken yet."""
        return self.is_sending or self.is_installing

    @property
    def is_brought_up(self) -> bool:
        return self.takes_snapshot or self.is_behind

    @property
    def is_kept_for(self) -> bool:
        """The log keeps what it needs, within its bound."""
        return self.is_sending or (self.is_brought_up and not self.is_too_slow)

    @property
    def may_refuse(self) -> bool:
        """It refused the last snapshot, and this one has not got clearly further: it may refuse it too."""
        return self.is_sending and self.refused is not None and self.sent <= self.refused + self.size / 8

    def begin_anew(self) -> None:
        """It is judged anew, unless it has used up its time."""
        if self.used <= PACED_SECONDS / 2:
            self.is_too_slow = False

    def forget(self) -> None:
        """What it needs is not in the log, or another member leads. A snapshot under way goes on."""
        self.is_installing = self.is_behind = self.counts = False
        self.samples.clear()

    def progress(self) -> float:
        """How much of a snapshot is done, in 3 parts of about the same length: made; sent; verified and
        loaded. Nobody reports progress of the first and the last: three quarters of the first count as done,
        and nothing of the last.
        """
        if self.is_installing:
            return 2.0
        return 1 + self.sent / self.size if self.size else 0.75

    def speed(self) -> float | None:
        """Bytes a second that it takes of the log; None while that is not known."""
        (begun, first), (ended, last) = self.samples[0], self.samples[-1]
        return (last - first) / (ended - begun) if ended - begun >= _LEAST_SPAN else None


class Pacing:
    """What the log weighs after the positions of other members, and how fast it may grow."""

    def __init__(self, limit: int, compacted: Index) -> None:
        """`limit` is what the log may weigh; it begins after `compacted`."""
        self._limit = limit
        self.least = limit / PACED_SECONDS
        """Bytes a second that are written however slow the members are that count."""
        self.rate: float | None = None
        """Bytes a second that may be written; None: any number."""
        self._room = 0.0
        """Bytes that may be written before the next tick; negative if too many were."""
        self._spare = 0.0
        """Bytes of small requests that may be written while there is no room."""
        self._looked: float | None = None
        self._held = False
        """Something had to wait since the last tick."""
        self._held_at = float("-inf")
        self._peers: dict[NodeId, _Peer] = {}
        self._forgotten = 0
        """Bytes that were dropped from the log."""
        self._last = compacted
        self._total = 0
        """Bytes that were ever in the log, up to its end."""
        # Positions of the log, and the bytes that were ever in it up to there. Between two of them, entries
        # count as equally long.
        self._places: list[Index] = [compacted]
        self._sums: list[int] = [0]

    # --- the log

    def restart(self, compacted: Index) -> None:
        """The log is empty and begins after this position."""
        self._last, self._total, self._forgotten = compacted, 0, 0
        self._places, self._sums = [compacted], [0]

    def measure(self, last: Index, log_bytes: int) -> None:
        """The log ends there and weighs so much. O(1), plus what was cut off."""
        places, sums = self._places, self._sums
        while len(places) > 1 and places[-1] > last:
            places.pop()
            sums.pop()
        self._last, self._total = last, self._forgotten + log_bytes
        if last > places[-1] and self._total - sums[-1] >= self._limit / _MARKS:
            places.append(last)
            sums.append(self._total)

    def forgot(self, compacted: Index, size: int) -> None:
        """The log has dropped so many bytes, up to this position."""
        self._forgotten += size
        count = bisect_right(self._places, compacted)
        self._places[:count] = [compacted]
        self._sums[:count] = [self._forgotten]

    def _sum(self, place: Index) -> float:
        """Bytes that were ever in the log up to this position, about."""
        places, sums = self._places, self._sums
        if place >= self._last:
            return self._total
        at = bisect_right(places, place)
        if not at:
            return sums[0]
        low, below = places[at - 1], sums[at - 1]
        high, above = (places[at], sums[at]) if at < len(places) else (self._last, self._total)
        return below + (above - below) * (place - low) / max(high - low, 1)

    def needed(self) -> Index | None:
        """The first position of the log that a member needs which is brought up, within the bound."""
        begin, most = self._places[0], self._limit
        places = [peer.place for peer in self._peers.values() if peer.is_kept_for and peer.place >= begin]
        return min((place for place in places if self._total - self._sum(place) <= most), default=None)

    # --- snapshots

    def snapshot_begun(self, peer: NodeId, index: Index, now: float) -> None:
        """A snapshot is being made; the log after `index` will be needed."""
        record = self._peers.setdefault(peer, _Peer())
        record.place = min(index, record.place) if record.is_sending else index
        record.is_sending, record.is_installing, record.begun = True, False, now
        record.sent = record.size = 0
        record.begin_anew()

    def snapshot_made(self, peer: NodeId, index: Index) -> None:
        """It is of the state at this index, which may be after the one it was begun at."""
        record = self._peers.get(peer)
        if record is not None:
            record.place = max(record.place, index)

    def snapshot_sent(self, peer: NodeId, sent: int, size: int) -> None:
        """So many bytes of a snapshot of this size were sent."""
        record = self._peers.get(peer)
        if record is not None:
            record.sent, record.size = sent, size

    def snapshot_ended(self, peer: NodeId, *, ok: bool, refused: bool = False) -> Index:
        """It was delivered or given up, because the member refused it or for another reason; returns the
        index it was of. If it was lost for another reason, mostly because the log outgrew it, that is no
        refusal, and the next one is as likely as any to arrive: otherwise one refusal would keep the member
        away for as long as the load lasts.
        """
        record = self._peers.get(peer)
        if record is None:
            return Index(0)
        record.is_sending, record.is_installing = False, ok
        record.refused = record.sent if refused else None
        record.sent = record.size if ok else 0
        return record.place

    # --- the rate

    def look(self, now: float, status: Status) -> None:
        """Judge all other members anew, and give the next tick its bytes. `measure` was called just
        before.
        """
        seconds = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if self._held:
            self._held_at = now
        peers = status.peers if status.role is Role.LEADER else ()
        known = {peer.id for peer in peers}
        for id_, record in list(self._peers.items()):
            if id_ not in known:
                record.forget()
                if not record.is_sending:
                    del self._peers[id_]
        rates = [self._judge(self._peers.setdefault(peer.id, _Peer()), peer, now, seconds) for peer in peers]
        self._held = False
        self.rate = min((rate for rate in rates if rate is not None), default=None)
        self._give(self.rate or 0.0, seconds)

    def _give(self, rate: float, seconds: float) -> None:
        """So many bytes a second for so many seconds. Room that was not used is lost."""
        self._room = max(min(self._room, 0.0), -rate * DEBT_SECONDS) + rate * seconds
        spare = rate / SPARE_PART
        self._spare = min(self._spare + spare * seconds, spare)

    def _judge(self, record: _Peer, peer: PeerStatus, now: float, seconds: float) -> float | None:
        """The rate that this member needs; None if it needs none, or does not count."""
        if record.counts and self._held:
            record.used += seconds
        else:
            record.used = max(0.0, record.used - seconds / 10)
        record.counts = False
        if record.is_installing and peer.match >= record.place:
            record.is_installing, record.is_behind = False, True
        if not record.takes_snapshot:
            record.place = peer.match
        record.gap = self._total - self._sum(record.place)
        record.entries = max(0, self._last - record.place)
        record.is_alive = peer.active
        if not record.place or record.place < self._places[0]:
            record.forget()  # nothing was heard of it yet, or it needs a snapshot
            return None
        if not peer.active:
            record.samples.clear()
            record.is_behind = False
            record.is_installing &= now - record.begun < PACED_SECONDS
            return None
        if record.takes_snapshot:
            record.samples.clear()
            need: tuple[float, float] | None = self._rate_for_snapshot(record, now)
        else:
            need = self._rate_for_log(record, now)
        if need is None:
            return None
        rate, left = need
        record.is_too_slow |= left > PACED_SECONDS - record.used
        record.counts = not (record.is_too_slow or record.may_refuse)
        return max(rate, self.least) if record.counts else None

    def _rate_for_snapshot(self, record: _Peer, now: float) -> tuple[float, float]:
        """The rate: what the bound leaves, spread over the time that the snapshot will still take. And how
        long it will take at least: while it is made, twice as long as that has taken. Both follow from what
        is done so far, so a snapshot that slows down makes writes slower too.
        """
        done, spent = record.progress(), now - record.begun
        left = spent * (3 - done) / done
        rate = (self._limit * 15 / 16 - record.gap) / max(1.0, left)
        return rate, min(left, 2 * spent)

    def _rate_for_log(self, record: _Peer, now: float) -> tuple[float, float] | None:
        """The rate: three quarters of what it takes itself, so that it comes nearer. And how long that will
        take. None if it is not behind, or does not move.
        """
        samples, near = record.samples, self._limit / NEAR_PART
        if record.gap > self._limit / BEHIND_PART and not record.is_behind:
            record.is_behind = True
            samples.clear()  # it may have been up to date before, so what it took then says nothing
        if record.gap <= near:
            record.is_behind = False
            record.begin_anew()
        samples.append((now, self._sum(record.place)))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW_SECONDS:
            samples.popleft()
        if not record.is_behind:
            return None
        speed, is_early = record.speed(), now - samples[0][0] < WINDOW_SECONDS
        if speed is None or speed < self.least:
            return (0.0, 0.0) if is_early else None
        return speed * 3 / 4, 0.0 if is_early else (record.gap - near) / (speed / 4)

    # --- writing

    @property
    def room(self) -> int | None:
        """Bytes that may be proposed now; None: any number."""
        return None if self.rate is None else max(0, int(self._room))

    @property
    def spare(self) -> int:
        """Bytes of requests no larger than this that may be proposed while there is no room."""
        return int(self._spare)

    def spend(self, size: int) -> None:
        """So many bytes were proposed."""
        if self.rate is None:
            return
        if not self.room:
            self._spare = max(0.0, self._spare - size)
        self._room -= size

    def budget(self, most: int) -> tuple[int, bool]:
        """How many bytes of what waits may be proposed next, `most` at most; and whether there is no room, so
        that these are only for requests that fit into them.
        """
        if self.rate is None:
            return most, False
        room = max(0, int(self._room))
        return (min(most, room), False) if room else (min(most, self.spare), True)

    def hold(self) -> None:
        """Something had to wait because there was no room."""
        self._held = True

    @property
    def paced_to(self) -> int:
        """Bytes a second that are written at most; 0 while nothing waits for that."""
        return 0 if self.rate is None or not self.paced else max(1, int(self.rate))

    @property
    def paced(self) -> bool:
        """Something had to wait lately."""
        return self._held or (self._looked or 0.0) - self._held_at < LINGER_SECONDS

    def behind(self) -> list[Behind]:
        """The members that are brought up, or have not caught up, by id."""
        return [
            Behind(id_, peer.takes_snapshot, peer.sent, peer.size, peer.entries, peer.counts)
            for id_, peer in sorted(self._peers.items())
            if peer.is_sending or (peer.is_alive and peer.place and peer.gap > self._limit / NEAR_PART)
        ]
