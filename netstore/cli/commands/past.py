"""Who held which subnet when: spans of holding, from the changes that a store still has. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from netstore.cli.commands.leases import both
from netstore.network.addresses import show_ip
from netstore.network.ipv6 import show_ip6
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
    subnet6: str | None
    public_ip: str | None
    public_ip6: str | None
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
            both(self.subnet, self.subnet6),
            both(self.public_ip, self.public_ip6) if self.problem is None else self.problem,
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
            "ipv6Subnet": self.subnet6,
            "publicIP": self.public_ip,
            "publicIPv6": self.public_ip6,
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


def concerns(change: Past, *, name: str | None, address: str | None) -> bool:
    """Whether a change is one of the entry with this name, or with this as the part of its name for one of
    its two subnets; or gives to or takes from the node with this address.
    """
    if not change.name:
        return True
    if name is not None:
        return name in (change.name, *change.name.split("&"))
    found = (parse_lease(change.name, value) for value in (change.value, change.previous))
    return any(isinstance(lease, SubnetLease) and address in _addresses(lease) for lease in found)


def _close(span: Span | None, change: Past, end: str) -> None:
    if span is not None:
        span.last, span.until, span.end = change.index, change.time, end


def _begun(name: str, value: str | None, index: int, time: float | None) -> Span:
    found = parse_lease(name, value)
    if isinstance(found, SubnetLease):
        subnet6 = None if found.subnet6 is None else str(found.subnet6)
        ip, ip6 = _addresses(found)
        return Span(name, str(found.subnet), subnet6, ip, ip6, found.backend_type or None, index, index, time)
    return Span(name, name, None, None, None, None, index, index, time, problem=found.reason)


def _holder(span: Span) -> tuple[str | None, str | None]:
    return span.public_ip, span.problem


def _addresses(lease: SubnetLease) -> tuple[str, str | None]:
    """Of its node, as they are shown."""
    ip6 = lease.public_ip6
    return show_ip(lease.public_ip), None if ip6 is None else show_ip6(ip6)


def _shown(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
