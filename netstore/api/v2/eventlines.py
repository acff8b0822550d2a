"""Large events as lines of JSON, rendered once for both the answer and the watchers.

Whichever of them needs a part first renders it. A line is kept until its event has been sent to watchers and
its answer has been sent. The amount kept is bounded (`EventLines`); beyond that an event is rendered twice,
once for its answer and once for its watchers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.api.v2.render import Part
    from netstore.types import Event

MOST_SHARED: Final = 4 * 1024 * 1024
"""Bytes of values (`Event.size`) whose lines are kept; a line is at most six times as long."""


class EventLine:
    """An event as one line of JSON, in parts: joining those of a large event takes too long."""

    __slots__ = ("_lines", "_made", "_parts", "event", "failed", "published", "readers")

    def __init__(self, event: Event, parts: Iterator[Part], lines: EventLines | None = None) -> None:
        self.event = event
        self.readers = 0
        """Answers that have not read all of it."""
        self.published = False
        """It, or a later event, was sent to watchers."""
        self.failed = False
        """Rendering a part raised: the line stays incomplete."""
        self._lines = lines
        self._parts = parts
        self._made: list[bytes] = []

    @property
    def made(self) -> list[bytes]:
        """The parts rendered so far."""
        return self._made

    def read(self) -> Iterator[Part]:
        """All parts, from the first. A byte of a part that was rendered before counts as a unit of work, for
        it is joined.
        """
        self.readers += 1
        try:
            made = 0
            while True:
                if made < len(self._made):
                    part = self._made[made]
                    work = len(part)
                elif (following := self._make_part()) is not None:
                    part, work = following
                else:
                    return
                made += 1
                yield part, work
        finally:
            self.readers -= 1
            if self.published and not self.readers and self._lines is not None:
                self._lines.drop(self)

    def make(self) -> Iterator[int]:
        """Render the parts that are missing, unless it has `failed`; yields the work of each part."""
        while not self.failed and (following := self._make_part()) is not None:
            yield following[1]

    def _make_part(self) -> Part | None:
        """The next part, None at the end. Raises if it raised before."""
        if self.failed:
            raise RuntimeError("the line could not be made")
        try:
            following = next(self._parts, None)
            if following is not None:
                self._made.append(following[0])
        except BaseException:
            self.failed = True
            raise
        return following


class EventLines:
    """Lines of events that were answered. Each is kept until its event has been sent to watchers and no
    answer reads it. `most` bounds the bytes of their values. Every call is O(lines), which are of more than
    16 KiB each.
    """

    def __init__(self, most: int = MOST_SHARED) -> None:
        self._most = most
        self._lines: list[EventLine] = []
        """The oldest first."""
        self._size = 0

    def share(self, event: Event, parts: Iterator[Part]) -> EventLine | None:
        """The line of an event that is answered; None if there is no room to keep it. Lines that no answer
        reads make room, the oldest first, if that is enough.
        """
        if sum(line.event.size for line in self._lines if line.readers) + event.size > self._most:
            return None
        for line in [line for line in self._lines if not line.readers]:
            if self._size + event.size <= self._most:
                break
            self.drop(line)
        line = EventLine(event, parts, self)
        self._lines.append(line)
        self._size += event.size
        return line

    def take(self, event: Event) -> EventLine | None:
        """The line of an event that is sent to watchers now, if it is kept. This line, and those of earlier
        events, are kept no longer than answers read them.
        """
        found = next((line for line in self._lines if line.event is event), None)
        for line in [line for line in self._lines if line.event.index <= event.index]:
            line.published = True
            if not line.readers:
                self.drop(line)
        return found

    def drop(self, line: EventLine) -> None:
        """Keep a line no longer."""
        self._lines.remove(line)
        self._size -= line.event.size
