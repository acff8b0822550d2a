"""The key that a path names."""

from __future__ import annotations

import pytest

from netstore.api.v2.paths import MAX_NAMES, PREFIX, key_of
from netstore.errors import Fault


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/v2/keys", b"/"),
        (b"/v2/keys/", b"/"),
        (b"/v2/keys/a", b"/a"),
        (b"/v2/keys/a/", b"/a"),
        (b"/v2/%6beys/a%2fb", b"/a/b"),
    ],
)
def test_the_key_of_a_path(path: bytes, key: bytes) -> None:
    assert key_of(path) == key


def test_how_deep_a_key_may_lie() -> None:
    assert key_of(PREFIX + b"/a" * MAX_NAMES) == b"/a" * MAX_NAMES
    with pytest.raises(Fault, match="256 names"):
        key_of(PREFIX + b"/a" * (MAX_NAMES + 1))
