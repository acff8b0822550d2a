"""The flags of etcd 3.4 for which netstored has no setting."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from netstore.ops.foreign import NOT_YET, Foreign

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN_TLS: Final = (
    "certificates come from files: write --cert-file and --key-file, --peer- before them for peers"
)
_NO_CHECK: Final = "certificates are checked by authority and name only; remove it"
_ONE_SUITE: Final = "the TLS library chooses among the suites of TLS 1.2 and 1.3; remove it"
_NO_AUTH: Final = "there are no users and roles yet; remove it"
_NO_DISCOVERY: Final = "clusters start from --initial-cluster alone"
_NO_PROXY: Final = "there is no proxy mode; point clients at a member"
_OWN_PACE: Final = "netstored paces its own storage"
_ALWAYS: Final = "netstored always does this"
_COMPARED: Final = "members always compare their states"

ETCD_ONLY: Final[Mapping[str, Foreign]] = MappingProxyType(
    {
        "auth-token": Foreign(_NO_AUTH, ("simple",)),
        "auth-token-ttl": Foreign(_NO_AUTH, ("300",)),
        "auto-tls": Foreign(_OWN_TLS, ("false",), switch=True),
        "backend-batch-interval": Foreign(_OWN_PACE, None),
        "backend-batch-limit": Foreign(_OWN_PACE, None),
        "bcrypt-cost": Foreign(_NO_AUTH, ("10",)),
        "cipher-suites": Foreign(_ONE_SUITE, ("",)),
        "client-cert-allowed-hostname": Foreign(_NO_CHECK, ("",)),
        "client-crl-file": Foreign(_NO_CHECK, ("",)),
        "debug": Foreign("write --log-level=debug", ("false",), switch=True),
        "discovery": Foreign(_NO_DISCOVERY, ("",)),
        "discovery-fallback": Foreign(_NO_DISCOVERY, None),
        "discovery-proxy": Foreign(_NO_DISCOVERY, ("",)),
        "discovery-srv": Foreign(_NO_DISCOVERY, ("",)),
        "discovery-srv-name": Foreign(_NO_DISCOVERY, ("",)),
        "enable-pprof": Foreign(NOT_YET, ("false",), switch=True),
        "experimental-backend-bbolt-freelist-type": Foreign(_OWN_PACE, None),
        "experimental-compaction-batch-limit": Foreign(_OWN_PACE, None),
        "experimental-corrupt-check-time": Foreign(_COMPARED, None),
        "experimental-enable-lease-checkpoint": Foreign(_ALWAYS, ("true", "false"), switch=True),
        "experimental-enable-v2v3": Foreign("v2 and v3 keys are apart", ("",)),
        "experimental-initial-corrupt-check": Foreign(_COMPARED, None, switch=True),
        "experimental-peer-skip-client-san-verification": Foreign(_NO_CHECK, ("false",), switch=True),
        "experimental-warning-apply-duration": Foreign(
            "slow requests are logged by a rule of their own", None
        ),
        "grpc-keepalive-interval": Foreign("netstored has bounds of its own", None),
        "grpc-keepalive-min-time": Foreign("netstored has bounds of its own", None),
        "grpc-keepalive-timeout": Foreign("netstored has bounds of its own", None),
        "host-whitelist": Foreign(NOT_YET, ("*", "")),
        "initial-election-tick-advance": Foreign(
            "netstored chooses when to stand for election", None, switch=True
        ),
        "listen-metrics-urls": Foreign(NOT_YET, ("",)),
        "log-outputs": Foreign("logs go to stderr", ("default", "stderr")),
        "log-package-levels": Foreign("write --log-level", ("",)),
        "logger": Foreign("the shape of log lines is set by --log-format", None),
        "max-concurrent-streams": Foreign("netstored has bounds of its own", None),
        "max-snapshots": Foreign(_OWN_PACE, None),
        "max-wals": Foreign(_OWN_PACE, None),
        "metrics": Foreign(NOT_YET, ("basic",)),
        "peer-auto-tls": Foreign(_OWN_TLS, ("false",), switch=True),
        "peer-cert-allowed-cn": Foreign(_NO_CHECK, ("",)),
        "peer-cert-allowed-hostname": Foreign(_NO_CHECK, ("",)),
        "peer-crl-file": Foreign(_NO_CHECK, ("",)),
        "pre-vote": Foreign(_ALWAYS, ("true", "false"), switch=True),
        "proxy": Foreign(_NO_PROXY, ("off",)),
        "proxy-dial-timeout": Foreign(_NO_PROXY, None),
        "proxy-failure-wait": Foreign(_NO_PROXY, None),
        "proxy-read-timeout": Foreign(_NO_PROXY, None),
        "proxy-refresh-interval": Foreign(_NO_PROXY, None),
        "proxy-write-timeout": Foreign(_NO_PROXY, None),
        "strict-reconfig-check": Foreign(_ALWAYS, ("true",), switch=True),
    }
)
"""Flags of etcd 3.4 without a setting here."""
