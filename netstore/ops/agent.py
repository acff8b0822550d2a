"""The settings of netstore-agent. Flags and variables have flannel's names where the meaning is the same."""

# ruff: noqa: RUF009 - `setting` is a field specifier, called once for each field

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from netstore.network.addresses import parse_ip
from netstore.network.config import DEFAULT_PREFIX
from netstore.network.ipv6 import parse_host_ip6, parse_ip6
from netstore.network.lease import DEFAULT_TTL, NODE_NAME
from netstore.ops.addresses import TARGETS
from netstore.ops.flannel_flags import FLANNEL_ONLY
from netstore.ops.kinds import (
    KEY_PATTERN,
    PEM,
    BadValue,
    Choice,
    FilePath,
    HostAddress,
    Several,
    Switch,
    Text,
    WholeNumber,
    quoted,
)
from netstore.ops.layers import CONFIG_FILE, Layered
from netstore.ops.loglevels import log_format, log_level
from netstore.ops.settings import BadSetting, check_settings, setting
from netstore.urls import Url


def _read_interface(text: str) -> str:
    if not re.fullmatch(r"[^\s/]{1,64}", text):
        raise BadValue(f"{quoted(text)} is no interface name or address")
    return text


def _read_pattern(text: str) -> str:
    if len(text) > 256:
        raise BadValue("is longer than 256 characters")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadValue(f"{quoted(text)} is no regular expression{_place(error)}") from None
    return text


def _place(error: Exception) -> str:
    """Where a pattern is wrong. The library's words for what is wrong are for who knows its source."""
    position = getattr(error, "pos", None)
    return "" if position is None else f" at character {position + 1}"


_IPV4: Final = r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All settings of one netstore-agent. Raises `BadSetting` if values do not fit together."""

    endpoints: tuple[Url, ...] = setting(
        TARGETS,
        (Url("http", "127.0.0.1", 2379),),
        "URLs of the store, tried in order.",
        flags=("etcd-endpoints",),
        variables=("FLANNELD_ETCD_ENDPOINTS",),
    )
    prefix: str = setting(
        Text("give a key as /name/name, without . and .. and a slash at its end", KEY_PATTERN, "KEY"),
        DEFAULT_PREFIX,
        "Key under which the network keeps its config and its leases.",
        flags=("etcd-prefix",),
        variables=("FLANNELD_ETCD_PREFIX",),
    )
    store_api: str = setting(
        Choice(("auto", "v2", "v3")),
        "auto",
        "API of the store that keeps the network; auto takes the one that has its config, v2 if both do.",
    )
    ca_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the authorities that may sign the store's certificate.",
        flags=("etcd-cafile",),
        variables=("FLANNELD_ETCD_CAFILE",),
        default_words="the system's authorities",
    )
    cert_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the certificate shown to the store.",
        flags=("etcd-certfile",),
        variables=("FLANNELD_ETCD_CERTFILE",),
    )
    key_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the private key of cert_file.",
        flags=("etcd-keyfile",),
        variables=("FLANNELD_ETCD_KEYFILE",),
    )
    username: str | None = setting(
        Text("give 1 to 256 printable characters without a colon", r"[^:]{1,256}"),
        None,
        "User name for the store.",
        flags=("etcd-username",),
        variables=("FLANNELD_ETCD_USERNAME",),
    )
    password: str | None = setting(
        Text("give 1 to 1024 printable characters", r".{1,1024}"),
        None,
        "Password for the store; never printed. A flag shows it to every user: prefer the variable.",
        flags=("etcd-password",),
        variables=("FLANNELD_ETCD_PASSWORD",),
        secret=True,
    )
    iface: tuple[str, ...] = setting(
        Several(_read_interface, "give names or addresses of interfaces", "NAME,...", joined=True),
        (),
        "Interfaces, by name or address, that carry traffic between nodes; the first that exists is taken.",
        variables=("FLANNELD_IFACE",),
        default_words="the interface of the default route",
    )
    iface_regex: tuple[str, ...] = setting(
        Several(
            _read_pattern,
            "give a regular expression as ens[0-9]+, with \\ before a bracket that stands for itself",
            "PATTERN",
            whole=True,
            joined=True,
        ),
        (),
        "Patterns for the name or address of that interface, tried after iface; give the flag once for each.",
        variables=("FLANNELD_IFACE_REGEX",),
        default_words="none",
    )
    iface_can_reach: str | None = setting(
        HostAddress("give an IPv4 or IPv6 address", (parse_ip, parse_ip6)),
        None,
        "Take the interface that the kernel would use to reach this address.",
        variables=("FLANNELD_IFACE_CAN_REACH",),
    )
    public_ip: str | None = setting(
        Text("give an IPv4 address", _IPV4, "ADDRESS"),
        None,
        "Address at which the other nodes reach this one.",
        variables=("FLANNELD_PUBLIC_IP",),
        default_words="the address of the interface",
    )
    public_ipv6: str | None = setting(
        HostAddress("give an IPv6 address such as 2001:db8::7", (parse_host_ip6,)),
        None,
        "IPv6 address at which the other nodes reach this one in a dual-stack network.",
        variables=("FLANNELD_PUBLIC_IPV6",),
        default_words="the IPv6 address of the interface",
    )
    node_name: str | None = setting(
        Text("give 1 to 253 letters, digits or . _ - such as node7", NODE_NAME, "NAME"),
        None,
        "Name of this node in its lease, with which it keeps its subnet when its address changes.",
        default_words="none: the lease is known by the address",
    )
    subnet_file: Path = setting(
        FilePath(),
        Path("/run/flannel/subnet.env"),
        "File to write this node's subnet to, in flannel's format.",
        variables=("FLANNELD_SUBNET_FILE",),
    )
    data_dir: Path = setting(
        FilePath(),
        Path("/var/lib/netstore-agent"),
        "Folder for what backends must keep, such as keys; made when it is needed.",
    )
    ip_masq: bool = setting(
        Switch(),
        False,
        "Masquerade packets between pods and what is outside of the pod network.",
        variables=("FLANNELD_IP_MASQ",),
    )
    ip_masq_fully_random_disable: bool = setting(
        Switch(),
        False,
        "Do not choose the ports of masqueraded connections at random.",
        variables=("FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE",),
        needs=("ip_masq",),
    )
    iptables_forward_rules: bool = setting(
        Switch(),
        True,
        "Accept the packets of pods in iptables' chain FORWARD, where it drops packets.",
        variables=("FLANNELD_IPTABLES_FORWARD_RULES",),
    )
    iptables_resync: int = setting(
        WholeNumber(1, 86_400, "seconds"),
        5,
        "Seconds between two looks at the netfilter rules, besides those after each change of them.",
        variables=("FLANNELD_IPTABLES_RESYNC",),
    )
    subnet_lease_renew_margin: int | None = setting(
        WholeNumber(1, 1439, "minutes"),
        None,
        "Minutes before its end at which a lease is renewed.",
        variables=("FLANNELD_SUBNET_LEASE_RENEW_MARGIN",),
        default_words="60, or half of lease_ttl when that is less",
    )
    lease_ttl: int = setting(
        WholeNumber(2, 365 * 86_400, "seconds"),
        DEFAULT_TTL,
        "Seconds that a lease lives without being renewed.",
    )
    healthz_ip: str = setting(
        Text("give an IPv4 address", _IPV4, "ADDRESS"),
        "127.0.0.1",
        "Address to serve /healthz on.",
        variables=("FLANNELD_HEALTHZ_IP",),
        needs=("healthz_port",),
    )
    healthz_port: int = setting(
        WholeNumber(0, 65_535),
        0,
        "Port to serve /healthz on; 0 for none.",
        variables=("FLANNELD_HEALTHZ_PORT",),
    )
    cleanup: bool = setting(
        Switch(),
        False,
        "Take back routes, rules, lease and subnet file on SIGTERM, instead of leaving pods connected.",
    )
    log_level: str = log_level()
    log_format: str = log_format()
    plugins_install: bool = setting(
        Switch(),
        False,
        "Install the admitted plugin that the network needs from the store, if this node does not have it.",
        table="plugins",
    )
    plugins_folder: Path = setting(
        FilePath(),
        Path("/var/lib/netstore-agent/wheels"),
        "Folder for plugins from the store, made with mode 0700; it must belong to the agent alone.",
        needs=("plugins_install",),
        table="plugins",
    )
    plugins_keys: tuple[Path, ...] = setting(
        Several(Path, "give the paths of PEM files", "PATH,..."),
        (),
        "PEM files of Ed25519 public keys, one of which must have signed a wheel that is installed.",
        default_words="none: a wheel need not be signed",
        needs=("plugins_install",),
        table="plugins",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for key, other in (("cert_file", "key_file"), ("key_file", "cert_file"), ("password", "username")):
            if getattr(self, key) is not None and getattr(self, other) is None:
                raise BadSetting(key, f"is of no use without {other}", f"give {other} too")
        margin = self.subnet_lease_renew_margin
        if margin is not None and margin * 60 >= self.lease_ttl:
            raise BadSetting(
                "subnet_lease_renew_margin",
                f"{margin} minutes are not less than the lease's {self.lease_ttl} s",
                f"give at most {(self.lease_ttl - 1) // 60}, or a longer lease_ttl"
                if self.lease_ttl > 60
                else "give a lease_ttl above 60, or leave it out",
            )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What is tolerated and better changed, one line each."""
        given = [name for name in ("ca_file", "cert_file", "key_file") if getattr(self, name) is not None]
        if not given or any(url.scheme == "https" for url in self.endpoints):
            return ()
        return (f"{', '.join(given)}: no effect, since no URL of endpoints is https; write it so there",)

    @property
    def renew_margin_seconds(self) -> float:
        """How long before its end a lease is renewed: as set, else an hour or half its TTL, the lesser."""
        if self.subnet_lease_renew_margin is not None:
            return self.subnet_lease_renew_margin * 60.0
        return min(3600.0, self.lease_ttl / 2)


AGENT: Final = Layered(
    form=AgentConfig,
    program="netstore-agent",
    about="Holds this node's subnet lease and keeps its routes to the other nodes.",
    table="agent",
    tables=("store", "agent", "archive", "network", "plugins", "backup"),
    prefix="NETSTORE_AGENT_",
    siblings=(),
    alias_prefix="FLANNELD_",
    original="flannel",
    foreign=FLANNEL_ONLY,
    unit_variables=frozenset({"FLANNELD_OPTIONS"}),
    default_file=CONFIG_FILE,
    cautions=lambda config: config.cautions,
)
