"""The flags of etcd 3.4 to 3.7, and what netstored does with each: this table alone says it.

Each can also be given as a variable, `ETCD_` and its name in capitals with `_` for `-`, and most as a key of
etcd's configuration file (`ops.etcd_file`). A flag that is served is a setting (`ops.store`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from netstore.ops.foreign import ForeignFlag

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class EtcdFlag:
    """One flag of etcd."""

    releases: str
    """Those that have it; a release with three numbers is the first of its kind that has."""
    foreign: ForeignFlag | None = None
    """Why there is no setting; None if there is one."""
    difference: str = ""
    """In what a setting differs from etcd's."""


def _served(releases: str, difference: str = "") -> EtcdFlag:
    return EtcdFlag(releases, difference=difference)


def _harmless(releases: str, reason: str, *, switch: bool = False) -> EtcdFlag:
    """A flag that is accepted with any value, since nothing that is promised depends on it."""
    return EtcdFlag(releases, ForeignFlag(reason, None, switch=switch))


_NO_AUTH: Final = "there are no users and roles yet; remove it"
_NO_DISCOVERY: Final = "write the members into --initial-cluster, or name one with --join"
_NO_PROXY: Final = "there is no proxy mode; point clients at a member"
_OWN_PACE: Final = "netstored paces its own storage"
_ALWAYS: Final = "netstored always does this"
_COMPARED: Final = "members always compare their states"
_SLOW: Final = "slow requests are logged by a rule of their own"
_OWN_BOUNDS: Final = "netstored has bounds of its own"
_OWN_LOG: Final = "logs go to stderr or stdout; let systemd or logrotate keep and rotate files"
_NO_TRACES: Final = "OTEL_EXPORTER_OTLP_ENDPOINT has slow requests exported as spans"
_NO_PAGES: Final = "the kernel keeps in memory what is used"
_ONE_HELLO: Final = (
    "members are told apart by their greeting, and no name in a calling member's certificate is checked"
)
_SHARED_PORT: Final = "a port has one owner, and one that was just closed can be bound again"

GATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CompactHashCheck": _COMPARED,
        "FastLeaseKeepAlive": "renewals never wait for other writes to be applied",
        "InitialCorruptCheck": _COMPARED,
        "LeaseCheckpoint": _ALWAYS,
        "LeaseCheckpointPersist": _ALWAYS,
        "PriorityRequest": "what a member needs for itself goes before what clients ask",
        "SetMemberLocalAddr": "the kernel chooses the address that members call from",
        "StopGRPCServiceOnDefrag": "a defragmentation stops nothing",
        "TxnModeWriteWithSharedBuffer": _OWN_PACE,
    }
)
"""The feature gates of etcd 3.6 and 3.7: why each is accepted, on or off."""

_WHY_NO_GATE: Final = {
    **GATES,
    **dict.fromkeys(("AllAlpha", "AllBeta"), "no feature waits to be switched on"),
}

_WORDS: Final = "1|0|t|f|T|F|true|false|TRUE|FALSE|True|False"
"""How Go writes true and false."""

_GATE: Final = rf" *(?:AllAlpha|AllBeta|{'|'.join(GATES)}) *= *(?:{_WORDS}) *"
_GATE_LIST: Final = rf"{_GATE}(?:,{_GATE})*,?"
_GATES: Final = f"known gates are {', '.join(GATES)}, each with =true or =false, and switch nothing here"

FLAGS: Final[Mapping[str, EtcdFlag]] = MappingProxyType(
    {
        "advertise-client-urls": _served("3.4 to 3.7"),
        "auth-token": EtcdFlag("3.4 to 3.7", ForeignFlag(_NO_AUTH, ("simple", ""))),
        "auth-token-ttl": _harmless("3.4.10 to 3.7", _NO_AUTH),
        "auto-compaction-mode": _served("3.4 to 3.7"),
        "auto-compaction-retention": _served("3.4 to 3.7"),
        "auto-tls": _served(
            "3.4 to 3.7", "a certificate is kept in the data folder and renewed at a start after its end"
        ),
        "backend-batch-interval": _harmless("3.4 to 3.7", _OWN_PACE),
        "backend-batch-limit": _harmless("3.4 to 3.7", _OWN_PACE),
        "backend-bbolt-freelist-type": _harmless("3.5 to 3.7", _OWN_PACE),
        "bcrypt-cost": _harmless("3.4 to 3.7", _NO_AUTH),
        "bootstrap-defrag-threshold-megabytes": _harmless("3.6 to 3.7", "storage gives room back by itself"),
        "cert-file": _served("3.4 to 3.7"),
        "cipher-suites": _served("3.4 to 3.7", "suites that OpenSSL does not have are refused"),
        "client-cert-allowed-hostname": _served("3.4 to 3.7"),
        "client-cert-auth": _served("3.4 to 3.7", "with --trusted-ca-file it is always so"),
        "client-cert-file": _harmless("3.5 to 3.7", "netstored calls no client port"),
        "client-crl-file": _served("3.4 to 3.7"),
        "client-key-file": _harmless("3.5 to 3.7", "netstored calls no client port"),
        "compact-hash-check-time": _harmless("3.6 to 3.7", _COMPARED),
        "compaction-batch-limit": _harmless("3.6 to 3.7", _OWN_PACE),
        "compaction-sleep-interval": _harmless("3.6 to 3.7", _OWN_PACE),
        "config-file": _served("3.4 to 3.7", "TOML, or a file of etcd"),
        "corrupt-check-time": _harmless("3.6 to 3.7", _COMPARED),
        "cors": _served("3.4 to 3.7"),
        "data-dir": _served("3.4 to 3.7", "the default is no folder below the present one"),
        "debug": EtcdFlag("3.4", ForeignFlag("write --log-level=debug", ("false",), switch=True)),
        "discovery": EtcdFlag("3.4 to 3.6", ForeignFlag(_NO_DISCOVERY, ("",))),
        "discovery-cacert": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-cert": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-dial-timeout": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-endpoints": EtcdFlag("3.6 to 3.7", ForeignFlag(_NO_DISCOVERY, ("",))),
        "discovery-fallback": _harmless("3.4 to 3.7", _NO_DISCOVERY),
        "discovery-insecure-skip-tls-verify": _harmless("3.6 to 3.7", _NO_DISCOVERY, switch=True),
        "discovery-insecure-transport": _harmless("3.6 to 3.7", _NO_DISCOVERY, switch=True),
        "discovery-keepalive-time": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-keepalive-timeout": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-key": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-password": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-proxy": EtcdFlag("3.4 to 3.6", ForeignFlag(_NO_DISCOVERY, ("",))),
        "discovery-request-timeout": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "discovery-srv": EtcdFlag("3.4 to 3.7", ForeignFlag(_NO_DISCOVERY, ("",))),
        "discovery-srv-name": EtcdFlag("3.4 to 3.7", ForeignFlag(_NO_DISCOVERY, ("",))),
        "discovery-token": EtcdFlag("3.6 to 3.7", ForeignFlag(_NO_DISCOVERY, ("",))),
        "discovery-user": _harmless("3.6 to 3.7", _NO_DISCOVERY),
        "distributed-tracing-address": _harmless("3.6 to 3.7", _NO_TRACES),
        "distributed-tracing-instance-id": _harmless("3.6 to 3.7", _NO_TRACES),
        "distributed-tracing-sampling-rate": _harmless("3.6 to 3.7", _NO_TRACES),
        "distributed-tracing-service-name": _harmless("3.6 to 3.7", _NO_TRACES),
        "downgrade-check-time": _harmless("3.6 to 3.7", "members are never downgraded to another program"),
        "election-timeout": _served("3.4 to 3.7"),
        "enable-distributed-tracing": _harmless("3.6 to 3.7", _NO_TRACES, switch=True),
        "enable-grpc-gateway": _harmless(
            "3.4 to 3.7", "the JSON gateway is not served; clients use gRPC, or the v2 API", switch=True
        ),
        "enable-log-rotation": _harmless("3.5 to 3.7", _OWN_LOG, switch=True),
        "enable-pprof": _harmless(
            "3.4 to 3.7",
            "there are no profiles of Go; GET /netstore/status has what is measured",
            switch=True,
        ),
        "enable-v2": _served("3.4 to 3.5", "the default is true"),
        "experimental-backend-bbolt-freelist-type": _harmless("3.4", _OWN_PACE),
        "experimental-bootstrap-defrag-threshold-megabytes": _harmless(
            "3.5 to 3.6", "storage gives room back by itself"
        ),
        "experimental-compact-hash-check-enabled": _harmless("3.5.5 to 3.6", _COMPARED, switch=True),
        "experimental-compact-hash-check-time": _harmless("3.5.5 to 3.6", _COMPARED),
        "experimental-compaction-batch-limit": _harmless("3.4 to 3.6", _OWN_PACE),
        "experimental-compaction-sleep-interval": _harmless("3.5.16 to 3.6", _OWN_PACE),
        "experimental-corrupt-check-time": _harmless("3.4 to 3.6", _COMPARED),
        "experimental-distributed-tracing-address": _harmless("3.5 to 3.6", _NO_TRACES),
        "experimental-distributed-tracing-instance-id": _harmless("3.5 to 3.6", _NO_TRACES),
        "experimental-distributed-tracing-sampling-rate": _harmless("3.5.11 to 3.6", _NO_TRACES),
        "experimental-distributed-tracing-service-name": _harmless("3.5 to 3.6", _NO_TRACES),
        "experimental-downgrade-check-time": _harmless(
            "3.5 to 3.6", "members are never downgraded to another program"
        ),
        "experimental-enable-distributed-tracing": _harmless("3.5 to 3.6", _NO_TRACES, switch=True),
        "experimental-enable-lease-checkpoint": _harmless("3.4 to 3.6", _ALWAYS, switch=True),
        "experimental-enable-lease-checkpoint-persist": _harmless(
            "3.4.20, 3.5.2 to 3.6", _ALWAYS, switch=True
        ),
        "experimental-enable-v2v3": EtcdFlag(
            "3.4 to 3.5", ForeignFlag("v2 and v3 keys are apart; use the v2 API for those of v2", ("",))
        ),
        "experimental-initial-corrupt-check": _harmless("3.4 to 3.6", _COMPARED, switch=True),
        "experimental-memory-mlock": _harmless("3.5 to 3.6", _NO_PAGES, switch=True),
        "experimental-peer-skip-client-san-verification": _harmless("3.4 to 3.6", _ONE_HELLO, switch=True),
        "experimental-snapshot-catchup-entries": _harmless("3.5.14 to 3.6", _OWN_PACE),
        "experimental-stop-grpc-service-on-defrag": _harmless(
            "3.5.14 to 3.6", "a defragmentation stops nothing", switch=True
        ),
        "experimental-txn-mode-write-with-shared-buffer": _harmless("3.5 to 3.6", _OWN_PACE, switch=True),
        "experimental-warning-apply-duration": _harmless("3.4.16 to 3.6", _SLOW),
        "experimental-warning-unary-request-duration": _harmless("3.6", _SLOW),
        "experimental-watch-progress-notify-interval": _served("3.4.11 to 3.6"),
        "feature-gates": EtcdFlag(
            "3.6 to 3.7", ForeignFlag(_GATES, ("",), pattern=_GATE_LIST, parts=_WHY_NO_GATE)
        ),
        "force-new-cluster": _served("3.4 to 3.7"),
        "grpc-keepalive-interval": _harmless("3.4 to 3.7", _OWN_BOUNDS),
        "grpc-keepalive-min-time": _harmless("3.4 to 3.7", _OWN_BOUNDS),
        "grpc-keepalive-timeout": _harmless("3.4 to 3.7", _OWN_BOUNDS),
        "heartbeat-interval": _served("3.4 to 3.7"),
        "host-whitelist": EtcdFlag(
            "3.4 to 3.7",
            ForeignFlag(
                "no Host field is checked; serve clients by https, where etcd checks none either", ("*", "")
            ),
        ),
        "initial-advertise-peer-urls": _served("3.4 to 3.7"),
        "initial-cluster": _served("3.4 to 3.7"),
        "initial-cluster-state": _served("3.4 to 3.7"),
        "initial-cluster-token": _served("3.4 to 3.7"),
        "initial-election-tick-advance": _harmless(
            "3.4 to 3.7", "netstored chooses when to stand for election", switch=True
        ),
        "key-file": _served("3.4 to 3.7"),
        "listen-client-http-urls": _served(
            "3.4.25, 3.5.8 to 3.7", "gRPC is served there, too, and HTTP on --listen-client-urls"
        ),
        "listen-client-urls": _served("3.4 to 3.7"),
        "listen-metrics-urls": _served("3.4 to 3.7"),
        "listen-peer-urls": _served("3.4 to 3.7"),
        "log-format": _served("3.6 to 3.7"),
        "log-level": _served("3.4 to 3.7"),
        "log-output": _served("3.4"),
        "log-outputs": _served(
            "3.4 to 3.7",
            "default, stderr and stdout, not files nor the journal",
        ),
        "log-package-levels": EtcdFlag("3.4", ForeignFlag("write --log-level", ("",))),
        "log-rotation-config-json": _harmless("3.5 to 3.7", _OWN_LOG),
        "logger": _harmless("3.4 to 3.7", "the shape of log lines is set by --log-format"),
        "max-concurrent-streams": _harmless("3.4.20, 3.5.5 to 3.7", _OWN_BOUNDS),
        "max-learners": _harmless("3.6 to 3.7", "the number of learners is bounded by that of the members"),
        "max-request-bytes": _served("3.4 to 3.7", "as far as the memory budget allows; 0 is refused"),
        "max-snapshots": _harmless("3.4 to 3.7", _OWN_PACE),
        "max-txn-ops": _served("3.4 to 3.7", "65,536 at most; 0 is refused"),
        "max-wals": _harmless("3.4 to 3.7", _OWN_PACE),
        "memory-mlock": _harmless("3.6 to 3.7", _NO_PAGES, switch=True),
        "metrics": _harmless("3.4 to 3.7", "what is measured does not depend on it"),
        "name": _served("3.4 to 3.7"),
        "next-cluster-version-compatible": _harmless(
            "3.4.31", "all members have one version of the cluster", switch=True
        ),
        "peer-auto-tls": _served("3.4 to 3.7", "members prove the join token besides"),
        "peer-cert-allowed-cn": _served("3.4 to 3.7"),
        "peer-cert-allowed-hostname": _served("3.4 to 3.7"),
        "peer-cert-file": _served("3.4 to 3.7"),
        "peer-client-cert-auth": _served("3.4 to 3.7", "with --peer-trusted-ca-file it is always so"),
        "peer-client-cert-file": _served("3.5 to 3.7"),
        "peer-client-key-file": _served("3.5 to 3.7"),
        "peer-crl-file": _served("3.4 to 3.7"),
        "peer-key-file": _served("3.4 to 3.7"),
        "peer-skip-client-san-verification": _harmless("3.6 to 3.7", _ONE_HELLO, switch=True),
        "peer-trusted-ca-file": _served("3.4 to 3.7"),
        "pre-vote": _harmless("3.4 to 3.7", _ALWAYS, switch=True),
        "proxy": EtcdFlag("3.4 to 3.5", ForeignFlag(_NO_PROXY, ("off", ""))),
        "proxy-dial-timeout": _harmless("3.4 to 3.5", _NO_PROXY),
        "proxy-failure-wait": _harmless("3.4 to 3.5", _NO_PROXY),
        "proxy-read-timeout": _harmless("3.4 to 3.5", _NO_PROXY),
        "proxy-refresh-interval": _harmless("3.4 to 3.5", _NO_PROXY),
        "proxy-write-timeout": _harmless("3.4 to 3.5", _NO_PROXY),
        "quota-backend-bytes": _served("3.4 to 3.7"),
        "raft-read-timeout": _harmless("3.5 to 3.7", _OWN_BOUNDS),
        "raft-write-timeout": _harmless("3.5 to 3.7", _OWN_BOUNDS),
        "self-signed-cert-validity": _served("3.5 to 3.7"),
        "snapshot-catchup-entries": _harmless("3.6 to 3.7", _OWN_PACE),
        "snapshot-count": _served("3.4 to 3.7", "the default is 100,000, which 0 stands for, too"),
        "socket-reuse-address": _harmless("3.5 to 3.7", _SHARED_PORT, switch=True),
        "socket-reuse-port": _harmless("3.5 to 3.7", _SHARED_PORT, switch=True),
        "strict-reconfig-check": _harmless("3.4 to 3.7", _ALWAYS, switch=True),
        "tls-max-version": _served("3.4.25, 3.5.8 to 3.7"),
        "tls-min-version": _served("3.4.25, 3.5.8 to 3.7"),
        "trusted-ca-file": _served("3.4 to 3.7"),
        "unsafe-no-fsync": _harmless(
            "3.4.10 to 3.7", "each write is on the disk before it is acknowledged", switch=True
        ),
        "v2-deprecation": EtcdFlag(
            "3.5 to 3.7",
            ForeignFlag(
                "write --enable-v2=false instead to have no v2 API",
                ("not-yet", "write-only", "write-only-drop-data", ""),
            ),
        ),
        "version": _served("3.4 to 3.7"),
        "wal-dir": _served("3.4 to 3.7"),
        "warning-apply-duration": _harmless("3.6 to 3.7", _SLOW),
        "warning-unary-request-duration": _harmless("3.6 to 3.7", _SLOW),
        "watch-progress-notify-interval": _served("3.6 to 3.7"),
    }
)
"""Name without dashes -> what there is to know."""

ETCD_ONLY: Final[Mapping[str, ForeignFlag]] = MappingProxyType(
    {name: each.foreign for name, each in FLAGS.items() if each.foreign is not None}
)
"""The flags without a setting."""

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "addr": "--advertise-client-urls",
        "advertise-address": "--advertise-client-urls",
        "advertise-url": "--advertise-client-urls",
        "advertise-urls": "--advertise-client-urls",
        "bind": "--listen-client-urls",
        "bind-addr": "--listen-client-urls",
        "bind-address": "--listen-client-urls",
        "ca-file": "--trusted-ca-file",
        "cacert": "--trusted-ca-file",
        "cert": "--cert-file",
        "cluster": "--initial-cluster",
        "config": "--config-file",
        "data": "--data-dir",
        "dir": "--data-dir",
        "endpoints": "--advertise-client-urls",
        "f": "--config-file",
        "id": "--name",
        "key": "--key-file",
        "listen": "--listen-client-urls",
        "listen-address": "--listen-client-urls",
        "listen-url": "--listen-client-urls",
        "listen-urls": "--listen-client-urls",
        "log": "--log-level",
        "node-name": "--name",
        "peer-addr": "--initial-advertise-peer-urls",
        "peer-bind-addr": "--listen-peer-urls",
        "peer-ca-file": "--peer-trusted-ca-file",
        "peers": "--initial-cluster",
        "port": "--listen-client-urls",
        "quota": "--quota-backend-bytes",
        "snapshot": "--snapshot-count",
        "tls-ca-file": "--trusted-ca-file",
        "tls-cert-file": "--cert-file",
        "tls-key-file": "--key-file",
        "token": "--join-token",
        "v": "--log-level",
        "verbose": "--log-level",
    }
)
"""Flags of earlier etcds, of etcdctl and of other programs, and the one that says the same here."""
