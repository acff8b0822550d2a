"""Addresses and subnets as integers, compared with the standard library."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, is_unicast, parse_cidr, parse_host_ip, parse_ip, show_ip

ips = st.integers(0, 2**32 - 1)
lengths = st.integers(0, 32)


@given(ips)
def test_a_formatted_address_parses_back(ip: int) -> None:
    assert show_ip(ip) == str(IPv4Address(ip))
    assert parse_ip(show_ip(ip)) == ip


@pytest.mark.parametrize(
    "text",
    ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.04", " 1.2.3.4", "1.2.3.-4", "1.2.3.٤", "::1", "a.b.c.d"],
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4 address"):
        parse_ip(text)


@given(st.text(alphabet="0123456789./-", max_size=20))
def test_any_text_parses_as_in_the_standard_library(text: str) -> None:
    try:
        expected = int(IPv4Address(text))
    except ValueError:
        with pytest.raises(ValueError, match="not an IPv4"):
            parse_ip(text)
    else:
        assert parse_ip(text) == expected


@pytest.mark.parametrize(
    "text", ["10.1.0.0", "10.1.0.0/", "10.1.0.0/33", "10.1.0.0/+8", "10.1.0.0/255.0.0.0", "/8", "fd00::/8"]
)
def test_invalid_networks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4"):
        parse_cidr(text)


@given(ips, lengths)
def test_the_subnet_around_an_address(ip: int, length: int) -> None:
    subnet = Subnet.around(ip, length)
    twin = IPv4Network((ip, length), strict=False)
    assert str(subnet) == str(twin)
    assert subnet.lease_name == str(twin).replace("/", "-")
    assert (subnet.size, subnet.last) == (twin.num_addresses, int(twin.broadcast_address))
    assert subnet.holds(ip)
    assert parse_cidr(str(subnet)) == subnet


@given(ips, lengths, ips, lengths)
def test_relations_of_subnets_equal_the_standard_librarys(a: int, one: int, b: int, other: int) -> None:
    first, second = Subnet.around(a, one), Subnet.around(b, other)
    twin, match = IPv4Network(str(first)), IPv4Network(str(second))
    assert first.overlaps(second) == twin.overlaps(match)
    assert first.covers(second) == match.subnet_of(twin)
    assert first.holds(b) == (IPv4Address(b) in twin)


@given(ips)
def test_unicast_addresses_equal_the_standard_librarys(ip: int) -> None:
    address = IPv4Address(ip)
    special = address.is_multicast or address.is_loopback or address.is_reserved
    assert is_unicast(ip) == (not special and ip >> 24 != 0)


@given(ips)
def test_a_host_address_is_unicast(ip: int) -> None:
    if is_unicast(ip):
        assert parse_host_ip(show_ip(ip)) == ip
    else:
        with pytest.raises(ValueError, match="not an address of a host"):
            parse_host_ip(show_ip(ip))


@given(ips, lengths)
def test_an_exact_subnet_has_no_host_bits(ip: int, length: int) -> None:
    subnet = Subnet.around(ip, length)
    assert Subnet.exact(subnet.base, length) == subnet
    if subnet.base != ip:
        with pytest.raises(ValueError, match=f"host bits; the subnet is {subnet}"):
            Subnet.exact(ip, length)
