"""Whether this release can apply an entry of the log; judged before its command is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import CannotApply, CorruptData, UnknownCommand
from netstore.state.commands import head_of
from netstore.state.envelope import FORMAT, Envelope, read
from netstore.state.words import payload_hash

if TYPE_CHECKING:
    from netstore.types import Index


def opened(payload: bytes, level: int, known_level: int) -> Envelope:
    """An entry in its envelope, in a cluster at this feature level.

    UnknownCommand when a later release may have written it; CorruptData when none can have.
    """
    envelope = read(payload)
    if envelope.format > FORMAT:
        raise UnknownCommand(f"an entry of format {envelope.format}, and {FORMAT} is known")
    if envelope.format != FORMAT:
        raise CorruptData(f"an entry of format {envelope.format}, which never was")
    if envelope.level > known_level:
        number, _ = head_of(envelope.command) or (0, 0)
        raise UnknownCommand(
            f"command {number} of feature level {envelope.level}, and {known_level} is known"
        )
    if envelope.level > level:
        raise CorruptData(f"feature level {envelope.level} in a cluster at {level}")
    return envelope


def check_skipped(index: Index, payload: bytes, wanted: str) -> None:
    """CannotApply where the entry is not the one that an operator has this member pass over."""
    if payload_hash(payload) != wanted:
        raise CannotApply(
            f"entry {index} of the log is not the one that --skip-entry was given: it has the hash"
            f" {payload_hash(payload)}, and {wanted} was to be skipped; remove the file"
            " skipped from the data folder"
        )


def too_new(index: Index, what: str) -> str:
    """Why this member stops at an entry, and what its operator can do."""
    return (
        f"entry {index} of the log: {what}; this member is older than the cluster: upgrade it to the version"
        f" of the others. If no version knows it: netstored --inspect-log {index}:{index} shows it, and"
        f" --skip-entry {index} passes over it"
    )
