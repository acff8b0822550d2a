"""What an agent reports of its backends, under `PREFIX/plugins/PUBLIC-IP`. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from netstore.errors import NetstoreError
from netstore.network.words import in_words

FOLDER: Final = "plugins"
"""Where reports are, below the prefix of the network."""

TTL_SECONDS: Final = 3_600
"""A report of an agent that is gone goes after this time."""

MAX_REPORT_BYTES: Final = 16 * 1024
MAX_INSTALLED: Final = 64
"""Backends in one report."""


class Installed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backend that the agent finds. `problem` says why it cannot run; `wheel` is the SHA-256 of the wheel
    that the agent installed it from, empty for what the operator installed.
    """

    name: str
    version: str = ""
    wheel: str = ""
    problem: str = ""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """The backends of one node: `node` is its host name, `agent` the agent's version, `running` the backend
    that runs. `migrates` tells that the agent follows migrations.
    """

    node: str
    agent: str
    running: str = ""
    installed: tuple[Installed, ...] = ()
    migrates: bool = False


_decoder: Final = msgspec.json.Decoder(Report)


def encode_report(report: Report) -> str:
    """The report as it is stored; without some of the installed backends if it would be too long."""
    installed = report.installed[:MAX_INSTALLED]
    text = msgspec.json.encode(msgspec.structs.replace(report, installed=installed))
    while len(text) > MAX_REPORT_BYTES and installed:
        installed = installed[: len(installed) // 2]
        text = msgspec.json.encode(msgspec.structs.replace(report, installed=installed))
    return text.decode()


def parse_report(text: str) -> Report:
    """The report in a stored value. NetstoreError if it is none."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise NetstoreError(
            f"not the report of an agent ({in_words(error)}); it is written again within the hour"
        ) from None
