"""IPv6 addresses and subnets, compared with the standard library's."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.ipv6 import (
    RESERVED6,
    Subnet6,
    is_link_local6,
    is_unicast6,
    parse_cidr6,
    parse_host_ip6,
    parse_ip6,
    reserved6,
    show_ip6,
)

ips = st.integers(0, 2**128 - 1) | st.integers(0, 2**16) | st.integers(0xFE80 << 112, (0xFE80 << 112) + 9)
lengths = st.integers(0, 128)


@given(ips)
def test_addresses_in_every_form_parse_to_what_the_standard_library_says(ip: int) -> None:
    twin = ipaddress.IPv6Address(ip)
    assert show_ip6(ip) == str(twin)
    assert parse_ip6(show_ip6(ip)) == parse_ip6(twin.exploded) == parse_ip6(twin.exploded.upper()) == ip
    assert is_link_local6(ip) == twin.is_link_local


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":::",
        "1.2.3.4",
        "fd00::1%eth0",
        "fd00::1/64",
        " fd00::1",
        "fd00::12345",
        "x::",
        "1::2::3",
        "\u0661::",
    ],
)
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an IPv6 address|has a zone"):
        parse_ip6(text)


def test_an_unbounded_text_is_not_repeated_in_full() -> None:
    with pytest.raises(ValueError, match="is not an IPv6 address") as caught:
        parse_ip6("f" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["::", "::1", "::ffff:10.0.0.1", "ff02::1"])
def test_some_addresses_no_host_has(text: str) -> None:
    assert not is_unicast6(parse_ip6(text))
    with pytest.raises(ValueError, match="is not an address of a host"):
        parse_host_ip6(text)


@pytest.mark.parametrize("text", ["2001:db8::1", "fd00::1", "fe80::1", "2a00:1450::1"])
def test_others_hosts_have(text: str) -> None:
    assert show_ip6(parse_host_ip6(text)) == text


@given(ips, lengths, ips, lengths)
def test_subnets_compare_as_in_the_standard_library(
    ip: int, length: int, other: int, other_length: int
) -> None:
    one, two = Subnet6.around(ip, length), Subnet6.around(other, other_length)
    twin = ipaddress.IPv6Network((ip, length), strict=False)
    twin2 = ipaddress.IPv6Network((other, other_length), strict=False)
    assert str(one) == str(twin)
    assert one.size == twin.num_addresses
    assert one.last == int(twin.broadcast_address)
    assert one.holds(other) == (ipaddress.IPv6Address(other) in twin)
    assert one.covers(two) == twin2.subnet_of(twin)
    assert one.overlaps(two) == two.overlaps(one) == twin.overlaps(twin2)


@given(ips, lengths)
def test_host_bits_are_refused_with_the_subnet_that_is_meant(ip: int, length: int) -> None:
    subnet = Subnet6.around(ip, length)
    assert Subnet6.exact(subnet.base, length) == subnet
    if ip != subnet.base:
        with pytest.raises(ValueError, match="host bits") as caught:
            Subnet6.exact(ip, length)
        assert str(subnet) in str(caught.value)


@given(ips, lengths)
def test_a_network_in_text_parses_back(ip: int, length: int) -> None:
    assert parse_cidr6(f"{show_ip6(ip)}/{length}") == (ip, length)


@pytest.mark.parametrize(
    "text", ["fd00::", "fd00::/", "fd00::/129", "fd00::/-1", "fd00::/0064", "10.0.0.0/8", "/64"]
)
def test_other_text_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv6"):
        parse_cidr6(text)


@given(ips, lengths)
def test_reserved_ranges_equal_a_full_comparison(ip: int, length: int) -> None:
    subnet = Subnet6.around(ip, length)
    twin = ipaddress.IPv6Network(str(subnet))
    overlapping = [what for each, what in RESERVED6 if ipaddress.IPv6Network(str(each)).overlaps(twin)]
    assert reserved6(subnet) == (overlapping[0] if overlapping else None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("::/0", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:a00:0/104", "IPv4-mapped"),
        ("fe80::/64", "link-local"),
        ("ff05::/16", "multicast"),
        ("100::/96", "discard-only"),
    ],
)
def test_some_ranges_are_not_for_pods(text: str, what: str) -> None:
    assert what in (reserved6(Subnet6.around(*parse_cidr6(text))) or "")


@pytest.mark.parametrize("text", ["2001:db8::/32", "fd00::/8", "fc00::/7", "2000::/3"])
def test_others_are(text: str) -> None:
    assert reserved6(Subnet6.around(*parse_cidr6(text))) is None
