"""A small Kubernetes control plane at work, on Debian's etcd and on netstored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd
from tests.support.v3kubernetes import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("store", [pytest.param("etcd", marks=pytest.mark.peer), "netstored"])
def test_a_control_plane(tmp_path: Path, store: str) -> None:
    with start_etcd(tmp_path) if store == "etcd" else start_netstored(tmp_path) as daemon:
        # Progress on request is true from etcd 3.4.25 on; Debian's is older.
        outcome = run(daemon.url, nodes=24, rounds=5, trust_progress=store == "netstored")
        assert outcome.events >= 2 * 24 * 5 * 6
