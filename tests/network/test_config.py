"""The network config document: what is accepted, what is refused and with which message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.config import NetworkConfigError, parse_network

HOST_GW = {"Type": "host-gw"}


def test_a_typical_document() -> None:
    network = parse_network(b'{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
    assert str(network.network) == "172.30.0.0/16"
    assert network.subnet_len == 24
    assert (show_ip(network.subnet_min), show_ip(network.subnet_max)) == ("172.30.1.0", "172.30.255.0")
    assert network.backend_type == "host-gw"
    assert json.loads(network.backend) == HOST_GW
    assert network.warnings == ()


def test_names_in_any_case_unknown_fields_host_bits_and_nulls() -> None:
    network = parse_network(
        b'{"network":"10.23.5.6/16","SUBNETLEN":24,"subnetmin":null,"backend":{"tYpe":"HOST-GW","x":1},"Color":"blue"}'
    )
    assert str(network.network) == "10.23.0.0/16"
    assert network.backend_type == "host-gw"
    assert [remark.partition(":")[0] for remark in network.warnings] == ["Color", "Network"]


@pytest.mark.parametrize(
    ("prefix", "length", "low", "high"),
    [
        (16, 24, "10.23.1.0", "10.23.255.0"),
        (22, 24, "10.23.1.0", "10.23.3.0"),
        (23, 25, "10.23.0.128", "10.23.1.128"),
        (24, 26, "10.23.0.64", "10.23.0.192"),
        (28, 30, "10.23.0.4", "10.23.0.12"),
    ],
)
def test_defaults_are_those_of_flannel_0_10(prefix: int, length: int, low: str, high: str) -> None:
    network = parse_network(f'{{"Network":"10.23.0.0/{prefix}","Backend":{{"Type":"host-gw"}}}}'.encode())
    assert network.subnet_len == length
    assert (show_ip(network.subnet_min), show_ip(network.subnet_max)) == (low, high)
    told = [remark for remark in network.warnings if remark.startswith("SubnetLen")]
    assert bool(told) == (prefix >= 23), "older daemons have another default for small networks"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        (b"", "document", "is empty"),
        (b" \n", "document", "is empty"),
        (b"[]", "document", "not a JSON object"),
        (b"\xff\xfe", "document", "not a JSON object"),
        (b'{"Network"', "document", "not a JSON object"),
        (b"[" * 100_000, "document", "not a JSON object"),
        (b" " * 300_000, "document", "bytes long"),
        (b"{}", "Network", "missing"),
        (b"null", "Network", "missing"),
        (b'{"Network":null}', "Network", "missing"),
        (b'{"Network":10}', "Network", "wrong type"),
        (b'{"Network":"10.23.0.0"}', "Network", "not an IPv4 network"),
        (b'{"Network":"fd00::/48"}', "Network", "not an IPv4 network"),
        (b'{"Network":"10.23.0.0/29"}', "Network", "too small"),
        (b'{"Network":"10.23.0.0/16","SubnetLen":"24"}', "SubnetLen", "wrong type"),
        (b'{"Network":"10.23.0.0/16","SubnetLen":24.0}', "SubnetLen", "wrong type"),
        (b'{"Network":"10.23.0.0/16","SubnetLen":true}', "SubnetLen", "wrong type"),
        (b'{"Network":"10.23.0.0/16","SubnetLen":17}', "SubnetLen", "17 does not divide"),
        (b'{"Network":"10.23.0.0/16","SubnetLen":31}', "SubnetLen", "31 does not divide"),
        (b'{"Network":"10.23.0.0/16","SubnetLen":99999999999999999999}', "SubnetLen", ""),
        (b'{"Network":"10.23.0.0/16","SubnetMin":"10.24.1.0"}', "SubnetMin", "outside 10.23.0.0/16"),
        (b'{"Network":"10.23.0.0/16","SubnetMax":"10.22.1.0"}', "SubnetMax", "outside 10.23.0.0/16"),
        (b'{"Network":"10.23.0.0/16","SubnetMin":"10.23.7.13"}', "SubnetMin", "not the start of a /24"),
        (b'{"Network":"10.23.0.0/16","SubnetMin":"10.23.7"}', "SubnetMin", "not an IPv4 address"),
        (
            b'{"Network":"10.23.0.0/16","SubnetMin":"10.23.9.0","SubnetMax":"10.23.8.0"}',
            "SubnetMin",
            "above SubnetMax 10.23.8.0",
        ),
        (b'{"Network":"10.23.0.0/16","EnableIPv4":false}', "EnableIPv4", "false"),
        (b'{"Network":"10.23.0.0/16","EnableIPv6":true}', "EnableIPv6", "IPv4 only"),
        (b'{"Network":"10.23.0.0/16","EnableIPv6":1}', "EnableIPv6", "wrong type"),
        (b'{"Network":"10.23.0.0/16","Backend":"host-gw"}', "Backend", "wrong type"),
        (b'{"Network":"10.23.0.0/16","Backend":{}}', "Backend.Type", "missing"),
        (b'{"Network":"10.23.0.0/16","Backend":{"Type":""}}', "Backend.Type", "missing"),
        (b'{"Network":"10.23.0.0/16","Backend":{"Type":7}}', "Backend.Type", "not text"),
    ],
)
def test_an_invalid_document_is_an_error_with_field_problem_and_fix(
    text: bytes, field: str, problem: str
) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        parse_network(text)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert caught.value.fix
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)


def test_without_a_backend_it_is_udp_with_a_warning() -> None:
    network = parse_network(b'{"Network":"10.23.0.0/16"}')
    assert network.backend_type == "udp"
    assert any(remark.startswith("Backend") for remark in network.warnings)


@given(st.integers(8, 26), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_every_subnet_from_min_to_max_fits_and_no_other(prefix: int, more: int, ip: int) -> None:
    length = min(prefix + more, 30)
    base = Subnet.around(parse_ip("10.255.255.255"), prefix)
    network = parse_network(
        f'{{"Network":"{base}","SubnetLen":{length},"Backend":{{"Type":"host-gw"}}}}'.encode()
    )
    inside = Subnet.around(base.base | (ip & (base.size - 1)), length)
    assert network.fits(inside) == (inside.base != base.base), "all but the first subnet"
    outside = Subnet.around(ip, length)
    if not base.covers(outside):
        assert not network.fits(outside)
    for subnet in (inside, outside, Subnet.around(ip, length - 1), Subnet.around(inside.base, length + 1)):
        assert (network.misfit(subnet) is None) == network.fits(subnet)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_network_or_an_error_with_a_fix(text: bytes) -> None:
    refusal = None
    try:
        parse_network(text)
    except NetworkConfigError as error:
        refusal = error
    assert refusal is None or refusal.fix
