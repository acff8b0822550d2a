"""What makes a node not ready, and which reason is told."""

from __future__ import annotations

import errno

import pytest

from netstore.agent.kernel import Address
from netstore.agent.readiness import Readiness, Result, routes_fault, verbose
from netstore.network.addresses import parse_ip

ADDRESS = Address(2, parse_ip("192.168.77.11"), 24)
ALONE = Address(2, parse_ip("192.168.77.11"), 32)


def test_the_first_check_that_fails_tells_the_reason() -> None:
    readiness = Readiness()
    assert readiness.not_ready() is None
    readiness.add("link", lambda: None)
    readiness.add("lease", lambda: "no subnet")
    readiness.add("routes", lambda: "no routes")
    assert readiness.not_ready() == "no subnet"
    assert readiness.results() == [
        Result("link", None),
        Result("lease", "no subnet"),
        Result("routes", "no routes"),
    ]
    readiness.add("lease", lambda: None)
    assert readiness.not_ready() == "no routes"
    assert [name for name, _ in readiness.results()] == ["link", "lease", "routes"]


def test_the_verbose_text_has_a_line_for_each_check() -> None:
    assert verbose([Result("link", None)]) == "[+] link\nready\n"
    assert verbose([Result("link", None), Result("lease", "no subnet")]) == (
        "[+] link\n[-] lease: no subnet\nnot ready: 1 of 2 checks fail\n"
    )


@pytest.mark.parametrize(
    ("rejected", "wanted", "address", "reason"),
    [
        ([], 3, ADDRESS, None),
        ([errno.ENETUNREACH], 3, ADDRESS, None),
        ([errno.ENETUNREACH] * 3, 3, ADDRESS, None),
        ([errno.ENETUNREACH] * 2, 3, ALONE, None),
        ([errno.EHOSTUNREACH] * 3, 3, ALONE, "none of the 3 next hops is on-link"),
        ([errno.ENETUNREACH, errno.EPERM], 3, ADDRESS, "1 of 3 peers: the agent needs CAP_NET_ADMIN"),
        ([errno.ENOMEM], 1, ADDRESS, "1 of 1 peers: Cannot allocate memory"),
    ],
)
def test_a_rejected_route_is_a_fault_of_the_node_or_of_the_lease(
    rejected: list[int], wanted: int, address: Address, reason: str | None
) -> None:
    found = routes_fault(rejected, wanted, address)
    assert found is None if reason is None else reason in str(found)
