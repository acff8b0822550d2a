"""Documents that are nested too deep to be shown are known before they are decoded."""

from __future__ import annotations

import pytest

from netstore.network.depth import MAX_DEPTH, is_deep


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, False),
        ("[" * (MAX_DEPTH + 1), True),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), True),
        ("[" + "[]," * 1000 + "[]]", False),
        ('{"a":"' + "[{" * 1000 + '"}', False),
        ('{"a":"\\"' + "[" * 1000 + '"}', False),
        ('{"a":"\\\\"' + ',"b":[' * (MAX_DEPTH + 1), True),
        ('"' + "[" * 1000, False),
        ("[" * 1_000_000, True),
    ],
)
def test_depth(text: str, deep: bool) -> None:
    assert is_deep(text.encode()) is deep
