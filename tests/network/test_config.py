"""The network config document: what is accepted, what is refused and with which message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.config import Network, Network6, NetworkConfigError, parse_network
from netstore.network.ipv6 import Subnet6, parse_ip6, show_ip6

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
        (b'{"Network":"10.23.0.0/16","EnableIPv6":true}', "IPv6Network", "missing"),
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


DUAL = {"Network": "10.23.0.0/16", "EnableIPv6": True, "IPv6Network": "fd23::/48", "Backend": HOST_GW}


def dual(**fields: object) -> Network:
    return parse_network(json.dumps({**DUAL, **fields}).encode())


def test_a_dual_stack_document() -> None:
    network = dual()
    assert network.ipv6 is not None
    assert str(network.ipv6.network) == "fd23::/48"
    assert network.ipv6.subnet_len == 64
    assert show_ip6(network.ipv6.subnet_min) == "fd23:0:0:1::"
    assert show_ip6(network.ipv6.subnet_max) == "fd23:0:0:ffff::"
    assert [remark.partition(":")[0] for remark in network.warnings] == ["EnableIPv6"]


def test_bounds_host_bits_case_and_spelling_of_ipv6_fields() -> None:
    network = dual(
        IPv6Network="FD23:0::7/48",
        ipv6subnetlen=72,
        IPV6SUBNETMIN="fd23::100:0:0:0",
        IPv6SubnetMax="fd23:0:0:9:0200::",
    )
    assert network.ipv6 == Network6(
        Subnet6(parse_ip6("fd23::"), 48), 72, parse_ip6("fd23:0:0:0:100::"), parse_ip6("fd23:0:0:9:200::")
    )
    assert any("fd23::/48 is used" in remark for remark in network.warnings)


@pytest.mark.parametrize(
    ("prefix", "length", "low", "high"),
    [
        (32, 64, "fd23:0:0:1::", "fd23:0:ffff:ffff::"),
        (62, 64, "fd23:0:0:1::", "fd23:0:0:3::"),
        (63, 65, "fd23::8000:0:0:0", "fd23::1:8000:0:0:0"),
        (64, 66, "fd23::4000:0:0:0", "fd23::c000:0:0:0"),
        (124, 126, "fd23::4", "fd23::c"),
    ],
)
def test_ipv6_defaults_are_those_of_flannel(prefix: int, length: int, low: str, high: str) -> None:
    network = dual(IPv6Network=f"fd23::/{prefix}").ipv6
    assert network is not None
    assert network.subnet_len == length
    assert (network.subnet_min, network.subnet_max) == (parse_ip6(low), parse_ip6(high))


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"IPv6Network": None}, "IPv6Network", "missing"),
        ({"IPv6Network": 7}, "IPv6Network", "wrong type"),
        ({"IPv6Network": "10.23.0.0/16"}, "IPv6Network", "not an IPv6"),
        ({"IPv6Network": "fd23::%eth0/48"}, "IPv6Network", "zone"),
        ({"IPv6Network": "fd23::/125"}, "IPv6Network", "/125 is too small"),
        ({"IPv6Network": "fe80::/48"}, "IPv6Network", "link-local"),
        ({"IPv6Network": "::ffff:10.0.0.0/104"}, "IPv6Network", "IPv4-mapped"),
        ({"IPv6Network": "::/0"}, "IPv6Network", "loopback"),
        ({"IPv6Network": "ff00::/16"}, "IPv6Network", "multicast"),
        ({"IPv6SubnetLen": "64"}, "IPv6SubnetLen", "wrong type"),
        ({"IPv6SubnetLen": 49}, "IPv6SubnetLen", "49 does not divide"),
        ({"IPv6SubnetLen": 127}, "IPv6SubnetLen", "127 does not divide"),
        ({"IPv6SubnetMin": "fd24::"}, "IPv6SubnetMin", "outside fd23::/48"),
        ({"IPv6SubnetMax": "fd23:0:1::"}, "IPv6SubnetMax", "outside fd23::/48"),
        ({"IPv6SubnetMin": "fd23::1"}, "IPv6SubnetMin", "not the start of a /64"),
        ({"IPv6SubnetMin": "10.23.1.0"}, "IPv6SubnetMin", "not an IPv6 address"),
        (
            {"IPv6SubnetMin": "fd23:0:0:9::", "IPv6SubnetMax": "fd23:0:0:8::"},
            "IPv6SubnetMin",
            "above IPv6SubnetMax fd23:0:0:8::",
        ),
        ({"EnableIPv4": False}, "EnableIPv4", "false"),
    ],
)
def test_an_invalid_ipv6_field_is_an_error_with_problem_and_fix(
    fields: dict[str, object], field: str, problem: str
) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        dual(**fields)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert caught.value.fix


def test_without_enable_ipv6_its_fields_are_ignored_with_a_warning() -> None:
    network = dual(EnableIPv6=False, IPv6Network="junk", IPv6SubnetLen=64)
    assert network.ipv6 is None
    assert [remark.partition(":")[0] for remark in network.warnings] == ["IPv6Network", "IPv6SubnetLen"]


def test_lists_of_networks_are_ignored_with_a_warning() -> None:
    network = dual(Networks=["10.24.0.0/16"], IPv6Networks=["fd24::/48"])
    assert {"Networks", "IPv6Networks"} <= {remark.partition(":")[0] for remark in network.warnings}


@given(st.integers(16, 122), st.integers(2, 20), st.integers(0, 2**128 - 1))
def test_every_ipv6_subnet_from_min_to_max_fits_and_no_other(prefix: int, more: int, ip: int) -> None:
    length = min(prefix + more, 126)
    base = Subnet6.around(parse_ip6("fd23:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), prefix)
    network = dual(IPv6Network=str(base), IPv6SubnetLen=length).ipv6
    assert network is not None
    inside = Subnet6.around(base.base | (ip & (base.size - 1)), length)
    assert network.fits(inside) == (inside.base != base.base), "all but the first subnet"
    outside = Subnet6.around(ip, length)
    if not base.covers(outside):
        assert not network.fits(outside)
    for subnet in (inside, outside, Subnet6.around(ip, length - 1), Subnet6.around(inside.base, length + 1)):
        assert (network.misfit(subnet) is None) == network.fits(subnet)


documents = st.fixed_dictionaries(
    {},
    optional={
        "Network": st.sampled_from(["10.23.0.0/16", "10.23.5.6/24", "fd00::/48", "", 7]),
        "EnableIPv6": st.sampled_from([True, False, None, 1]),
        "IPv6Network": st.sampled_from(
            ["fd23::/48", "fd23::1/64", "fe80::/10", "10.0.0.0/8", "fd23::/128", [], ""]
        ),
        "IPv6SubnetLen": st.integers(-1, 130) | st.just("64"),
        "IPv6SubnetMin": st.sampled_from(["fd23:0:0:1::", "fd23::", "::", "fd23::%1", 9]),
        "IPv6SubnetMax": st.sampled_from(["fd23:0:0:1::", "fd23::", "::", "fd23::%1", 9]),
        "IPv6Networks": st.sampled_from([[], "x"]),
        "Backend": st.just(HOST_GW),
    },
)


@given(documents)
def test_any_document_gives_a_network_in_order_or_an_error_with_a_fix(document: dict[str, object]) -> None:
    refusal = None
    try:
        network = parse_network(json.dumps(document).encode())
    except NetworkConfigError as error:
        refusal = error
    if refusal is not None:
        assert refusal.fix
        return
    assert (network.ipv6 is not None) == (document.get("EnableIPv6") is True)
    if network.ipv6 is not None:
        first, last = network.ipv6.subnet_min, network.ipv6.subnet_max
        assert first <= last
        for base in (first, last):
            assert network.ipv6.network.covers(Subnet6.exact(base, network.ipv6.subnet_len))


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
