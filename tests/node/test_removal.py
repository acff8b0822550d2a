"""A member that was removed stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from netstore.node.removal import Expelled, Removal
from tests.support.member import Solo


def test_a_member_that_its_log_says_is_removed_stops() -> None:
    member = Solo().lead()
    removal = Removal(member.host, Path("/data"))
    removal.look()
    member.host.turn()
    member.host.machine.roster.removed.add(member.host.id)
    removal.look()
    with pytest.raises(Expelled, match=r"member 7 was removed .* \(as its own log says\) .* remove /data"):
        member.host.turn()
