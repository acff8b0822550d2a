"""The flags of etcd 3.4 for which netstored has no setting."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from netstore.ops.foreign import NOT_YET, ForeignFlag

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

ETCD_ONLY: Final[Mapping[str, ForeignFlag]] = MappingProxyType(
    {
        "auth-token": ForeignFlag(_NO_AUTH, ("simple",)),
        "auth-token-ttl": ForeignFlag(_NO_AUTH, ("300",)),
        "auto-tls": ForeignFlag(_OWN_TLS, ("false",), switch=True),
        "backend-batch-interval": ForeignFlag(_OWN_PACE, None),
        "backend-batch-limit": ForeignFlag(_OWN_PACE, None),
        "bcrypt-cost": ForeignFlag(_NO_AUTH, ("10",)),
        "cipher-suites": ForeignFlag(_ONE_SUITE, ("",)),
        "client-cert-allowed-hostname": ForeignFlag(_NO_CHECK, ("",)),
        "client-crl-file": ForeignFlag(_NO_CHECK, ("",)),
        "debug": ForeignFlag("write --log-level=debug", ("false",), switch=True),
        "discovery": ForeignFlag(_NO_DISCOVERY, ("",)),
        "discovery-fallback": ForeignFlag(_NO_DISCOVERY, None),
        "discovery-proxy": ForeignFlag(_NO_DISCOVERY, ("",)),
        "discovery-srv": ForeignFlag(_NO_DISCOVERY, ("",)),
        "discovery-srv-name": ForeignFlag(_NO_DISCOVERY, ("",)),
        "enable-pprof": ForeignFlag(NOT_YET, ("false",), switch=True),
        "experimental-backend-bbolt-freelist-type": ForeignFlag(_OWN_PACE, None),
        "experimental-compaction-batch-limit": ForeignFlag(_OWN_PACE, None),
        "experimental-corrupt-check-time": ForeignFlag(_COMPARED, None),
        "experimental-enable-lease-checkpoint": ForeignFlag(_ALWAYS, ("true", "false"), switch=True),
        "experimental-enable-v2v3": ForeignFlag("v2 and v3 keys are apart", ("",)),
        "experimental-initial-corrupt-check": ForeignFlag(_COMPARED, None, switch=True),
        "experimental-peer-skip-client-san-verification": ForeignFlag(_NO_CHECK, ("false",), switch=True),
        "experimental-warning-apply-duration": ForeignFlag(
            "slow requests are logged by a rule of their own", None
        ),
        "grpc-keepalive-interval": ForeignFlag("netstored has bounds of its own", None),
        "grpc-keepalive-min-time": ForeignFlag("netstored has bounds of its own", None),
        "grpc-keepalive-timeout": ForeignFlag("netstored has bounds of its own", None),
        "host-whitelist": ForeignFlag(NOT_YET, ("*", "")),
        "initial-election-tick-advance": ForeignFlag(
            "netstored chooses when to stand for election", None, switch=True
        ),
        "listen-metrics-urls": ForeignFlag(NOT_YET, ("",)),
        "log-outputs": ForeignFlag("logs go to stderr", ("default", "stderr")),
        "log-package-levels": ForeignFlag("write --log-level", ("",)),
        "logger": ForeignFlag("the shape of log lines is set by --log-format", None),
        "max-concurrent-streams": ForeignFlag("netstored has bounds of its own", None),
        "max-snapshots": ForeignFlag(_OWN_PACE, None),
        "max-wals": ForeignFlag(_OWN_PACE, None),
        "metrics": ForeignFlag(NOT_YET, ("basic",)),
        "peer-auto-tls": ForeignFlag(_OWN_TLS, ("false",), switch=True),
        "peer-cert-allowed-cn": ForeignFlag(_NO_CHECK, ("",)),
        "peer-cert-allowed-hostname": ForeignFlag(_NO_CHECK, ("",)),
        "peer-crl-file": ForeignFlag(_NO_CHECK, ("",)),
        "pre-vote": ForeignFlag(_ALWAYS, ("true", "false"), switch=True),
        "proxy": ForeignFlag(_NO_PROXY, ("off",)),
        "proxy-dial-timeout": ForeignFlag(_NO_PROXY, None),
        "proxy-failure-wait": ForeignFlag(_NO_PROXY, None),
        "proxy-read-timeout": ForeignFlag(_NO_PROXY, None),
        "proxy-refresh-interval": ForeignFlag(_NO_PROXY, None),
        "proxy-write-timeout": ForeignFlag(_NO_PROXY, None),
        "strict-reconfig-check": ForeignFlag(_ALWAYS, ("true",), switch=True),
    }
)
"""Name without dashes -> why it is accepted or refused."""
