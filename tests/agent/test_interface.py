"""The choice of interface and address."""

from __future__ import annotations

import pytest

from netstore.agent.interface import Addresses, Choice, NoInterfaceError, Preferences, choose_interface
from netstore.agent.kernel import Address, Link
from netstore.agent.routeplan import KernelRoute
from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.ipv6 import parse_ip6, show_ip6

LO, ETH0, ETH1 = Link(1, "lo", 65536, up=True), Link(2, "eth0", 1500, up=True), Link(3, "eth1", 9000, up=True)
LINKS = [LO, ETH0, ETH1]


def address(link: Link, ip: str, *, stable: bool = True) -> Address:
    return Address(link.ifindex, parse_ip(ip), 24, stable)


ADDRESSES = [
    address(LO, "127.0.0.1"),
    address(ETH0, "169.254.1.1"),
    address(ETH0, "192.168.77.99", stable=False),
    address(ETH0, "192.168.77.11"),
    address(ETH1, "10.8.0.5"),
]


def default(link: Link, metric: int) -> KernelRoute:
    return KernelRoute(Subnet(0, 0), parse_ip("192.168.77.1"), link.ifindex, 3, metric)


def pick(
    preferences: Preferences,
    routes: list[KernelRoute] | None = None,
    reach: tuple[int, int] | None = None,
) -> str:
    choice: Choice = choose_interface(preferences, LINKS, Addresses(ADDRESSES), routes or [], reach)
    return f"{choice.link.name} {show_ip(choice.address.ip)}"


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        (Preferences(names=("eth0",)), "eth0 192.168.77.11"),  # global and stable before the others
        (Preferences(names=("10.8.0.5",)), "eth1 10.8.0.5"),
        (Preferences(names=("169.254.1.1",)), "eth0 169.254.1.1"),
        (Preferences(names=("wlan0", "eth1", "eth0")), "eth1 10.8.0.5"),
        (Preferences(patterns=(r"^10\.8\.",)), "eth1 10.8.0.5"),
        (Preferences(patterns=("th1$",)), "eth1 10.8.0.5"),
        (Preferences(patterns=("1",)), "eth0 192.168.77.11"),  # addresses are tried before names
        (Preferences(names=("wlan0",), patterns=("nothing", "eth0")), "eth0 192.168.77.11"),
    ],
)
def test_preferences_in_flannels_order(preferences: Preferences, expected: str) -> None:
    assert pick(preferences) == expected


def test_the_default_route_with_the_lowest_metric() -> None:
    assert pick(Preferences(), [default(ETH0, 100), default(ETH1, 50)]) == "eth1 10.8.0.5"
    assert (
        pick(Preferences(), [KernelRoute(Subnet(0, 0), 0, 0, plain=False), default(ETH0, 7)])
        == "eth0 192.168.77.11"
    )


def test_the_interface_towards_an_address() -> None:
    preferences = Preferences(can_reach="10.8.0.9")
    assert pick(preferences, reach=(3, parse_ip("10.8.0.5"))) == "eth1 10.8.0.5"
    assert pick(preferences, reach=(2, parse_ip("1.2.3.4"))) == "eth0 192.168.77.11"


@pytest.mark.parametrize(
    ("preferences", "words"),
    [
        (Preferences(), "no default route; name an interface with --iface"),
        (Preferences(names=("wlan0",)), "matches --iface wlan0; there are: eth0 192.168.77.11"),
        (Preferences(names=("lo",)), "matches --iface lo"),
        (Preferences(can_reach="1.2.3.4"), "--iface-can-reach 1.2.3.4"),
    ],
)
def test_the_error_lists_the_interfaces_that_exist(preferences: Preferences, words: str) -> None:
    with pytest.raises(NoInterfaceError, match=words):
        pick(preferences)


def test_a_host_without_addresses() -> None:
    with pytest.raises(NoInterfaceError, match="there are: none"):
        choose_interface(Preferences(names=("eth0",)), LINKS, Addresses([]), [], None)


def address6(
    link: Link, ip: str, *, stable: bool = True, preferred: bool = True, length: int = 64
) -> Address:
    return Address(link.ifindex, parse_ip6(ip), length, stable, preferred)


ADDRESSES6 = [
    address6(LO, "::1", length=128),
    address6(ETH0, "fe80::1"),
    address6(ETH0, "fd77::a", stable=False, preferred=False),
    address6(ETH0, "fd77::b", stable=False),
    address6(ETH0, "fd77::11"),
    address6(ETH1, "fe80::2"),
    address6(ETH1, "fd88::7", stable=False, preferred=False),
    address6(ETH1, "fd88::5", stable=False),
]


def pick6(preferences: Preferences, reach: tuple[int, int] | None = None) -> str:
    found = choose_interface(preferences, LINKS, Addresses(ADDRESSES, ADDRESSES6), [default(ETH1, 1)], reach)
    words = "none" if found.address6 is None else show_ip6(found.address6.ip)
    return f"{found.link.name} {show_ip(found.address.ip)} {words}"


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        (Preferences(names=("eth0",)), "eth0 192.168.77.11 fd77::11"),  # permanent before all others
        (Preferences(), "eth1 10.8.0.5 fd88::5"),  # not temporary, as one that is made from the MAC
        (Preferences(names=("fd77::b",)), "eth0 192.168.77.11 fd77::b"),  # the one that was named
        (Preferences(names=("FD77:0::B",)), "eth0 192.168.77.11 fd77::b"),
        (Preferences(names=("fd99::1", "fe80::1", "eth1")), "eth1 10.8.0.5 fd88::5"),
        (Preferences(patterns=("^fd77::a$",)), "eth0 192.168.77.11 fd77::a"),
        (Preferences(patterns=("^fe80:", "th1")), "eth1 10.8.0.5 fd88::5"),
    ],
)
def test_the_addresses_of_both_families_are_of_one_interface(preferences: Preferences, expected: str) -> None:
    assert pick6(preferences) == expected


def test_the_interface_towards_an_ipv6_address() -> None:
    preferences = Preferences(can_reach="fd77::99")
    assert pick6(preferences, reach=(2, parse_ip6("fd77::b"))) == "eth0 192.168.77.11 fd77::b"
    assert pick6(preferences, reach=(3, parse_ip6("fe80::2"))) == "eth1 10.8.0.5 fd88::5"
    with pytest.raises(NoInterfaceError, match="--iface-can-reach fd77::99"):
        pick6(preferences)


def test_an_interface_without_a_usable_address_of_one_family() -> None:
    only_link_local = Addresses(ADDRESSES, [address6(ETH0, "fe80::1")])
    found = choose_interface(Preferences(names=("eth0",)), LINKS, only_link_local, [], None)
    assert found.address6 is None
    only_ipv6 = Addresses([], ADDRESSES6)
    with pytest.raises(NoInterfaceError, match="no interface with an IPv4 address"):
        choose_interface(Preferences(names=("fd77::11",)), LINKS, only_ipv6, [], None)
