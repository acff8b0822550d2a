"""What the agent tells people: each problem once, and once more when it is over."""

from __future__ import annotations

from typing import Any, Final, Protocol

MAX_TOPICS: Final = 10_000
"""Open problems remembered; with more, the oldest may be told again."""

MAX_LINES: Final = 10
"""Lines for problems of one kind that appear together; the rest is a number."""


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **fields: Any) -> Any:
        """Something happened as it should."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Something is wrong and somebody should know."""


class Journal:
    """A log that remembers which problems are open. `topic` names what a problem is about."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open: dict[str, tuple[str, dict[str, Any]]] = {}

    @property
    def open(self) -> dict[str, str]:
        """Problems that are not over: topic and event."""
        return {topic: event for topic, (event, _) in self._open.items()}

    def info(self, event: str, **fields: Any) -> None:
        """Something happened as it should."""
        self._log.info(event, **fields)

    def warn(self, event: str, **fields: Any) -> None:
        """Something is wrong, told each time."""
        self._log.warning(event, **fields)

    def problem(self, topic: str, event: str, **fields: Any) -> None:
        """Tell it unless the topic's problem is this one already, word for word."""
        if self._open.get(topic) == (event, fields):
            return
        if len(self._open) >= MAX_TOPICS:
            del self._open[next(iter(self._open))]
        self._open[topic] = (event, fields)
        self._log.warning(event, **fields)

    def over(self, topic: str, event: str | None = None, **fields: Any) -> None:
        """The topic has no problem any more; `event` is told if it had one."""
        if self._open.pop(topic, None) is not None and event is not None:
            self._log.info(event, **fields)


class Roll:
    """Problems of one kind by name, one lease each: tells what is new and what is over, in few lines."""

    def __init__(self, journal: Journal, event: str, over: str) -> None:
        self._journal = journal
        self._event = event
        self._over = over
        self.problems: dict[str, str] = {}

    def call(self, problems: dict[str, str]) -> None:
        """These are the problems now: name and reason."""
        new = {name: reason for name, reason in problems.items() if self.problems.get(name) != reason}
        gone = [name for name in self.problems if name not in problems]
        self.problems = dict(problems)
        for name in list(new)[:MAX_LINES]:
            self._journal.warn(self._event, name=name, reason=new[name])
        if len(new) > MAX_LINES:
            self._journal.warn(self._event, more=len(new) - MAX_LINES)
        if gone:
            shown = ", ".join(gone[:MAX_LINES]) + ("" if len(gone) <= MAX_LINES else ", ...")
            self._journal.info(self._over, count=len(gone), names=shown)
