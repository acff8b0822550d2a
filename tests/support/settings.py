"""What an operator is told about the settings of a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from netstore.ops.layers import Layered


def refusal(layered: Layered[Any], *argv: str) -> str:
    """The one line with which these words are refused."""
    with pytest.raises(NetstoreError) as caught:
        layered.load(argv, {})
    text = str(caught.value)
    assert text.isprintable()
    return text


def told(layered: Layered[Any], *argv: str) -> str:
    """The one line with which these words are refused; empty if they are not."""
    try:
        layered.report(layered.load(argv, {}))
    except NetstoreError as error:
        return str(error)
    return ""
