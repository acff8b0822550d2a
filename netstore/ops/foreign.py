"""Flags of the programs that netstore replaces, where it has no setting for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Foreign:
    """A flag of the program we stand in for that has no setting here.

    It is refused, so that nobody relies on what does not happen, unless its value is one of `harmless`
    (None: any value is), where nothing is lost and a notice says so. `reason` completes the sentence
    "--flag ...".
    """

    reason: str
    harmless: tuple[str, ...] | None = ()
    switch: bool = False


NOT_YET: Final = "there is nothing like it yet; remove it"
"""The reason for what may come."""
