"""Which network configs may be written."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.backends import BUILT_IN, FOREIGN
from netstore.network.check import MAX_CHECKED_BYTES, begin, check_network
from netstore.network.config import NetworkConfigError
from netstore.network.plugins import Plugin

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"Port": {"type": "integer", "minimum": 1}},
    "required": ["Port"],
}
ADMITTED = {"my-net": Plugin("my-net", schema=SCHEMA), "free": Plugin("free")}


def document(backend: object = None, **fields: object) -> bytes:
    whole: dict[str, object] = {"Network": "10.1.0.0/16", **fields}
    if backend is not None:
        whole["Backend"] = backend
    return msgspec.json.encode(whole)


def refusal(text: bytes) -> str:
    with pytest.raises(NetworkConfigError) as caught:
        check_network(text, ADMITTED)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        document({"Type": "host-gw"}),
        document({"type": "HOST-GW"}),
        document({"Type": "vxlan", "VNI": 2, "port": 8472, "DirectRouting": True}),
        document({"Type": "my-net", "PORT": 1}),
        document({"Type": "free", "whatever": [1]}),
        b'{"network":"10.1.0.0/16","subnetlen":24,"backend":{"type":"host-gw"}}',
        document({"Type": "vxlan", "VNI": None}, SubnetLen=None),
    ],
)
def test_what_a_daemon_can_use_passes_without_a_word(text: bytes) -> None:
    assert check_network(text, ADMITTED) == ()


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (document(), "Backend: not given, which means udp"),
        (document({"Type": "udp", "Port": 8285}), "Backend.Type: udp is a backend of flanneld"),
        (document({"Type": "AWS-VPC", "RouteTableID": "rtb-1"}), "Backend.Type: aws-vpc is a backend"),
        (document({"Type": "host-gw"}, EnableIPv4=False, IPv6Network="fd00::/48"), "EnableIPv4"),
        (document({"Type": "host-gw"}, Network="10.1.2.3/16"), "Network: 10.1.2.3/16 has host bits"),
        (document({"Type": "host-gw"}, Note="ours"), "Note: unknown field"),
        (document({"Type": "host-gw", "Port": 1}), "Backend.Port: host-gw has no such option"),
        (document({"Type": "my-net", "Port": 1, "Color": 1}), "Backend.Color: my-net has no such option"),
        # What only flannel before 0.10 accepts, or netstore-agent does not take at all.
        (document({"Type": "host-gw"}, Network="10.1.0.0/30"), "Network: /30 is too small"),
        (document({"Type": "host-gw"}, SubnetLen=32), "SubnetLen"),
        (document({"Type": "host-gw"}, SubnetLen=0), "SubnetLen"),
        (document({"Type": "host-gw"}, SubnetLen=24, SubnetMax="10.1.255.255"), "SubnetMax"),
        (document({"Type": "host-gw"}, Network="0.0.0.0/0"), "Network"),
        (document({"Type": "host-gw"}, SubnetMin="0.0.0.0"), "SubnetMin"),
    ],
)
def test_what_flannel_accepts_passes_with_a_warning(text: bytes, warning: str) -> None:
    assert any(warning in each for each in check_network(text, ADMITTED))


def test_dual_stack_passes() -> None:
    check_network(
        document(
            {"Type": "vxlan"},
            EnableIPv6=True,
            IPv6Network="fd00:10::/48",
            IPv6SubnetLen=64,
            IPv6SubnetMin="fd00:10:0:1::",
            IPv6SubnetMax="fd00:10:0:ff::",
        ),
        {},
    )


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"", "document: is empty"),
        (b"{", "document: not JSON"),
        (b"\xff", "document: not JSON"),
        (b"[" * 50_000, "document: "),
        (b"[]", "document: not a JSON object"),
        (b"null", "Network: missing"),
        (b" " * MAX_CHECKED_BYTES + b"{}", f"document: {MAX_CHECKED_BYTES + 2} bytes long"),
        (b"{}", "Network: missing"),
        (document(Network="10.1.0.0"), "Network: '10.1.0.0' is not an IPv4 range"),
        (document(Network="fd00::/48"), "Network: 'fd00::/48' is not an IPv4 range"),
        (document(Network=10), "Network: 10 has the wrong type"),
        (document(SubnetLen="24"), 'SubnetLen: "24" has the wrong type'),
        (document(SubnetLen=8), "SubnetLen: 8 does not divide 10.1.0.0/16"),
        (document(SubnetLen=True), "SubnetLen: true has the wrong type"),
        (document(SubnetMin="10.2.0.0"), "SubnetMin: 10.2.0.0 is outside 10.1.0.0/16"),
        (document(SubnetMin="x"), "SubnetMin: 'x' is not an IPv4 address"),
        (document(SubnetMin="10.1.9.0", SubnetMax="10.1.8.0"), "SubnetMin: 10.1.9.0 is above SubnetMax"),
        (document(EnableIPv6="yes"), 'EnableIPv6: "yes" has the wrong type'),
        (document(IPv6Network="fd00::/200"), "IPv6Network: 'fd00::/200' is not an IPv6 range"),
        (document(IPv6Network="fd00::/48", IPv6SubnetLen=32), "IPv6SubnetLen: 32 does not divide"),
        (document(IPv6Network="fd00::/48", IPv6SubnetMin="fd01::"), "IPv6SubnetMin: fd01:: is outside"),
        (document("vxlan"), 'Backend: "vxlan" has the wrong type'),
        (document({}), "Backend.Type: missing"),
        (document({"Type": 7}), "Backend.Type: missing"),
        (document({"Type": "vlxan"}), "Backend.Type: no backend 'vlxan' is admitted"),
        (document({"Type": "vxlan", "VNI": "1"}), "Backend.VNI: must be a whole number, not text"),
        (
            document({"Type": "vxlan", "PORT": 70_000}),
            "Backend.Port: must be a whole number of at most 65535",
        ),
        (document({"Type": "my-net"}), "Backend: 'Port' is a required property"),
        (document({"Type": "my-net", "port": 0}), "Backend.Port: 0 is less than the minimum of 1"),
    ],
)
def test_what_no_daemon_can_use_is_refused_with_its_field(text: bytes, field: str) -> None:
    assert refusal(text).startswith(field)


def test_an_unknown_type_names_those_that_are_admitted() -> None:
    text = refusal(document({"Type": "x"}))
    assert "netstorectl plugin admit" in text
    assert set(text.partition("choose one of ")[2].split(", ")) == {*BUILT_IN, *ADMITTED}
    assert not {*BUILT_IN, *ADMITTED} & FOREIGN, "nothing that netstorectl network set refuses"


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-10, 1 << 70) | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["Network", "subnetLen", "SubnetMin", "Backend", "Type", "VNI", "IPv6Network", "Mode"]
            ),
            inner,
        ),
    ).map(msgspec.json.encode)
)
def test_nothing_raises_anything_else(text: bytes) -> None:
    try:
        begin(text, {})
    except NetworkConfigError as error:
        assert str(error)  # noqa: PT017 - most examples raise


def test_jsonschema_is_imported_only_where_a_schema_is_checked() -> None:
    program = (
        "import sys, netstore.network.check as check, netstore.network.plugins, netstore.server.daemon\n"
        'check.check_network(b\'{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}\', {})\n'
        "sys.exit('jsonschema' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
