"""The settings of both programs for their logs, and the words they take."""

from __future__ import annotations

from typing import Final

from netstore.ops.kinds import Choice
from netstore.ops.settings import setting

LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "error": 40, "panic": 50, "fatal": 50}
"""etcd's words for severity, with their numbers in `logging`. Nothing is logged above error, so the last two
silence the log.
"""

FORMATS: Final = ("auto", "json", "console")


def log_level(*variables: str) -> str:
    """The field `log_level` of a configuration; `variables` are names besides its own."""
    return setting(Choice(tuple(LEVELS)), "info", "Least severity that is logged.", variables=variables)


def log_format(*variables: str) -> str:
    """The field `log_format` of a configuration; `variables` are names besides its own."""
    return setting(
        Choice(FORMATS),
        "auto",
        "Shape of log lines: key=value (console) or JSON; auto takes console on a terminal.",
        variables=variables,
    )
