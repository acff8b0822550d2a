"""What is measured of the communication with other members."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from netstore.histogram import Histogram, doubling


@dataclass(slots=True)
class Traffic:
    """Messages to and from other members since this one started; snapshots are not counted."""

    appends_received: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    appends_sent: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0


@dataclass(slots=True)
class PeerCounts:
    """The communication with one other member since this one started."""

    sent: int = 0
    """Bytes of messages."""
    received: int = 0
    """Bytes of messages, and of what comes with them on the same stream."""
    dropped: int = 0
    """Batches of messages that were dropped because it did not take those before."""
    refused: int = 0
    """Streams of it that were cut because of what it sent."""
    lost: int = 0
    """Streams to it that broke."""
    copies_sent: int = 0
    """Copies of the state that it has taken."""
    copies_failed: int = 0
    """Copies of the state that it has not taken."""


ROUND_TRIP_BOUNDS: Final = doubling(0.0001, 16)
"""Upper bounds of the seconds that a round trip takes, as etcd has them."""


@dataclass(slots=True)
class RoundTrip:
    """Round-trip time to one member in seconds, as measured by pings since this member started, and how often
    dialing it failed.
    """

    successes: int = 0
    failures: int = 0
    current: float = 0.0
    average: float = 0.0
    least: float = 0.0
    most: float = 0.0
    _squares: float = 0.0
    seconds: Histogram = field(default_factory=lambda: Histogram(ROUND_TRIP_BOUNDS))
    """The measurements by size."""

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._squares / self.successes) if self.successes else 0.0

    def add(self, seconds: float) -> None:
        """Record a measurement (Welford's running sums)."""
        self.successes += 1
        self.seconds.observe(seconds)
        apart = seconds - self.average
        self.current = seconds
        self.average += apart / self.successes
        self._squares += apart * (seconds - self.average)
        self.least = min(self.least, seconds) if self.successes > 1 else seconds
        self.most = max(self.most, seconds)
