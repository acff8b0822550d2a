"""The flags of flanneld for which netstore-agent has no setting."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from netstore.ops.foreign import NOT_YET, Foreign

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_KUBE: Final = "the agent keeps its leases in the store, never in Kubernetes"
_NO_FILTER: Final = "the agent does not touch netfilter yet; remove it"
_ONE_NETWORK: Final = "one agent serves one network"
_LOGS: Final = "logs go to stderr and are set by --log-level"

FLANNEL_ONLY: Final[Mapping[str, Foreign]] = MappingProxyType(
    {
        "alsologtostderr": Foreign(_LOGS, None, switch=True),
        "ip-blackhole-route": Foreign(NOT_YET, ("false",), switch=True),
        "ip-masq": Foreign(_NO_FILTER, ("false",), switch=True),
        "ip-masq-fully-random-disable": Foreign(_NO_FILTER, None, switch=True),
        "iptables-forward-rules": Foreign(_NO_FILTER, ("false",), switch=True),
        "iptables-resync": Foreign(_NO_FILTER, None),
        "kube-annotation-prefix": Foreign(_NO_KUBE, None),
        "kube-api-url": Foreign(_NO_KUBE, ("",)),
        "kube-subnet-mgr": Foreign(_NO_KUBE, ("false",), switch=True),
        "kubeconfig-file": Foreign(_NO_KUBE, ("",)),
        "listen": Foreign(_ONE_NETWORK, ("",)),
        "log_backtrace_at": Foreign(_LOGS, None),
        "log_dir": Foreign(_LOGS, ("",)),
        "logtostderr": Foreign(_LOGS, None, switch=True),
        "net-config-path": Foreign(_NO_KUBE, None),
        "networks": Foreign(_ONE_NETWORK, ("",)),
        "public-ipv6": Foreign(NOT_YET, ("",)),
        "remote": Foreign(_ONE_NETWORK, ("",)),
        "set-node-network-unavailable": Foreign(_NO_KUBE, None, switch=True),
        "stderrthreshold": Foreign(_LOGS, None),
        "subnet-dir": Foreign(_ONE_NETWORK, None),
        "v": Foreign(_LOGS, None),
        "vmodule": Foreign(_LOGS, None),
        "watch-networks": Foreign(_ONE_NETWORK, ("false",), switch=True),
    }
)
"""Flags of flannel without a setting here."""
