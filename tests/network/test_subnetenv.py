"""The text of subnet.env: flannel's format, parsed back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_cidr
from netstore.network.ipv6 import Subnet6, parse_cidr6
from netstore.network.subnetenv import SubnetEnv, encode_subnet_env, parse_subnet_env

NETWORK, SUBNET = Subnet.exact(*parse_cidr("10.23.0.0/16")), Subnet.exact(*parse_cidr("10.23.42.0/24"))
NETWORK6 = Subnet6.exact(*parse_cidr6("fd23::/48"))
SUBNET6 = Subnet6.exact(*parse_cidr6("fd23:0:0:2::/64"))


@pytest.mark.parametrize(("ip_masq", "word"), [(False, "false"), (True, "true")])
def test_fields_have_flannels_names_and_order(ip_masq: bool, word: str) -> None:
    assert encode_subnet_env(NETWORK, SUBNET, 1500, ip_masq=ip_masq) == (
        "FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET=10.23.42.1/24\nFLANNEL_MTU=1500\n"
        f"FLANNEL_IPMASQ={word}\n"
    )
    assert encode_subnet_env(NETWORK, SUBNET, 1450, ip_masq=False, ipv6=(NETWORK6, SUBNET6)) == (
        "FLANNEL_NETWORK=10.23.0.0/16\n"
        "FLANNEL_SUBNET=10.23.42.1/24\n"
        "FLANNEL_IPV6_NETWORK=fd23::/48\n"
        "FLANNEL_IPV6_SUBNET=fd23:0:0:2::1/64\n"
        "FLANNEL_MTU=1450\n"
        "FLANNEL_IPMASQ=false\n"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", SubnetEnv()),
        ('FLANNEL_NETWORK=10.23.5.6/16\nFLANNEL_SUBNET="10.23.42.1/24"\n', SubnetEnv(NETWORK, SUBNET)),
        ("FLANNEL_SUBNET=junk\nFLANNEL_NETWORK=10.23.0.0/16", SubnetEnv(NETWORK)),
        ("FLANNEL_SUBNET=10.23.42.1/99", SubnetEnv()),
        ("\0\xff\n=\nFLANNEL_SUBNET", SubnetEnv()),
        (
            "FLANNEL_IPV6_NETWORK=fd23::7/48\nFLANNEL_IPV6_SUBNET='fd23:0:0:2::1/64'",
            SubnetEnv(None, None, NETWORK6, SUBNET6),
        ),
        ("FLANNEL_IPV6_NETWORK=10.23.0.0/16\nFLANNEL_IPV6_SUBNET=fd23::1/129", SubnetEnv()),
        ("FLANNEL_SUBNET=fd23::1/64\nFLANNEL_IPV6_SUBNET=fe80::1%eth0/64", SubnetEnv()),
    ],
)
def test_absent_and_invalid_values_give_none(text: str, found: SubnetEnv) -> None:
    assert parse_subnet_env(text) == found


@given(st.text(max_size=80))
def test_any_text_parses_without_exception(text: str) -> None:
    parse_subnet_env(text)


def test_a_reservation_is_told_in_a_line_of_its_own_after_flannels() -> None:
    plain = encode_subnet_env(NETWORK, SUBNET, 1500, ip_masq=False)
    text = encode_subnet_env(NETWORK, SUBNET, 1500, ip_masq=False, is_reservation=True)
    assert text == f"{plain}NETSTORE_RESERVATION=true\n"
    assert parse_subnet_env(text) == SubnetEnv(NETWORK, SUBNET, is_reservation=True)
    assert not parse_subnet_env(text.replace("true", "false")).is_reservation
    assert not parse_subnet_env(f"{text}NETSTORE_RESERVATION=false\n").is_reservation
    assert parse_subnet_env(f"NETSTORE_RESERVATION=false\n{text}").is_reservation
    assert parse_subnet_env(plain + 'NETSTORE_RESERVATION="true"\n').is_reservation


@given(
    st.integers(0, 2**32 - 1),
    st.integers(8, 30),
    st.integers(0, 2**128 - 1),
    st.integers(8, 126),
    st.booleans(),
)
def test_an_encoded_text_parses_back(ip: int, length: int, ip6: int, length6: int, dual: bool) -> None:
    network, subnet = Subnet.around(ip, length - 2), Subnet.around(ip, length)
    network6, subnet6 = Subnet6.around(ip6, length6 - 2), Subnet6.around(ip6, length6)
    text = encode_subnet_env(network, subnet, 1500, ip_masq=False, ipv6=(network6, subnet6) if dual else None)
    assert parse_subnet_env(text) == (
        SubnetEnv(network, subnet, network6, subnet6) if dual else SubnetEnv(network, subnet)
    )
