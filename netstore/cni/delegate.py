"""The network configuration of the plugin that netstore-cni delegates to. Pure.

netstore-cni attaches no pod itself. It reads this node's subnet from subnet.env and lets another CNI plugin,
usually `bridge` with `host-local`, do the work: the contract of flannel's own CNI plugin, with the same
configuration fields. Only the standard library's json is used, because a start costs every pod.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from netstore.errors import parse_problem
from netstore.network.addresses import Subnet, parse_cidr

DEFAULT_SUBNET_FILE: Final = "/run/flannel/subnet.env"
DEFAULT_DATA_DIR: Final = "/var/lib/cni/flannel"

MAX_CONFIG_BYTES: Final = 1024 * 1024
"""Longest network configuration that is read."""

SUPPORTED: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Versions of the CNI specification. The plugin that is delegated to has to know the one in use as well."""

Fields = dict[str, Any]


class CniError(Exception):
    """An error as the specification has it (section 5, "Error"): code, message and details.

    Codes below 100 are the specification's.
    """

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


UNSUPPORTED_VERSION: Final = 1
UNKNOWN_CONTAINER: Final = 3
BAD_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
NOT_JSON: Final = 6
BAD_CONFIG: Final = 7
TRY_AGAIN: Final = 11
NOT_AVAILABLE: Final = 50


class NodeNetwork(NamedTuple):
    """What subnet.env says: networks and the node's subnets in CIDR form, IPv4 first."""

    networks: list[str]
    subnets: list[str]
    mtu: int
    masquerades: bool
    """The agent masquerades, so the plugin must not."""


def parse_config(text: bytes) -> Fields:
    """The configuration on standard input. CniError if it is no object or is of an unknown version."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(NOT_JSON, "the network configuration is not JSON", parse_problem(error)) from None
    if not isinstance(config, dict):
        raise CniError(NOT_JSON, "the network configuration is no JSON object")
    version = config.get("cniVersion", SUPPORTED[0])
    if version not in SUPPORTED:
        raise CniError(
            UNSUPPORTED_VERSION,
            f"cniVersion: {_show(version)} is not supported",
            f"write one of {', '.join(SUPPORTED)}",
        )
    return config


def parse_node_network(text: str) -> NodeNetwork:
    """The node's network from the text of subnet.env. CniError names the line that is missing or invalid."""
    values = dict(line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)
    values = {name: value.strip().strip("\"'") for name, value in values.items()}
    networks, subnets = _ranges(values, "FLANNEL_NETWORK"), _ranges(values, "FLANNEL_SUBNET")
    networks += _ranges(values, "FLANNEL_IPV6_NETWORK")
    subnets += _ranges(values, "FLANNEL_IPV6_SUBNET")
    if not networks or not subnets:
        missing = "FLANNEL_SUBNET" if networks else "FLANNEL_NETWORK"
        raise CniError(TRY_AGAIN, f"the subnet file has no {missing}", "is netstore-agent running here?")
    mtu, masquerades = values.get("FLANNEL_MTU", ""), values.get("FLANNEL_IPMASQ", "")
    if not (mtu.isascii() and mtu.isdigit() and len(mtu) < 10 and int(mtu)):
        raise CniError(
            TRY_AGAIN, f"the subnet file has FLANNEL_MTU={mtu[:40]}", "a number of bytes is needed"
        )
    if masquerades not in ("true", "false"):
        raise CniError(
            TRY_AGAIN, f"the subnet file has FLANNEL_IPMASQ={masquerades[:40]}", "true or false is needed"
        )
    return NodeNetwork(networks, subnets, int(mtu), masquerades == "true")


def _ranges(values: dict[str, str], name: str) -> list[str]:
    """The ranges of one line, which may be a list with commas; host bits are dropped."""
    given = [part.strip() for part in values.get(name, "").split(",")]
    read = _ipv6_range if "IPV6" in name else _ipv4_range
    try:
        return [read(part) for part in given if part]
    except ValueError as error:
        raise CniError(TRY_AGAIN, f"the subnet file has a bad {name}", str(error)) from None


def _ipv4_range(text: str) -> str:
    return str(Subnet.around(*parse_cidr(text)))


def _ipv6_range(text: str) -> str:
    from netstore.network.ipv6 import Subnet6, parse_cidr6  # noqa: PLC0415 - a start without IPv6 saves 4 ms

    return str(Subnet6.around(*parse_cidr6(text)))


def delegate_config(config: Fields, node: NodeNetwork) -> Fields:
    """The configuration for the plugin that does the work. CniError names the field that is invalid."""
    delegate = dict(_object(config, "delegate"))
    for name, instead in (("name", "the network's name"), ("ipam", "the field ipam beside delegate")):
        if name in delegate:
            raise CniError(BAD_CONFIG, f"delegate.{name}: must not be given", f"{instead} is used")
    kind = delegate.setdefault("type", "bridge")
    if not _is_plugin_name(kind):
        raise CniError(
            BAD_CONFIG, f"delegate.type: {_show(kind)} is no name of a plugin", "write a file name"
        )
    delegate["name"] = config.get("name", "")
    if "cniVersion" in config:
        delegate["cniVersion"] = config["cniVersion"]
    delegate.setdefault("ipMasq", not node.masquerades)
    delegate.setdefault("mtu", node.mtu)
    if kind == "bridge":
        delegate.setdefault("isGateway", True)
    if "runtimeConfig" in config:
        delegate["runtimeConfig"] = config["runtimeConfig"]
    delegate["ipam"] = _ipam(config, node)
    return delegate


def _ipam(config: Fields, node: NodeNetwork) -> Fields:
    ipam = dict(_object(config, "ipam"))
    ipam.setdefault("type", "host-local")
    routes = ipam.get("routes") or []
    if not isinstance(routes, list):
        raise CniError(BAD_CONFIG, "ipam.routes: is no list", 'write it as [{"dst":"192.0.2.0/24"}]')
    ipam["ranges"] = [[{"subnet": subnet}] for subnet in node.subnets]
    ipam["routes"] = [*routes, *({"dst": network} for network in node.networks)]
    return ipam


def with_gateways(result: object) -> object:
    """The result of ADD in which each route has a gateway.

    A route without one is installed through the gateway of the pod's address; yet when it is checked, plugins
    up to release 1.1 look for one that has none, and fail.
    """
    if not isinstance(result, dict):
        return result
    addresses, routes = result.get("ips"), result.get("routes")
    if not isinstance(addresses, list) or not isinstance(routes, list):
        return result
    gateways = [each["gateway"] for each in addresses if isinstance(each, dict) and "gateway" in each]
    return result | {"routes": [_with_gateway(route, gateways) for route in routes]}


def _with_gateway(route: object, gateways: list[Any]) -> object:
    if not isinstance(route, dict) or "gw" in route:
        return route
    is_ipv6 = ":" in str(route.get("dst"))
    of_family = [gateway for gateway in gateways if (":" in str(gateway)) == is_ipv6]
    return route | {"gw": of_family[0]} if of_family else route


def _object(config: Fields, name: str) -> Fields:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CniError(BAD_CONFIG, f"{name}: is no JSON object", f'write it as "{name}":{{...}}')
    return value


def path_setting(config: Fields, name: str, default: str) -> str:
    """A setting that is an absolute path. CniError if it is none."""
    value = config.get(name) or default
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or not _is_text(value):
        raise CniError(BAD_CONFIG, f"{name}: {_show(value)} is no absolute path", f"write it as {default}")
    return value


def _is_plugin_name(name: object) -> bool:
    if not isinstance(name, str) or not 0 < len(name) < 256:
        return False
    return name not in (".", "..") and "/" not in name and "\0" not in name and _is_text(name)


def _is_text(value: str) -> bool:
    """Whether it can be written in UTF-8; JSON can have halves of surrogate pairs, which cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(value: object) -> str:
    return json.dumps(value)[:80]
