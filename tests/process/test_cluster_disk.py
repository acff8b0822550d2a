"""A member of a running cluster whose disk fills up: nobody else notices, and it heals by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.support.cluster import Members, converged, get, healthy, put, write
from tests.support.disks import small_disk
from tests.support.patience import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.root]

DISK_MIB: Final = 140
"""Two segments of the log and a little more."""

VALUE: Final = "v" * 500_000


def test_a_full_disk_of_one_member_stops_nobody_else_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "c.data", DISK_MIB), Members(tmp_path) as cluster:
        full = cluster["c"]
        if cluster.leader() == "c":
            full.stop()
            full.start_again()
        ballast = tmp_path / "c.data" / "ballast"

        def is_full(round_: list[int] = [0]) -> bool:  # noqa: B006 - counts the rounds
            round_[0] += 1
            with ballast.open("ab", buffering=0) as file:
                try:
                    file.write(bytes(8 << 20))
                    file.flush()
                except OSError:
                    pass
            write(cluster["a"], f"large-{round_[0] % 20}", VALUE)
            return "not_writable" in full.log

        until(is_full, "the member finds no room")
        assert put(full, "refused", "1").body["cause"] == "etcdserver: no space left on device"
        assert not healthy(full)
        write(cluster["a"], "meanwhile", "1")
        assert get(full, "large-1") is not None, "reads go on"
        ballast.unlink()
        until(lambda: healthy(full), "it goes on once there is room")
        converged(cluster, "meanwhile", "1")
        write(full, "healed", "1")
        converged(cluster, "healed", "1")
        assert full.process.poll() is None
