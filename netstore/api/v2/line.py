"""Large events as lines of JSON: made once for all who are told of them, the client that is answered and the
watchers.

Whoever needs a piece first makes it. What is made is kept until the event is told and its answer is sent, so
there is a bound on it (`Lines`): beyond that an event is made once for its answer and once for its watchers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.api.v2.render import Part
    from netstore.types import Event

MOST_SHARED: Final = 4 * 1024 * 1024
"""Bytes of values (`Event.size`) whose lines are kept to be shared; a line is at most six times as long."""


class Line:
    """An event as one line of JSON, in parts: to join those of a large one takes too long."""

    __slots__ = ("_lines", "_made", "_parts", "event", "failed", "readers", "told")

    def __init__(self, event: Event, parts: Iterator[Part], lines: Lines | None = None) -> None:
        self.event = event
        self.readers = 0
        """Answers that are not at its end."""
        self.told = False
        """It, or a later event, is told to watchers."""
        self.failed = False
        """To make it raised, at whoever needed the next part first: it has no end."""
        self._lines = lines
        self._parts = parts
        self._made: list[bytes] = []

    @property
    def made(self) -> list[bytes]:
        """What is made of it so far."""
        return self._made

    def read(self) -> Iterator[Part]:
        """All of it, from its beginning. Of what is made already a byte is a unit of work: it is joined."""
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
            if self.told and not self.readers and self._lines is not None:
                self._lines.drop(self)

    def make(self) -> Iterator[int]:
        """Make what is not made yet, unless it has `failed`; gives the work of each part."""
        while not self.failed and (following := self._make_part()) is not None:
            yield following[1]

    def _make_part(self) -> Part | None:
        """The next part, None at the end. Once that raised it does so again."""
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


class Lines:
    """Lines of events that were answered, until they are told and nobody reads them. `most` bounds the bytes
    of their values. Every call is O(lines), which are of more than 16 KiB each.
    """

    def __init__(self, most: int = MOST_SHARED) -> None:
        self._most = most
        self._lines: list[Line] = []
        """The oldest first."""
        self._size = 0

    def share(self, event: Event, parts: Iterator[Part]) -> Line | None:
        """The line of an event that is answered; None where there is no room to keep it. The oldest that
        nobody reads make room, if that is enough.
        """
        if sum(line.event.size for line in self._lines if line.readers) + event.size > self._most:
            return None
        for line in [line for line in self._lines if not line.readers]:
            if self._size + event.size <= self._most:
                break
            self.drop(line)
        line = Line(event, parts, self)
        self._lines.append(line)
        self._size += event.size
        return line

    def take(self, event: Event) -> Line | None:
        """The line of an event that is told now. It is kept here no longer than it is read, and so are those
        of events before it.
        """
        found = next((line for line in self._lines if line.event is event), None)
        for line in [line for line in self._lines if line.event.index <= event.index]:
            line.told = True
            if not line.readers:
                self.drop(line)
        return found

    def drop(self, line: Line) -> None:
        """Keep it no longer."""
        self._lines.remove(line)
        self._size -= line.event.size
