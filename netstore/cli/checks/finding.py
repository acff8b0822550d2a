"""A finding of `netstorectl doctor`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """How something stands."""

    OK = "ok"
    ABSENT = "absent"
    """It does not apply to this machine, such as the disk of a store that does not run here."""
    WARNING = "warning"
    """It works, and may not in all cases."""
    UNKNOWN = "unknown"
    """It could not be read."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one subject, and what to do about it; empty if nothing is to be done."""

    subject: str
    state: State
    told: str
    advice: str = ""


def ok(subject: str, told: str) -> Finding:
    """It is as it should be."""
    return Finding(subject, State.OK, told)


def absent(subject: str, told: str) -> Finding:
    """It does not apply here."""
    return Finding(subject, State.ABSENT, told)


def warning(subject: str, told: str, advice: str) -> Finding:
    """It works, and may not in all cases."""
    return Finding(subject, State.WARNING, told, advice)


def unknown(subject: str, told: str, advice: str) -> Finding:
    """It could not be read."""
    return Finding(subject, State.UNKNOWN, told, advice)


def wrong(subject: str, told: str, advice: str) -> Finding:
    """It has to be changed."""
    return Finding(subject, State.WRONG, told, advice)
