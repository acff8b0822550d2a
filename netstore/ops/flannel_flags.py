"""The flags of flanneld 0.5 to 0.28, and those for which netstore-agent has no setting.

Each can also be given as a variable: `FLANNELD_` and its name in capitals, with `_` for `-`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from netstore.ops.foreign import ForeignFlag

if TYPE_CHECKING:
    from collections.abc import Mapping

FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "alsologtostderr": "0.5 to 0.7",
        "etcd-cafile": "0.5 to 0.28",
        "etcd-certfile": "0.5 to 0.28",
        "etcd-endpoints": "0.5 to 0.28",
        "etcd-keyfile": "0.5 to 0.28",
        "etcd-password": "0.5.6 to 0.28",
        "etcd-prefix": "0.5 to 0.28",
        "etcd-username": "0.5.6 to 0.28",
        "healthz-ip": "0.8 to 0.28",
        "healthz-port": "0.8 to 0.28",
        "help": "0.5 to 0.28",
        "iface": "0.5 to 0.28",
        "iface-can-reach": "0.18 to 0.28",
        "iface-regex": "0.8 to 0.28",
        "ip-blackhole-route": "0.27.1 to 0.28",
        "ip-masq": "0.5 to 0.28",
        "ip-masq-fully-random-disable": "0.27.4 to 0.28",
        "iptables-forward-rules": "0.11 to 0.28",
        "iptables-resync": "0.11 to 0.28",
        "kube-annotation-prefix": "0.11 to 0.28",
        "kube-api-url": "0.8 to 0.28",
        "kube-subnet-mgr": "0.7 to 0.28",
        "kubeconfig-file": "0.8 to 0.28",
        "listen": "0.5 to 0.7",
        "log_backtrace_at": "0.5 to 0.28",
        "log_dir": "0.5 to 0.7",
        "logtostderr": "0.5 to 0.7",
        "net-config-path": "0.12 to 0.28",
        "networks": "0.5 to 0.7",
        "public-ip": "0.5.2 to 0.28",
        "public-ipv6": "0.15 to 0.28",
        "remote": "0.5 to 0.7",
        "remote-cafile": "0.5.2 to 0.7",
        "remote-certfile": "0.5.2 to 0.7",
        "remote-keyfile": "0.5.2 to 0.7",
        "set-node-network-unavailable": "0.15 to 0.28",
        "stderrthreshold": "0.5 to 0.7",
        "subnet-dir": "0.5 to 0.7",
        "subnet-file": "0.5 to 0.28",
        "subnet-lease-renew-margin": "0.7 to 0.28",
        "use-multi-cluster-cidr": "0.21 to 0.22",
        "v": "0.5 to 0.28",
        "version": "0.5 to 0.28",
        "vmodule": "0.5 to 0.28",
        "watch-networks": "0.6 to 0.7",
    }
)
"""Name without dashes -> the releases that have it."""

DIFFERENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "etcd-endpoints": "flannel's default names port 4001 too",
        "healthz-ip": "flannel's default is 0.0.0.0",
        "help": "as a flag only",
        "iptables-forward-rules": "rules are made only where the chain drops packets, behind those of others",
        "iptables-resync": "rules that are changed by hand are back at once in most cases",
        "version": "as a flag only",
    }
)
"""Flags that are served -> in what they differ."""

_NO_KUBE: Final = "the agent keeps its leases in the store, never in Kubernetes; use --etcd-endpoints"
_ONE_NETWORK: Final = "one agent serves one network; name it with --etcd-prefix"
_NO_REMOTE: Final = "the agent talks to the store itself; use --etcd-endpoints, --etcd-cafile and so on"
_LOGS: Final = "logs go to stderr and are set by --log-level"
_BLACKHOLE: Final = "there is no such route; use `ip route add blackhole` with the whole pod network"

FLANNEL_ONLY: Final[Mapping[str, ForeignFlag]] = MappingProxyType(
    {
        "alsologtostderr": ForeignFlag(_LOGS, None, switch=True),
        "ip-blackhole-route": ForeignFlag(_BLACKHOLE, ("false",), switch=True),
        "kube-annotation-prefix": ForeignFlag(_NO_KUBE, None),
        "kube-api-url": ForeignFlag(_NO_KUBE, ("",)),
        "kube-subnet-mgr": ForeignFlag(_NO_KUBE, ("false",), switch=True),
        "kubeconfig-file": ForeignFlag(_NO_KUBE, ("",)),
        "listen": ForeignFlag(_NO_REMOTE, ("",)),
        "log_backtrace_at": ForeignFlag(_LOGS, None),
        "log_dir": ForeignFlag(_LOGS, ("",)),
        "logtostderr": ForeignFlag(_LOGS, None, switch=True),
        "net-config-path": ForeignFlag(_NO_KUBE, None),
        "networks": ForeignFlag(_ONE_NETWORK, ("",)),
        "remote": ForeignFlag(_NO_REMOTE, ("",)),
        "remote-cafile": ForeignFlag(_NO_REMOTE, ("",)),
        "remote-certfile": ForeignFlag(_NO_REMOTE, ("",)),
        "remote-keyfile": ForeignFlag(_NO_REMOTE, ("",)),
        "set-node-network-unavailable": ForeignFlag(_NO_KUBE, None, switch=True),
        "stderrthreshold": ForeignFlag(_LOGS, None),
        "subnet-dir": ForeignFlag(_ONE_NETWORK, None),
        "use-multi-cluster-cidr": ForeignFlag(_NO_KUBE, ("false",), switch=True),
        "v": ForeignFlag(_LOGS, None),
        "vmodule": ForeignFlag(_LOGS, None),
        "watch-networks": ForeignFlag(_ONE_NETWORK, ("false",), switch=True),
    }
)
"""Name without dashes -> why it is accepted or refused."""
