"""Clients that watch v3 keys: each opens a stream at some member, with a watch or two, goes on at another one
from the revision after its last when the member ends, and begins anew where what it wants is compacted.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.watch.streams import MAX_BACKLOG, NO_WATCH, Selection
from tests.check.v3watches import PairWatch, Told

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from netstore.watch.streams import Stream
    from tests.sim.member import Member
    from tests.sim.world import World

RANGES: Final = (
    (b"\0", b"\0"),
    (b"k", b"l"),
    (b"k1", b"k3"),
    (b"k0", b""),
    (b"l", b"m"),
)
"""Everything, the keys of `pairload`, some of them, one, those with leases (`leaseload`)."""

ACT_SECONDS: Final = 0.6
"""Most between two things a client does with its stream."""


class PairWatches:
    """All of them, and what they were told."""

    def __init__(self, world: World, random: Random) -> None:
        self.watches: list[PairWatch] = []
        self.world = world
        self.random = random
        self.clients = [_Client(self) for _ in range(world.plan.pair_watchers)]

    def start(self) -> None:
        """From now on."""
        for client in self.clients:
            self.world.timeline.after(self.random.random(), client.open)

    def stop(self) -> None:
        """Nobody stops reading any more; watches go on."""
        for client in self.clients:
            client.go_on()


class _Client:
    """One client, with one stream at a time."""

    def __init__(self, load: PairWatches) -> None:
        self._load = load
        random = load.random
        self._selections = [
            Selection(*random.choice(RANGES), random.random() < 0.5, *_rarely(random))
            for _ in range(random.choice((1, 1, 2)))
        ]
        self._next = [0] * len(self._selections)
        """What each watch goes on from; 0 is the next change."""
        self._session: _Session | None = None

    def open(self) -> None:
        """A stream at some member."""
        member = self._load.world.workload.someone()
        self._session = _Session(self._load, member, self._selections, self._next, self.again)
        self._session.start()

    def again(self) -> None:
        """The stream has ended; another one a little later."""
        self._session = None
        self._load.world.timeline.after(0.01 + 0.1 * self._load.random.random(), self.open)

    def go_on(self) -> None:
        """Read, if it stopped reading."""
        if self._session is not None:
            self._session.read_on()


def _rarely(random: Random) -> tuple[bool, bool]:
    """Filters: neither puts nor deletions are left out, or one of them."""
    return random.choice(((False, False), (False, False), (False, False), (True, False), (False, True)))


class _Session:
    """One stream at one member: the `Sink` of what its watches are told."""

    def __init__(
        self,
        load: PairWatches,
        member: Member,
        selections: list[Selection],
        following: list[int],
        over: Callable[[], None],
    ) -> None:
        self._load = load
        self._member = member
        self._selections = selections
        self._next = following
        self._over = over
        self._open: dict[int, tuple[int, PairWatch]] = {}
        """Watches by the id the member gave them, with their place among the selections."""
        self._asked: list[tuple[int, PairWatch]] = []
        """Those not answered yet."""
        self._stream: Stream | None = None
        self._deliver: Callable[[Callable[[], None]], None] = _nowhere
        self.backlog = 0

    # --- what the client does

    def start(self) -> None:
        """Open the stream and ask for the watches."""
        self._member.stream_pairs(self, self._opened, self._ended)

    def _opened(self, stream: Stream, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._stream, self._deliver = stream, deliver
        for place, following in enumerate(self._next):
            self._load.world.reach["pair_watches_resumed"] += following > 0
            self._ask(place)
        if self._load.random.random() < 0.5:
            stream.progress()
        self._later()

    def _ask(self, place: int) -> None:
        random, load = self._load.random, self._load
        start = self._next[place]
        if not start:
            now = self._member.machine.mvcc.revision
            start = random.choice((0, 0, 1, max(1, now - 3), max(1, now - 20), now + 3))
        watch = PairWatch(self._selections[place], start, self._member.id, self._member.life)
        load.watches.append(watch)
        self._asked.append((place, watch))
        assert self._stream is not None
        self._stream.create(watch.selection, start, progress_notify=random.random() < 0.5)

    def _later(self) -> None:
        self._load.world.timeline.after(ACT_SECONDS * self._load.random.random(), self._act)

    def _act(self) -> None:
        if self._stream is None or self._load.world.workload.over:
            return
        random = self._load.random.random()
        if random < 0.3:
            self._do(self._stream.progress)
        elif random < 0.6:
            self._do(self._stream.tick)
        elif random < 0.8:
            self.backlog = MAX_BACKLOG + 1
        elif random < 0.97:
            self.read_on()
        else:
            self._do(self._leave)
        self._later()

    def read_on(self) -> None:
        """Take what waits."""
        self.backlog = 0
        if self._stream is not None:
            self._do(self._stream.drained)

    def _do(self, call: Callable[[], None]) -> None:
        self._member.enter(partial(self._done, self._stream, call))

    def _done(self, stream: Stream | None, call: Callable[[], None]) -> None:
        if stream is not None and stream is self._stream:
            call()
            self._member.flush()

    def _leave(self) -> None:
        stream = self._stream
        assert stream is not None
        stream.close()
        self._member.stream_closed(self)
        self._ended()

    def _ended(self) -> None:
        self._stream = None
        for _, watch in (*self._open.values(), *self._asked):
            watch.ended = True
        self._over()

    # --- Sink

    def send(
        self,
        watch_id: int,
        revision: int,
        events: bytes = b"",
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        reason: str = "",
        fragment: bool = False,
    ) -> None:
        """A response leaves the member; the client has it once that is flushed."""
        assert not reason, "nothing here is refused"
        assert not fragment, "nothing here asks for that"
        if created:
            call = partial(self._created, watch_id, revision)
        elif canceled:
            call = partial(self._canceled, watch_id, compact_revision)
        else:
            call = partial(self._told, watch_id, revision, events)
        self._deliver(call)

    def broken(self) -> None:
        """Nothing here breaks a response."""
        raise AssertionError("a response could not be made")

    def _created(self, watch_id: int, revision: int) -> None:
        place, watch = self._asked.pop(0)
        watch.opened_at = revision
        self._open[watch_id] = place, watch
        self._next[place] = watch.start

    def _canceled(self, watch_id: int, compacted: int) -> None:
        place, watch = self._open.pop(watch_id)
        watch.compacted, watch.ended = compacted, True
        self._load.world.reach["pair_watches_compacted"] += 1
        self._next[place] = compacted
        # Not at once: what is on its way here was said before the next watch is made.
        self._load.world.timeline.after(0.0, partial(self._do, partial(self._ask, place)))

    def _told(self, watch_id: int, revision: int, events: bytes) -> None:
        for id_, (place, watch) in self._open.items():
            if watch_id in {id_, NO_WATCH}:
                watch.told.append(Told(revision, events))
                self._next[place] = max(self._next[place], revision + 1)
                self._load.world.reach["pair_progress"] += not events


def _nowhere(_: Callable[[], None]) -> None:
    raise AssertionError("a response before the stream was opened")
