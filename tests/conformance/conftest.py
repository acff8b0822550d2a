"""The two stores of the v3 suite: Debian's etcd shows that a test is right, netstored must pass it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

STORES = (
    pytest.param("etcd", marks=pytest.mark.peer),
    pytest.param("netstored"),
)

PROGRESS = "300ms"
"""How often idle watches that asked for it are told the revision."""


@pytest.fixture(scope="session")
def _etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    interval = f"--experimental-watch-progress-notify-interval={PROGRESS}"
    with start_etcd(tmp_path_factory.mktemp("etcd"), interval) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def _netstored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    interval = f"--watch-progress-notify-interval={PROGRESS}"
    with start_netstored(tmp_path_factory.mktemp("netstored"), interval) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=STORES)
def v3_daemon(request: pytest.FixtureRequest) -> Daemon:
    """A running store, shared by all tests of a worker: use keys of `space`."""
    daemon: Daemon = request.getfixturevalue(f"_{request.param}")
    return daemon


@pytest.fixture(scope="module")
def v3(v3_daemon: Daemon) -> Iterator[V3Client]:
    """A client of that store."""
    client = V3Client(v3_daemon.url)
    yield client
    client.close()


_numbers = itertools.count()


@pytest.fixture
def space() -> bytes:
    """A prefix that no other test of this worker uses."""
    return b"/space%d/" % next(_numbers)
