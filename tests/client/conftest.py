"""A source that is begun anew with the ids that it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd
from tests.support.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon


@pytest.fixture(
    params=[pytest.param("etcd", marks=[pytest.mark.peer("etcd"), pytest.mark.slow]), "netstored"]
)
def twins(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Twins]:
    with start_netstored(tmp_path) as target:
        twins = Twins(tmp_path / "source", target, start_etcd if request.param == "etcd" else start_netstored)
        yield twins
        twins.end()


@pytest.fixture
def alike(tmp_path: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """Two stores that were begun with the same flags, so that they have the same ids."""
    peer = "http://localhost:2380"  # others are told it; they listen elsewhere
    flags = ("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with (
        start_netstored(tmp_path / "one", *flags) as one,
        start_netstored(tmp_path / "other", *flags) as other,
    ):
        yield one, other
