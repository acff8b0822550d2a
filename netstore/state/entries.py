"""Checks whether this release can apply a log entry, before its command is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import CannotApply, CorruptData, UnknownCommand
from netstore.state.commands import head_of
from netstore.state.display import payload_hash
from netstore.state.envelope import FORMAT, Envelope, read

if TYPE_CHECKING:
    from netstore.types import Index


def opened(payload: bytes, level: int, known_level: int) -> Envelope:
    """The envelope of an entry, in a cluster at feature level `level`, if this release may apply it.

    UnknownCommand if a later release may have written it; CorruptData if no release can have.
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
    """CannotApply if the entry is not the one that the operator told this member to skip."""
    if payload_hash(payload) != wanted:
        raise CannotApply(
            f"entry {index} of the log is not the one that --skip-entry was given: it has the hash"
            f" {payload_hash(payload)}, and {wanted} was to be skipped; remove the file"
            " skipped from the data folder"
        )


def too_new(index: Index, what: str) -> str:
    """The error message for an entry of a later version: why the member stops, and what to do."""
    return (
        f"entry {index} of the log: {what}; this member is older than the cluster: upgrade it to the version"
        f" of the others. If no version knows it: netstored --inspect-log {index}:{index} shows it, and"
        f" --skip-entry {index} passes over it"
    )
