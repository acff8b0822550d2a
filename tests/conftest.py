"""Rules for every test: what may be skipped and why, how far properties search, that nothing leaves here.

A marker names what a test needs. Where that is absent the test is skipped with the reason; but under `CI` a
missing peer is a failure, because a comparison that silently never runs proves nothing.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_timeout  # type: ignore[import-untyped]  # it has no types
from hypothesis import HealthCheck, settings

from tests.support.patience import seconds
from tests.support.peers import missing
from tests.support.units import UnitScheduling

ROOT: Final = Path(__file__).resolve().parents[1]
REFERENCE: Final = ROOT.parent / "shared" / "reference"

DEFAULT_PEERS: Final = ("etcd", "etcdctl")
"""What a bare `@pytest.mark.peer` means; a test that needs others names them, as in `peer("mandoc")`."""

IN_CI: Final = os.environ.get("CI", "").lower() in {"1", "true"}

# No profile judges how long an example takes: that says more about what else the machine does.
settings.register_profile(
    "local", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "ci",
    settings.get_profile("local"),
    max_examples=100,
    derandomize=True,  # a change is judged by what it changes, not by the luck of the run that lands it
    database=None,
)
settings.register_profile("thorough", settings.get_profile("local"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "local"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here; each reason says what would make it run."""
    _border.open = item.get_closest_marker("root") is not None  # also for fixtures of the module
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces or mounts")
    if item.get_closest_marker("shared") and not REFERENCE.is_dir():
        pytest.skip("needs the reference material in ../shared/reference")
    for marker in item.iter_markers("peer"):
        reason = missing(*(marker.args or DEFAULT_PEERS))
        if reason and IN_CI:
            pytest.fail(reason, pytrace=False)
        if reason:
            pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """The limit of a whole test grows with the load of the machine, too."""
    limit = settings._replace(timeout=seconds(settings.timeout))
    return bool(pytest_timeout.pytest_timeout_set_timer(item, limit))


def pytest_collection_finish() -> None:
    """What was imported and collected lives as long as the process: no look for garbage goes through it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> UnitScheduling:
    """What workers get at a time."""
    return UnitScheduling(config, log)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the recorded exchanges of a real etcd; only for tests marked `shared`."""
    return REFERENCE


class _Border:
    """Refuses connections that would leave this machine, unless the test makes network namespaces."""

    def __init__(self) -> None:
        self.open = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in {"socket.connect", "socket.sendto", "socket.getaddrinfo"} or self.open:
            return
        place = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = place[0] if isinstance(place, tuple) and place else place
        if isinstance(host, str) and not _stays_here(host):
            raise RuntimeError(
                f"a test tried to reach {host!r}: only loopback is allowed, save for tests marked root"
            )


def _stays_here(host: str) -> bool:
    if host in {"", "localhost"} or host.startswith(("/", "\0")):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


_border = _Border()
sys.addaudithook(_border)
