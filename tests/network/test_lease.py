"""Lease records: everything flannel writes is accepted, everything else is an invalid lease with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.addresses import Subnet, parse_ip
from netstore.network.lease import InvalidLease, SubnetLease, encode_lease, parse_lease, parse_lease_name

KEY = "/coreos.com/network/subnets/10.23.79.0-24"
SUBNET = Subnet(parse_ip("10.23.79.0"), 24)
NODE = parse_ip("192.168.77.12")


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


def test_a_dual_stack_name_gives_its_ipv4_subnet() -> None:
    assert parse_lease_name("10.23.79.0-24&fd23:0:0:2::-64") == SUBNET


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


@given(
    st.integers(1 << 24, (1 << 25) - 1),
    st.sampled_from(["", "host-gw", "vxlan"]),
    st.none()
    | st.recursive(st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2)),
)
def test_an_encoded_value_parses_back(ip: int, backend_type: str, data: object) -> None:
    raw = None if data is None else json.dumps(data).encode()
    assert parse_lease(KEY, encode_lease(ip, backend_type, raw)) == SubnetLease(SUBNET, ip, backend_type, raw)


def test_an_encoded_value_has_flannels_format() -> None:
    assert encode_lease(NODE, "host-gw") == '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}'
    assert (
        encode_lease(NODE, "vxlan", b'{"VtepMAC":"a"}')
        == '{"PublicIP":"192.168.77.12","BackendType":"vxlan","BackendData":{"VtepMAC":"a"}}'
    )
