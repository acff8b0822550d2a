"""The paths and times of commands of the v2 API; their bytes are in `tests/state/test_commands.py`."""

from __future__ import annotations

import pytest

from netstore.errors import CorruptData
from netstore.state.commands import decode, encode
from netstore.state.v2 import commands as v2
from netstore.state.v2.commands import Set
from netstore.types import Nanos

NOW = Nanos(1_795_000_000 * 10**9)


@pytest.mark.parametrize("path", [b"", b"a", b"//", b"/a/", b"/a//b", b"a/b"])
def test_only_canonical_paths_are_commands(path: bytes) -> None:
    with pytest.raises(CorruptData, match="not canonical"):
        decode(encode(Set(path)))


@pytest.mark.parametrize(
    ("seconds", "after"),
    [(0, 0), (1, 10**9), (86_400, 86_400 * 10**9), (2**64 - 1, v2.LATEST - NOW)],
)
def test_expiry_is_absolute_and_ends_where_time_does(seconds: int, after: int) -> None:
    assert v2.expiry(NOW, seconds) - NOW == after
    assert decode(encode(Set(b"/a", expires=v2.expiry(NOW, seconds))))
