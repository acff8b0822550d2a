"""The text of subnet.env: flannel's format, parsed back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip
from netstore.network.subnetenv import encode_subnet_env, parse_subnet_env

NETWORK, SUBNET = Subnet(parse_ip("10.23.0.0"), 16), Subnet(parse_ip("10.23.42.0"), 24)


@pytest.mark.parametrize(("ip_masq", "word"), [(False, "false"), (True, "true")])
def test_fields_have_flannels_names_and_order(ip_masq: bool, word: str) -> None:
    assert encode_subnet_env(NETWORK, SUBNET, 1500, ip_masq=ip_masq) == (
        "FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET=10.23.42.1/24\nFLANNEL_MTU=1500\n"
        f"FLANNEL_IPMASQ={word}\n"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (None, None)),
        ('FLANNEL_NETWORK=10.23.5.6/16\nFLANNEL_SUBNET="10.23.42.1/24"\n', (NETWORK, SUBNET)),
        ("FLANNEL_SUBNET=junk\nFLANNEL_NETWORK=10.23.0.0/16", (NETWORK, None)),
        ("FLANNEL_SUBNET=10.23.42.1/99", (None, None)),
        ("\0\xff\n=\nFLANNEL_SUBNET", (None, None)),
    ],
)
def test_absent_and_invalid_values_give_none(text: str, found: tuple[Subnet | None, Subnet | None]) -> None:
    assert parse_subnet_env(text) == found


@given(st.text(max_size=80))
def test_any_text_parses_without_exception(text: str) -> None:
    parse_subnet_env(text)


def test_an_encoded_text_parses_back() -> None:
    assert parse_subnet_env(encode_subnet_env(NETWORK, SUBNET, 1500, ip_masq=True)) == (NETWORK, SUBNET)
