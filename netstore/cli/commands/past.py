"""Who held which subnet when: spans of holding, from the changes that a store still has. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from netstore.network.addresses import show_ip
from netstore.network.lease import SubnetLease, parse_lease

if TYPE_CHECKING:
    from netstore.client.subnetstore import History, Past

HEADINGS: Final = (
    "SUBNET",
    "PUBLIC IP",
    "BACKEND",
    "FROM",
    "SINCE",
    "TO",
    "UNTIL",
    "WRITES",
    "END",
)

HOLDS: Final = "holds it now"
_ENDS: Final = {True: "expired", False: "removed", None: "removed or expired"}


@dataclass(slots=True)
class Span:
    """One holder of one entry, from index `first` to `last`, of all writes in between. Times are seconds
    since 1970, None if the store does not keep them. `known_start` is False if it was held before the first
    change that the store has.
    """

    name: str
    subnet: str
    public_ip: str | None
    backend: str | None
    first: int
    last: int
    since: float | None = None
    until: float | None = None
    known_start: bool = True
    writes: int = 1
    end: str = HOLDS
    problem: str | None = None

    def row(self) -> tuple[str | int | None, ...]:
        """Its cells in the order of `HEADINGS`."""
        start = str(self.first) if self.known_start else f"<={self.first}"
        return (
            self.subnet,
            self.public_ip if self.problem is None else self.problem,
            self.backend,
            start,
            _shown(self.since),
            self.last if self.end != HOLDS else None,
            _shown(self.until),
            self.writes,
            self.end,
        )

    def content(self) -> dict[str, object]:
        """Its JSON document."""
        return {
            "name": self.name,
            "subnet": self.subnet,
            "publicIP": self.public_ip,
            "backendType": self.backend,
            "fromIndex": self.first,
            "fromIsKnown": self.known_start,
            "since": _shown(self.since),
            "toIndex": None if self.end == HOLDS else self.last,
            "until": _shown(self.until),
            "writes": self.writes,
            "end": self.end,
            "problem": self.problem,
        }


def spans(history: History) -> list[Span]:
    """All spans, in the order of their beginning. O(n) for n changes."""
    done: list[Span] = []
    held: dict[str, Span] = {}
    for entry in history.before:
        span = _begun(entry.name, entry.value, entry.modified, None)
        span.known_start = False
        held[entry.name] = span
        done.append(span)
    for change in history.changes:
        if change.value is None:
            names = [change.name] if change.name else list(held)
            for name in names:
                _close(held.pop(name, None), change, _ENDS[change.expired])
            continue
        span = _begun(change.name, change.value, change.index, change.time)
        present = held.get(change.name)
        if present is not None and _holder(present) == _holder(span):
            present.last, present.writes, present.backend = change.index, present.writes + 1, span.backend
            continue
        _close(present, change, f"taken by {span.public_ip or 'a record that is no lease'}")
        held[change.name] = span
        done.append(span)
    return done


def concerns(change: Past, *, name: str | None, public_ip: int | None) -> bool:
    """Whether a change is one of the entry with this name, or gives to or takes from this node."""
    if not change.name:
        return True
    if name is not None:
        return change.name == name
    return public_ip in (_ip(change.name, change.value), _ip(change.name, change.previous))


def _close(span: Span | None, change: Past, end: str) -> None:
    if span is not None:
        span.last, span.until, span.end = change.index, change.time, end


def _begun(name: str, value: str | None, index: int, time: float | None) -> Span:
    found = parse_lease(name, value)
    if isinstance(found, SubnetLease):
        ip, backend = show_ip(found.public_ip), found.backend_type or None
        return Span(name, str(found.subnet), ip, backend, index, index, time)
    return Span(name, name, None, None, index, index, time, problem=found.reason)


def _holder(span: Span) -> tuple[str | None, str | None]:
    return span.public_ip, span.problem


def _ip(name: str, value: str | None) -> int | None:
    found = parse_lease(name, value)
    return found.public_ip if isinstance(found, SubnetLease) else None


def _shown(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
