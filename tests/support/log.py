"""Logs of tests (`netstore.seams.Log`)."""

from __future__ import annotations

from typing import Any


class AnyLevel:
    """A log that treats every level alike. A test's own says in `take` what becomes of a line."""

    def take(self, event: str, fields: dict[str, Any]) -> None:
        """A line was written. Nobody reads it."""

    def debug(self, event: str, **fields: Any) -> None:
        """Write a line."""
        self.take(event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Write a line."""
        self.take(event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write a line."""
        self.take(event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write a line."""
        self.take(event, fields)


class KeptLog(AnyLevel):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def take(self, event: str, fields: dict[str, Any]) -> None:
        """Keep the line."""
        self.lines.append((event, fields))

    @property
    def events(self) -> list[str]:
        """The event of each line."""
        return [event for event, _ in self.lines]

    def told(self, event: str) -> list[dict[str, Any]]:
        """The fields of each line with this event."""
        return [fields for name, fields in self.lines if name == event]
