"""Flags of the programs that netstore replaces, where it has no setting for them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ForeignFlag:
    """A flag of etcd or flanneld without a setting here.

    It is refused, so that nobody relies on an effect that it does not have. Values in `harmless` (None: all
    values) ask for what happens anyway, or for nothing that matters; they are accepted with a notice.
    """

    reason: str
    """Why there is no setting, or what to write instead; the end of the error text."""
    harmless: tuple[str, ...] | None = ()
    switch: bool = False
    """It takes a value only after `=`."""
    pattern: str = ""
    """Values that match this as a whole are harmless, too; empty: none besides `harmless`."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """Names that a value may switch as `NAME=VALUE,...`: why each has no effect here."""

    def why(self, value: str) -> str:
        """Why a value that is accepted has no effect."""
        named = re.findall(r"(\w+) *=", value)
        return "; ".join(f"{name}: {self.parts[name]}" for name in named if name in self.parts) or self.reason

    def takes(self, value: str) -> bool:
        """Whether the value is accepted."""
        if self.harmless is None or value in self.harmless:
            return True
        return bool(self.pattern) and re.fullmatch(self.pattern, value) is not None


NOT_YET: Final = "there is nothing like it yet; remove it"
"""The reason for features that may be added."""
