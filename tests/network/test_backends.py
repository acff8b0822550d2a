"""The backends that flannel defined: their options, in one place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netstore.network.backends import (
    BUILT_IN,
    FOREIGN,
    VxlanOptions,
    WireguardOptions,
    problem,
    schema_of,
)
from netstore.network.plugins import Plugin, expanded, section_problem

PSK = "c2VjcmV0ISBzZWNyZXQhIHNlY3JldCEgc2VjcmV0ISA="


def test_no_type_is_both_ours_and_foreign() -> None:
    assert not FOREIGN & BUILT_IN.keys()
    assert all(name == name.lower() for name in (*BUILT_IN, *FOREIGN))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_option_has_a_default_and_a_schema(name: str) -> None:
    options = BUILT_IN[name]
    options()
    schema = schema_of(options)
    names = {each.encode_name for each in msgspec.structs.fields(options)}
    assert set(schema["properties"]) == names
    assert expanded(schema)["type"] == "object"


@pytest.mark.parametrize(
    ("name", "section", "field"),
    [
        ("vxlan", {"VNI": 7, "Port": 4789, "GBP": True, "MTU": 1450, "DirectRouting": True}, None),
        ("vxlan", {"VNI": 1 << 24}, "VNI"),
        ("vxlan", {"Port": "8472"}, "Port"),
        ("wireguard", {"Mode": "ipv4", "PersistentKeepaliveInterval": 25}, None),
        ("wireguard", {"Mode": "both"}, "Mode"),
        ("extension", {"SubnetAddCommand": ["ip"]}, "SubnetAddCommand"),
    ],
)
def test_struct_and_schema_judge_alike(name: str, section: dict[str, Any], field: str | None) -> None:
    options = BUILT_IN[name]
    if field is None:
        msgspec.convert(section, options)
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(section, options)
    problem = section_problem(Plugin(name, schema=schema_of(options)), section)
    assert (problem and problem[0]) == field


@pytest.mark.parametrize("kind", BUILT_IN)
@pytest.mark.parametrize("ipv6", [False, True])
def test_the_defaults_have_no_problem(kind: str, ipv6: bool) -> None:
    assert problem(BUILT_IN[kind](), ipv6=ipv6) is None


@pytest.mark.parametrize(
    ("options", "least", "least6"),
    [(VxlanOptions, 68 + 50, 1280 + 70), (WireguardOptions, 68 + 80, 1280 + 80)],
)
def test_an_mtu_leaves_room_for_packets(options: Any, least: int, least6: int) -> None:
    for mtu, ipv6 in ((least, False), (least6, True)):
        assert problem(options(mtu=mtu), ipv6=ipv6) is None
        found = problem(options(mtu=mtu - 1), ipv6=ipv6)
        assert found is not None
        assert (found.option, found.fix) == (
            "MTU", f"choose at least {mtu}, or leave it out for the interface's",
        )  # fmt: skip


def test_the_name_of_the_device_has_room_for_the_vni() -> None:
    assert len("flannel.9999999") == len("flannel-v6.9999") == 15
    assert problem(VxlanOptions(vni=9_999_999)) is None
    assert problem(VxlanOptions(vni=9_999), ipv6=True) is None
    found = problem(VxlanOptions(vni=10_000), ipv6=True)
    assert found is not None
    assert found[::2] == ("VNI", "choose at most 9999")
    assert problem(VxlanOptions(vni=10_000_000)) is not None
    with pytest.raises(msgspec.ValidationError, match="<= 9999999"):
        msgspec.convert({"VNI": 10_000_000}, VxlanOptions)


@pytest.mark.parametrize("text", ["0e:2a:00:00:00:01", "01:00", "zz:00", "0e2a", "0e:2a\n"])
def test_a_vtep_mac_is_two_octets(text: str) -> None:
    found = problem(VxlanOptions(vtep_mac=text))
    assert found is not None
    assert found.option == "VtepMAC"
    assert problem(VxlanOptions(vtep_mac="0E-2a")) is None


@pytest.mark.parametrize("text", [PSK[:-1], PSK[4:], "ä" * 44, f"{PSK}\n"])
def test_a_preshared_key_is_32_bytes_in_base64_and_never_shown(text: str) -> None:
    found = problem(WireguardOptions(psk=text))
    assert found is not None
    assert found.option == "PSK"
    assert text not in "".join(found)
    assert problem(WireguardOptions(psk=PSK)) is None


@pytest.mark.parametrize("port", [51818, 51820, 51822])
def test_the_ports_of_both_families_and_keys_differ(port: int) -> None:
    found = problem(WireguardOptions(listen_port_v6=port))
    assert found is not None
    assert found.option == "ListenPortV6"
    assert problem(WireguardOptions(listen_port_v6=port, mode="auto")) is None
