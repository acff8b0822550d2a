"""The history that watches read; every other answer of it is held to the twin in `test_mvcc`."""

from __future__ import annotations

import pytest

from netstore.state.v3.commands import Compact, Put
from netstore.types import Revision
from tests.state.v3.both import Both


@pytest.mark.parametrize("swept", [False, True])
def test_a_change_at_the_compacted_revision_is_told_without_what_was_before(swept: bool) -> None:
    """The pair before it is what compaction took, whether it is still stored or not."""
    both = Both(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"), Compact(3))
    if swept:
        both.machine.sweep()
    both.save()
    both.load()
    told = both.history(Revision(3), b"\0", b"\0", 10)
    assert [(change[0], change[3] is None) for change in told] == [(3, True), (4, False)]
    assert told == both.history(Revision(3), b"a", b"", 10) == both.twin.history(3, b"a", b"")
