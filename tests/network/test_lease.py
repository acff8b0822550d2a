"""Lease records: everything flannel writes is accepted, everything else is an invalid lease with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from netstore.network.lease import (
    InvalidLease,
    NodeSubnets,
    SubnetLease,
    encode_lease,
    encode_mark,
    is_node_name,
    parse_lease,
    parse_lease_name,
    parse_mark,
)

KEY = "/coreos.com/network/subnets/10.23.79.0-24"
SUBNET = Subnet(parse_ip("10.23.79.0"), 24)
SUBNET6 = Subnet6(parse_ip6("fd23:0:0:2::"), 64)
NODE = parse_ip("192.168.77.12")
NODE6 = parse_ip6("fd77::12")


@pytest.mark.parametrize(
    ("value", "backend_type", "data"),
    [
        ('{"PublicIP":"192.168.77.12","BackendType":"host-gw"}', "host-gw", None),
        ('{"PublicIP":"192.168.77.12","PublicIPv6":null,"BackendType":"host-gw"}', "host-gw", None),
        ('{"PublicIP":"192.168.77.12"}', "", None),
        ('{"publicip":"192.168.77.12","BACKENDTYPE":"host-gw"}', "host-gw", None),
        ('{"PublicIP":"192.168.77.12","BackendType":null,"BackendData":null}', "", None),
        (
            '{"PublicIP":"192.168.77.12","BackendType":"vxlan","BackendData":{"VtepMAC":"a"}}',
            "vxlan",
            b'{"VtepMAC":"a"}',
        ),
        ('{"PublicIP":"192.168.77.12","BackendType":"vxlan","backenddata":[1]}', "vxlan", b"[1]"),
        (' {"Extra":{"deep":[1]},"PublicIP":"192.168.77.12","BackendType":"Host-GW"} ', "Host-GW", None),
    ],
)
def test_values_that_flannel_writes_are_parsed(value: str, backend_type: str, data: bytes | None) -> None:
    assert parse_lease(KEY, value) == SubnetLease(SUBNET, NODE, backend_type, data)


@pytest.mark.parametrize(
    ("value", "data", "data6"),
    [
        ('{"PublicIP":"192.168.77.12","PublicIPv6":"fd77::12","BackendType":"vxlan"}', None, None),
        (
            '{"PublicIP":"192.168.77.12","PublicIPv6":"fd77::12","BackendType":"vxlan","BackendData":[4],"BackendV6Data":[6]}',
            b"[4]",
            b"[6]",
        ),
        (
            '{"publicip":"192.168.77.12","publicipv6":"fd77:0::12","backendtype":"vxlan","backendv6data":[6]}',
            None,
            b"[6]",
        ),
        (
            '{"PublicIP":"192.168.77.12","PUBLICIPV6":"fd77::12","BackendType":"vxlan","BackendV6Data":null}',
            None,
            None,
        ),
    ],
)
def test_dual_stack_values_that_flannel_writes_are_parsed(
    value: str, data: bytes | None, data6: bytes | None
) -> None:
    lease = SubnetLease(SUBNET, NODE, "vxlan", data, SUBNET6, NODE6, data6)
    assert parse_lease("/p/subnets/10.23.79.0-24&fd23:0:0:2::-64", value) == lease
    assert lease.subnets == NodeSubnets(SUBNET, SUBNET6)
    assert lease.ipv4_only() == SubnetLease(SUBNET, NODE, "vxlan", data)


def test_either_part_of_ipv6_may_be_missing() -> None:
    """flannel ends with an error when it reads such a lease in a dual-stack network."""
    value = '{"PublicIP":"192.168.77.12","PublicIPv6":null,"BackendType":"host-gw"}'
    assert parse_lease(f"{KEY}&fd23:0:0:2::-64", value) == SubnetLease(SUBNET, NODE, "host-gw", None, SUBNET6)
    value = '{"PublicIP":"192.168.77.12","PublicIPv6":"fd77::12","BackendType":"host-gw"}'
    assert parse_lease(KEY, value) == SubnetLease(SUBNET, NODE, "host-gw", None, None, NODE6)


def test_names_of_both_forms_give_the_subnets() -> None:
    assert parse_lease_name("10.23.79.0-24") == NodeSubnets(SUBNET)
    assert parse_lease_name("10.23.79.0-24&fd23:0:0:2::-64") == NodeSubnets(SUBNET, SUBNET6)
    assert str(NodeSubnets(SUBNET, SUBNET6)) == "10.23.79.0/24, fd23:0:0:2::/64"


@given(st.integers(0, 2**32 - 1), st.integers(0, 31), st.integers(0, 2**128 - 1), st.integers(0, 127))
def test_a_name_parses_back(ip: int, length: int, ip6: int, length6: int) -> None:
    single = NodeSubnets(Subnet.around(ip, length))
    dual = NodeSubnets(single.subnet, Subnet6.around(ip6, length6))
    assert parse_lease_name(single.lease_name) == single
    assert parse_lease_name(dual.lease_name) == dual
    assert dual.lease_name == f"{dual.subnet}&{dual.subnet6}".replace("/", "-")


name_parts = st.sampled_from(
    [
        "10.23.79.0",
        "10.23.79.8",
        "fd23::",
        "fd23:0:0:2::",
        "fd23:0:0:2:0::",
        "FD23::",
        "-",
        "&",
        "24",
        "064",
        "128",
    ]
)


@given(st.lists(name_parts, max_size=7).map("".join))
def test_each_lease_has_one_name(name: str) -> None:
    try:
        subnets = parse_lease_name(name)
    except ValueError:
        return
    assert subnets.lease_name == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("10.23.79.7-32", "above 31"),
        ("10.23.79.7-24", "the subnet is 10.23.79.0/24"),
        ("10.23.79.0-33", "above 31"),
        ("10.23.79.0", "not A.B.C.D-LEN"),
        ("10.23.79.0-24x", "not A.B.C.D-LEN"),
        ("10.23.790.0-24", "not an IPv4"),
        ("fd23::-64", "not A.B.C.D-LEN"),
        ("10.23.79.0-24&", "not A.B.C.D-LEN"),
        ("10.23.79.0-24&fd23::-64&fd24::-64", "not A.B.C.D-LEN"),
        ("10.23.79.0-24&FD23::-64", "not A.B.C.D-LEN"),
        ("10.23.79.0-24&fd23::-128", "above 127"),
        ("10.23.79.0-24&fd23::-200", "above 127"),
        ("10.23.79.0-24&fd23::7-64", "the subnet is fd23::/64"),
        ("10.23.79.0-24&fd23-64", "not an IPv6 address"),
        ("10.23.79.0-24&fd23:0::-64", "usual form, 10.23.79.0-24&fd23::-64"),
        ("10.0.0.0-08", "usual form, 10.0.0.0-8"),
        ("", "not A.B.C.D-LEN"),
    ],
)
def test_an_invalid_name_gives_an_invalid_lease_with_the_reason(name: str, reason: str) -> None:
    found = parse_lease(f"/p/subnets/{name}", '{"PublicIP":"192.168.77.12"}')
    assert isinstance(found, InvalidLease)
    assert found.name == name
    assert reason in found.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "directory"),
        ("", "not a lease"),
        ("junk", "not a lease"),
        ("[]", "not a lease"),
        ("{}", "no PublicIP"),
        ('{"PublicIP":null}', "no PublicIP"),
        ('{"PublicIP":7}', "not a lease"),
        ('{"PublicIP":"fd00::12","BackendType":"host-gw"}', "not an IPv4 address"),
        ('{"PublicIP":"0.0.0.0"}', "not an address of a host"),
        ('{"PublicIP":"224.0.0.1"}', "not an address of a host"),
        ('{"PublicIP":"127.0.0.1"}', "not an address of a host"),
        ('{"PublicIP":"192.168.77.12","BackendType":7}', "not a lease"),
        (
            '{"PublicIP":"192.168.77.12","PublicIPv6":"192.168.77.12"}',
            "PublicIPv6: '192.168.77.12' is not an",
        ),
        ('{"PublicIP":"192.168.77.12","PublicIPv6":"::1"}', "PublicIPv6: ::1 is not an address of a host"),
        ('{"PublicIP":"192.168.77.12","PublicIPv6":"fe80::1%eth0"}', "PublicIPv6: "),
        ('{"PublicIP":"192.168.77.12","PublicIPv6":7}', "not a lease"),
        ('{"PublicIP":"192.168.77.12","X":"' + "x" * 70_000 + '"}', "characters"),
        ('{"PublicIP":' + "[" * 50_000, "not a lease"),
    ],
)
def test_an_invalid_value_gives_an_invalid_lease_with_the_reason(value: str | None, reason: str) -> None:
    found = parse_lease(KEY, value)
    assert isinstance(found, InvalidLease)
    assert reason in found.reason


@given(st.text(max_size=60), st.text(max_size=60) | st.none())
def test_any_entry_of_the_store_parses_without_exception(key: str, value: str | None) -> None:
    assert isinstance(parse_lease(key, value), SubnetLease | InvalidLease)


json_data = st.none() | st.recursive(
    st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2)
).map(lambda data: json.dumps(data).encode())


@given(
    st.integers(1 << 24, (1 << 25) - 1),
    st.sampled_from(["", "host-gw", "vxlan"]),
    st.none() | st.integers(0xFD << 120, (0xFD << 120) + 2**64),
    st.tuples(json_data, json_data),
)
def test_an_encoded_value_parses_back(
    ip: int, backend_type: str, ip6: int | None, data: tuple[bytes | None, bytes | None]
) -> None:
    for names_ipv6 in (False, True):
        value = encode_lease(
            ip, backend_type, data[0], public_ip6=ip6, backend_v6_data=data[1], names_ipv6=names_ipv6
        )
        assert parse_lease(KEY, value) == SubnetLease(SUBNET, ip, backend_type, data[0], None, ip6, data[1])


def test_an_encoded_value_has_flannels_format() -> None:
    assert encode_lease(NODE, "host-gw") == '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}'
    assert (
        encode_lease(NODE, "vxlan", b'{"VtepMAC":"a"}')
        == '{"PublicIP":"192.168.77.12","BackendType":"vxlan","BackendData":{"VtepMAC":"a"}}'
    )
    assert (
        encode_lease(NODE, "host-gw", names_ipv6=True)
        == '{"PublicIP":"192.168.77.12","PublicIPv6":null,"BackendType":"host-gw"}'
    )
    for names_ipv6 in (False, True):
        assert encode_lease(
            NODE, "vxlan", b"[4]", public_ip6=NODE6, backend_v6_data=b"[6]", names_ipv6=names_ipv6
        ) == (
            '{"PublicIP":"192.168.77.12","PublicIPv6":"fd77::12","BackendType":"vxlan","BackendData":[4],'
            '"BackendV6Data":[6]}'
        )


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ('"NodeName":"node-7.b"', "node-7.b"),
        ('"nodename":"node7"', "node7"),
        ('"NodeName":null', ""),
        ('"NodeName":7', ""),
        ('"NodeName":{"a":[1]}', ""),
        ('"NodeName":"two words"', ""),
        (f'"NodeName":"{"x" * 254}"', ""),
    ],
)
def test_the_name_of_a_node_never_spoils_a_lease(field: str, name: str) -> None:
    value = f'{{"PublicIP":"192.168.77.12","BackendType":"host-gw",{field}}}'
    assert parse_lease(KEY, value) == SubnetLease(SUBNET, NODE, "host-gw", node_name=name)


def test_the_name_of_a_node_comes_last_in_an_encoded_value() -> None:
    value = encode_lease(NODE, "vxlan", b"[4]", backend_v6_data=b"[6]", names_ipv6=True, node_name="node7")
    assert value == (
        '{"PublicIP":"192.168.77.12","PublicIPv6":null,"BackendType":"vxlan","BackendData":[4],'
        '"BackendV6Data":[6],"NodeName":"node7"}'
    )
    found = parse_lease(KEY, value)
    assert isinstance(found, SubnetLease)
    assert found.node_name == "node7"


def test_the_mark_of_a_drained_node_names_all_its_marks() -> None:
    names = ("192.168.77.12", "node7")
    assert parse_mark(encode_mark("2026-01-02T03:04:05Z", names)) == names
    for value in (None, "", "{}", '{"since":"x"}', '{"since":"x","also":7}', "[" * 10_000):
        assert parse_mark(value) == ()


@pytest.mark.parametrize(
    ("word", "expected"), [("node7", True), ("a.b", True), ("..", False), ("a/b", False)]
)
def test_what_a_node_can_be_called(word: str, *, expected: bool) -> None:
    assert is_node_name(word) is expected
