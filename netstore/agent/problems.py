"""A log in which each problem appears once when it begins and once when it ends, however often it is met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.seams import Log

MAX_TOPICS: Final = 10_000
"""Open problems remembered; beyond that the oldest is forgotten and may be logged again."""

MAX_LINES: Final = 10
"""Log lines for problems of one kind that appear together; the rest is given as a number."""


CHANGE_INTERVAL: Final = 10.0
"""Minimum seconds between two lines about one name whose reason changes."""


class ProblemLog:
    """A log that remembers which problems are open. `topic` names what a problem is about."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open: dict[str, tuple[str, dict[str, Any]]] = {}

    @property
    def open(self) -> dict[str, str]:
        """The open problems: topic and event."""
        return {topic: event for topic, (event, _) in self._open.items()}

    def info(self, event: str, **fields: Any) -> None:
        """Log normal operation."""
        self._log.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log a warning each time."""
        self._log.warning(event, **fields)

    def report(self, topic: str, event: str, **fields: Any) -> None:
        """The topic has this problem: log it, unless event and fields are those reported last."""
        if self._open.get(topic) == (event, fields):
            return
        if len(self._open) >= MAX_TOPICS:
            del self._open[next(iter(self._open))]
        self._open[topic] = (event, fields)
        self._log.warning(event, **fields)

    def resolve(self, topic: str, event: str | None = None, **fields: Any) -> None:
        """The topic has no problem now; if it had one, `event` is logged."""
        if self._open.pop(topic, None) is not None and event is not None:
            self._log.info(event, **fields)


class ProblemList:
    """Problems of one kind, one for each name: logs which are new and which are over, in a few lines.

    `event` is logged for a new problem, `resolved` for those that are over. A reason that changes is logged
    by the first update that is `CHANGE_INTERVAL` after the line before.
    """

    def __init__(
        self,
        log: ProblemLog,
        event: str,
        resolved: str,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._log = log
        self._event = event
        self._resolved = resolved
        self._clock = clock
        self._told: dict[str, tuple[str, float]] = {}
        """The reason that was logged last for each problem, and when."""
        self.problems: dict[str, str] = {}

    def update(self, problems: dict[str, str]) -> None:
        """Replace the problems: name and reason."""
        if not problems and not self.problems:
            return  # as nearly always, and this is called after each change
        now = self._clock()
        new = {name: reason for name, reason in problems.items() if self._is_news(name, reason, now)}
        over = [name for name in self.problems if name not in problems]
        self.problems = dict(problems)
        for name in over:
            del self._told[name]
        self._told.update({name: (reason, now) for name, reason in new.items()})
        for name in list(new)[:MAX_LINES]:
            self._log.warning(self._event, name=name, reason=new[name])
        if len(new) > MAX_LINES:
            self._log.warning(self._event, more=len(new) - MAX_LINES)
        if over:
            shown = ", ".join(over[:MAX_LINES]) + ("" if len(over) <= MAX_LINES else ", ...")
            self._log.info(self._resolved, count=len(over), names=shown)

    def _is_news(self, name: str, reason: str, now: float) -> bool:
        if name not in self._told:
            return True
        told, when = self._told[name]
        return told != reason and now - when >= CHANGE_INTERVAL
