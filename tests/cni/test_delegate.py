"""The delegate's configuration: every field that flannel's plugin sets, and errors that name the field."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.cni.delegate import (
    BAD_CONFIG,
    NOT_JSON,
    SUPPORTED,
    TRY_AGAIN,
    UNSUPPORTED_VERSION,
    CniError,
    NodeNetwork,
    delegate_config,
    parse_config,
    parse_node_network,
    path_setting,
    with_gateways,
)

ENV = "FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET=10.23.42.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
NODE = NodeNetwork(["10.23.0.0/16"], ["10.23.42.0/24"], 1450, masquerades=True)
LIST = {"name": "cbr0", "cniVersion": "0.3.1", "type": "netstore-cni"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_the_usual_configuration() -> None:
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    assert delegate_config(LIST | {"delegate": delegate}, NODE) == {
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "bridge",
        "ipMasq": False,
        "mtu": 1450,
        "isGateway": True,
        "hairpinMode": True,
        "isDefaultGateway": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.23.42.0/24"}]],
            "routes": [{"dst": "10.23.0.0/16"}],
        },
    }


def test_what_is_given_is_kept() -> None:
    given_fields = {"type": "ipvlan", "ipMasq": True, "mtu": 9000, "isGateway": False}
    config = LIST | {
        "delegate": given_fields,
        "ipam": {"type": "other", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/x"},
        "runtimeConfig": {"portMappings": []},
    }
    made = delegate_config(config, NODE)
    assert {name: made[name] for name in given_fields} == given_fields
    assert made["runtimeConfig"] == {"portMappings": []}
    assert made["ipam"] == {
        "type": "other",
        "dataDir": "/x",
        "ranges": [[{"subnet": "10.23.42.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.23.0.0/16"}],
    }
    assert "isGateway" not in delegate_config(LIST | {"delegate": {"type": "ptp"}}, NODE)


def test_the_subnet_file_of_a_node() -> None:
    assert parse_node_network(ENV) == NODE
    assert parse_node_network(ENV.replace("10.23.0.0/16", '"10.23.0.0/16,10.24.0.0/16"')).networks == [
        "10.23.0.0/16",
        "10.24.0.0/16",
    ]
    both = ENV + "FLANNEL_IPV6_NETWORK=fd23::/48\nFLANNEL_IPV6_SUBNET=fd23:0:0:2::1/64\n"
    assert parse_node_network(both) == NodeNetwork(
        ["10.23.0.0/16", "fd23::/48"], ["10.23.42.0/24", "fd23:0:0:2::/64"], 1450, masquerades=True
    )
    made = delegate_config(LIST, parse_node_network(both))
    assert made["ipam"]["ranges"] == [[{"subnet": "10.23.42.0/24"}], [{"subnet": "fd23:0:0:2::/64"}]]
    assert made["ipam"]["routes"] == [{"dst": "10.23.0.0/16"}, {"dst": "fd23::/48"}]


@pytest.mark.parametrize(
    ("line", "instead", "named"),
    [
        ("FLANNEL_NETWORK=10.23.0.0/16", "", "no FLANNEL_NETWORK"),
        ("FLANNEL_SUBNET=10.23.42.1/24", "", "no FLANNEL_SUBNET"),
        ("10.23.42.1/24", "10.23.42.1", "bad FLANNEL_SUBNET"),
        ("FLANNEL_MTU=1450", "", "FLANNEL_MTU="),
        ("1450", "0", "FLANNEL_MTU=0"),
        ("1450", "9" * 5000, "FLANNEL_MTU=999"),
        ("IPMASQ=true", "IPMASQ=yes", "FLANNEL_IPMASQ=yes"),
    ],
)
def test_a_subnet_file_without_a_line_is_refused_by_its_name(line: str, instead: str, named: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_node_network(ENV.replace(line, instead))
    assert (caught.value.code, named in caught.value.message) == (TRY_AGAIN, True)


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"delegate": []}, BAD_CONFIG, "delegate: is no JSON object"),
        ({"delegate": {"name": "x"}}, BAD_CONFIG, "delegate.name"),
        ({"delegate": {"ipam": {}}}, BAD_CONFIG, "delegate.ipam"),
        ({"delegate": {"type": 7}}, BAD_CONFIG, "delegate.type: 7"),
        ({"delegate": {"type": "../sh"}}, BAD_CONFIG, "delegate.type"),
        ({"delegate": {"type": ".."}}, BAD_CONFIG, "delegate.type"),
        ({"ipam": "host-local"}, BAD_CONFIG, "ipam: is no JSON object"),
        ({"ipam": {"routes": {"dst": "0.0.0.0/0"}}}, BAD_CONFIG, "ipam.routes"),
    ],
)
def test_a_bad_field_is_named(config: dict[str, Any], code: int, named: str) -> None:
    with pytest.raises(CniError) as caught:
        delegate_config(config, NODE)
    assert (caught.value.code, named in caught.value.message) == (code, True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", NOT_JSON),
        (b"\xff", NOT_JSON),
        (b"[]", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b'{"cniVersion":"9.9.9"}', UNSUPPORTED_VERSION),
        (b'{"cniVersion":[1]}', UNSUPPORTED_VERSION),
    ],
)
def test_what_is_no_configuration_is_refused(text: bytes, code: int) -> None:
    with pytest.raises(CniError) as caught:
        parse_config(text)
    assert caught.value.code == code


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_version_is_read(version: str) -> None:
    assert parse_config(json.dumps({"cniVersion": version}).encode()) == {"cniVersion": version}


@pytest.mark.parametrize("path", ["relative", 7, "/a\0b", ["/x"]])
def test_a_path_is_absolute(path: object) -> None:
    with pytest.raises(CniError, match="dataDir"):
        path_setting({"dataDir": path}, "dataDir", "/var/lib/cni/flannel")


def test_routes_of_a_result_get_the_gateway_of_their_family() -> None:
    addresses = [{"gateway": "10.1.0.1"}, {"address": "10.2.0.2/24"}, {"gateway": "fd00::1"}]
    routes = [{"dst": "10.0.0.0/8"}, {"dst": "fd00::/48"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]
    assert with_gateways({"ips": addresses, "routes": routes, "dns": {}}) == {
        "ips": addresses,
        "routes": [
            {"dst": "10.0.0.0/8", "gw": "10.1.0.1"},
            {"dst": "fd00::/48", "gw": "fd00::1"},
            {"dst": "0.0.0.0/0", "gw": "10.1.0.9"},
        ],
        "dns": {},
    }


@given(values | st.fixed_dictionaries({"ips": values, "routes": values | st.lists(values, max_size=3)}))
def test_any_result_is_passed_on(result: object) -> None:
    if not isinstance(result, dict) or "routes" not in result:
        assert with_gateways(result) == result
    else:
        with_gateways(result)


@given(st.dictionaries(st.sampled_from(["name", "delegate", "ipam", "runtimeConfig", "cniVersion"]), values))
def test_any_document_is_a_configuration_or_an_error(config: dict[str, Any]) -> None:
    with contextlib.suppress(CniError):
        made = delegate_config(parse_config(json.dumps(config).encode()), NODE)
        assert made["ipam"]["ranges"] == [[{"subnet": "10.23.42.0/24"}]]


@given(st.text(alphabet="FLANEL_NETWORK=SUB0123456789./,:afdv\n\"'"))
def test_any_text_is_a_subnet_file_or_an_error(text: str) -> None:
    for whole in (text, ENV + text):
        with contextlib.suppress(CniError):
            node = parse_node_network(whole)
            assert node.networks
            assert node.subnets
