"""The flags of flanneld for which netstore-agent has no setting."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from netstore.ops.foreign import NOT_YET, ForeignFlag

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_KUBE: Final = "the agent keeps its leases in the store, never in Kubernetes"
_NO_FILTER: Final = "the agent does not touch netfilter yet; remove it"
_ONE_NETWORK: Final = "one agent serves one network"
_LOGS: Final = "logs go to stderr and are set by --log-level"

FLANNEL_ONLY: Final[Mapping[str, ForeignFlag]] = MappingProxyType(
    {
        "alsologtostderr": ForeignFlag(_LOGS, None, switch=True),
        "ip-blackhole-route": ForeignFlag(NOT_YET, ("false",), switch=True),
        "ip-masq": ForeignFlag(_NO_FILTER, ("false",), switch=True),
        "ip-masq-fully-random-disable": ForeignFlag(_NO_FILTER, None, switch=True),
        "iptables-forward-rules": ForeignFlag(_NO_FILTER, ("false",), switch=True),
        "iptables-resync": ForeignFlag(_NO_FILTER, None),
        "kube-annotation-prefix": ForeignFlag(_NO_KUBE, None),
        "kube-api-url": ForeignFlag(_NO_KUBE, ("",)),
        "kube-subnet-mgr": ForeignFlag(_NO_KUBE, ("false",), switch=True),
        "kubeconfig-file": ForeignFlag(_NO_KUBE, ("",)),
        "listen": ForeignFlag(_ONE_NETWORK, ("",)),
        "log_backtrace_at": ForeignFlag(_LOGS, None),
        "log_dir": ForeignFlag(_LOGS, ("",)),
        "logtostderr": ForeignFlag(_LOGS, None, switch=True),
        "net-config-path": ForeignFlag(_NO_KUBE, None),
        "networks": ForeignFlag(_ONE_NETWORK, ("",)),
        "remote": ForeignFlag(_ONE_NETWORK, ("",)),
        "set-node-network-unavailable": ForeignFlag(_NO_KUBE, None, switch=True),
        "stderrthreshold": ForeignFlag(_LOGS, None),
        "subnet-dir": ForeignFlag(_ONE_NETWORK, None),
        "v": ForeignFlag(_LOGS, None),
        "vmodule": ForeignFlag(_LOGS, None),
        "watch-networks": ForeignFlag(_ONE_NETWORK, ("false",), switch=True),
    }
)
"""Name without dashes -> why it is accepted or refused."""
