"""The settings of netstored. Flags and variables have etcd's names where the meaning is the same, so that a
unit file for etcd needs little more than the name of the program changed; `ops.etcd_flags` has all flags of
etcd, also those without a setting. It has more than 500 lines because all declarations are one dataclass.

Values that must fit each other are checked when a `StoreConfig` is made, so one that exists can be used.
"""

# ruff: noqa: RUF009 - `setting` is a field specifier, called once for each field

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.limits import SMALLEST
from netstore.net.tlspolicy import SUITES, VERSIONS, TlsPolicy
from netstore.network.config import KNOWN_PREFIXES
from netstore.ops.addresses import (
    LISTENERS,
    MEMBER_NAME,
    OPTIONAL_LISTENERS,
    OPTIONAL_TARGETS,
    TARGETS,
    Alone,
    InitialMember,
    Members,
)
from netstore.ops.etcd_file import read_etcd_file
from netstore.ops.etcd_flags import ETCD_ONLY, FLAGS, MEANINGS
from netstore.ops.kinds import (
    KEY_PATTERN,
    PEM,
    BadValue,
    Choice,
    Duration,
    FilePath,
    Several,
    Switch,
    Text,
    WholeNumber,
    count,
    quoted,
    seconds,
)
from netstore.ops.layers import CONFIG_FILE, Layered
from netstore.ops.loglevels import log_format, log_level
from netstore.ops.settings import BadSetting, check_settings, setting
from netstore.urls import Url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

DEFAULT_CLUSTER_TOKEN: Final = "etcd-cluster"  # noqa: S105 - no secret: everybody knows it
"""etcd's default. Everybody knows it, so it proves nothing."""


def _read_origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/,]{1,300}", text):
        raise BadValue(f"{quoted(text)} is not an origin")
    return text


def _read_suite(text: str) -> str:
    if text not in SUITES:
        raise BadValue(f"{quoted(text)} is no suite that can be chosen")
    return text


def _read_name(text: str) -> str:
    return text


def _read_output(text: str) -> str:
    if text not in LOG_OUTPUTS:
        raise BadValue(f"{quoted(text)} is neither standard output nor standard error")
    return text


_SUITES: Final = Several(
    _read_suite, "give names as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, of those in netstored(8)", "SUITE,..."
)
_NAMES: Final = Several(_read_name, "give names separated by commas", "NAME,...")

SHORTEST_ARCHIVE: Final = 3600
"""Least `archive_keep_seconds`: the state is copied about once in that time."""

SNAPSHOT_COUNT: Final = 100_000
"""The default of etcd 3.4 and 3.5, which also stands for 0."""

LOG_OUTPUTS: Final = ("default", "stderr", "stdout")
"""Where the log can go; default is stderr."""

_OUTPUTS_FIX: Final = (
    f"give some of {', '.join(LOG_OUTPUTS)}; the journal has what a unit writes to stderr, and"
    " StandardError=append:PATH in the unit writes it to a file"
)


def _read_prefix(text: str) -> str:
    if not re.fullmatch(KEY_PATTERN, text):
        raise BadValue(f"{quoted(text)} is not a key")
    return text


def default_data_dir() -> Path:
    """The data folder if none is set: the one that systemd made for the service, else /var/lib/netstore for
    root, else one in the user's home, so that a store starts without any configuration.
    """
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/netstore")
    if base := os.environ.get("XDG_DATA_HOME"):
        return Path(base) / "netstore"
    return Path(os.path.expanduser("~")) / ".local/share/netstore"  # noqa: PTH111 - Path.home() raises without a home


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """All settings of one netstored. Raises `BadSetting` if values do not fit together.

    If they are not set, URLs to advertise are derived from those to listen on, and the initial cluster is
    this member alone.
    """

    name: str = setting(
        MEMBER_NAME,
        "default",
        "Name of this member, unique in its cluster.",
        variables=("ETCD_NAME",),
    )
    data_dir: Path = setting(
        FilePath(),
        default_data_dir,
        "Folder for everything this member keeps; made with mode 0700 when it is missing.",
        variables=("ETCD_DATA_DIR",),
        default_words="$STATE_DIRECTORY, else /var/lib/netstore for root, else ~/.local/share/netstore",
        is_place=True,
    )
    wal_dir: Path | None = setting(
        FilePath(),
        None,
        "Folder for the write-ahead log alone, for a disk of its own.",
        variables=("ETCD_WAL_DIR",),
        default_words="inside data_dir",
        is_place=True,
    )
    listen_client_urls: tuple[Url, ...] = setting(
        LISTENERS,
        (Url("http", "127.0.0.1", 2379),),
        "URLs to serve clients on; port 0 takes a free one.",
        variables=("ETCD_LISTEN_CLIENT_URLS",),
    )
    advertise_client_urls: tuple[Url, ...] = setting(
        TARGETS,
        (),
        "URLs that clients are told to reach this member at.",
        variables=("ETCD_ADVERTISE_CLIENT_URLS",),
        default_words="as listen_client_urls",
    )
    listen_peer_urls: tuple[Url, ...] = setting(
        LISTENERS,
        (Url("http", "127.0.0.1", 2380),),
        "URLs to serve other members on; port 0 takes a free one.",
        variables=("ETCD_LISTEN_PEER_URLS",),
    )
    listen_client_http_urls: tuple[Url, ...] = setting(
        OPTIONAL_LISTENERS,
        (),
        "Further URLs to serve clients on.",
        variables=("ETCD_LISTEN_CLIENT_HTTP_URLS",),
    )
    listen_metrics_urls: tuple[Url, ...] = setting(
        OPTIONAL_LISTENERS,
        (),
        "URLs that serve /metrics, /health, /livez and /readyz alone.",
        variables=("ETCD_LISTEN_METRICS_URLS",),
    )
    initial_advertise_peer_urls: tuple[Url, ...] = setting(
        TARGETS,
        (),
        "URLs that other members reach this one at when the cluster starts.",
        variables=("ETCD_INITIAL_ADVERTISE_PEER_URLS",),
        default_words="as in initial_cluster, else as listen_peer_urls",
    )
    initial_cluster: tuple[InitialMember, ...] = setting(
        Members(),
        (),
        "Members that the cluster starts with, this one among them.",
        variables=("ETCD_INITIAL_CLUSTER",),
        default_words="this member alone",
    )
    initial_cluster_state: str = setting(
        Choice(("new", "existing")),
        "new",
        "Whether this member starts a new cluster or joins an existing one.",
        variables=("ETCD_INITIAL_CLUSTER_STATE",),
    )
    initial_cluster_token: str = setting(
        Text("give 1 to 256 printable characters", r".{1,256}"),
        DEFAULT_CLUSTER_TOKEN,
        "Tells clusters apart, and is the join token of one that begins with several members.",
        secret=True,
        variables=("ETCD_INITIAL_CLUSTER_TOKEN",),
    )
    join: tuple[Url, ...] = setting(
        OPTIONAL_TARGETS,
        (),
        "Peer URLs of members of a running cluster, one of which lets this member in.",
        default_words="none: the cluster starts as initial_cluster says",
    )
    join_token: str | None = setting(
        Text("give 1 to 256 printable characters, as netstorectl member token prints them", r".{1,256}"),
        None,
        "Secret that members without certificates prove they know; kept in data_dir, never printed.",
        secret=True,
        default_words="as data_dir has it, else made at the first start",
    )
    join_token_file: Path | None = setting(
        FilePath(fix="name a file that holds nothing but the token", needed=True, read_once=True),
        None,
        "File to read join_token from, so that it is not shown in lists of processes.",
    )
    voters: int = setting(
        WholeNumber(1, 7, "members"),
        3,
        "Members that are to vote; one that joins gets a vote while fewer have one, else it is a learner.",
    )
    force_new_cluster: bool = setting(
        Switch(),
        False,
        "Make this member's data the beginning of a new cluster of one, after the others are lost for good.",
        variables=("ETCD_FORCE_NEW_CLUSTER",),
    )
    snapshot_count: int = setting(
        WholeNumber(0, 10_000_000, "log entries"),
        SNAPSHOT_COUNT,
        f"Log entries applied between two snapshots of the state; 0 for {SNAPSHOT_COUNT}."
        " A cluster of one member takes one every 5000, or every second's if those are more.",
        variables=("ETCD_SNAPSHOT_COUNT",),
    )
    heartbeat_interval: int = setting(
        WholeNumber(1, 10_000, "milliseconds"),
        100,
        "Milliseconds between two heartbeats of the leader.",
        variables=("ETCD_HEARTBEAT_INTERVAL",),
    )
    election_timeout: int = setting(
        WholeNumber(5, 50_000, "milliseconds"),  # the upper bound is etcd's
        1000,
        "Milliseconds without a leader before a member stands for election; at least five heartbeats.",
        variables=("ETCD_ELECTION_TIMEOUT",),
    )
    enable_v2: bool = setting(
        Switch(),
        True,
        "Serve the v2 API.",
        variables=("ETCD_ENABLE_V2",),
    )
    cors: tuple[str, ...] = setting(
        Several(_read_origin, "give * or origins as SCHEME://HOST:PORT", "ORIGIN,..."),
        ("*",),
        "Origins that browsers may call from; * for all, empty for none.",
        variables=("ETCD_CORS",),
    )
    cert_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the certificate shown to clients, followed by those between it and its authority.",
        variables=("ETCD_CERT_FILE",),
    )
    key_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the private key of cert_file.",
        variables=("ETCD_KEY_FILE",),
    )
    trusted_ca_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the authorities that sign clients' certificates; with it, clients must show one.",
        variables=("ETCD_TRUSTED_CA_FILE",),
    )
    client_cert_auth: bool = setting(
        Switch(),
        False,
        "Clients must show a certificate signed by an authority of trusted_ca_file.",
        variables=("ETCD_CLIENT_CERT_AUTH",),
    )
    peer_cert_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the certificate shown to other members, whichever side calls.",
        variables=("ETCD_PEER_CERT_FILE",),
    )
    peer_key_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the private key of peer_cert_file.",
        variables=("ETCD_PEER_KEY_FILE",),
    )
    peer_trusted_ca_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the authorities that sign members' certificates; with it, callers must show one.",
        variables=("ETCD_PEER_TRUSTED_CA_FILE",),
        default_words="the system's authorities, and no certificate is asked of callers",
    )
    peer_client_cert_auth: bool = setting(
        Switch(),
        False,
        "Members that call must show a certificate signed by an authority of peer_trusted_ca_file.",
        variables=("ETCD_PEER_CLIENT_CERT_AUTH",),
    )
    client_crl_file: Path | None = setting(
        PEM,
        None,
        "List of revoked certificates of clients, in PEM or DER form.",
        variables=("ETCD_CLIENT_CRL_FILE",),
    )
    client_cert_allowed_cn: tuple[str, ...] = setting(
        _NAMES,
        (),
        "Common names, one of which a client's certificate must have.",
        default_words="any",
    )
    client_cert_allowed_hostname: tuple[str, ...] = setting(
        _NAMES,
        (),
        "Hosts or addresses, for one of which a client's certificate must be valid.",
        variables=("ETCD_CLIENT_CERT_ALLOWED_HOSTNAME",),
        default_words="any",
    )
    peer_client_cert_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the certificate shown to members that this one calls.",
        variables=("ETCD_PEER_CLIENT_CERT_FILE",),
        default_words="as peer_cert_file",
    )
    peer_client_key_file: Path | None = setting(
        PEM,
        None,
        "PEM file of the private key of peer_client_cert_file.",
        variables=("ETCD_PEER_CLIENT_KEY_FILE",),
        default_words="as peer_key_file",
    )
    peer_crl_file: Path | None = setting(
        PEM,
        None,
        "List of revoked certificates of members, in PEM or DER form.",
        variables=("ETCD_PEER_CRL_FILE",),
    )
    peer_cert_allowed_cn: tuple[str, ...] = setting(
        _NAMES,
        (),
        "Common names, one of which a member's certificate must have.",
        variables=("ETCD_PEER_CERT_ALLOWED_CN",),
        default_words="any",
    )
    peer_cert_allowed_hostname: tuple[str, ...] = setting(
        _NAMES,
        (),
        "Hosts or addresses, for one of which a member's certificate must be valid.",
        variables=("ETCD_PEER_CERT_ALLOWED_HOSTNAME",),
        default_words="any",
    )
    auto_tls: bool = setting(
        Switch(),
        False,
        "Serve clients with a certificate that the member makes itself, and that nobody can verify.",
        variables=("ETCD_AUTO_TLS",),
    )
    peer_auto_tls: bool = setting(
        Switch(),
        False,
        "Talk to members with a certificate that the member makes itself, and verify none.",
        variables=("ETCD_PEER_AUTO_TLS",),
    )
    self_signed_cert_validity: int = setting(
        WholeNumber(1, 100, "years"),
        1,
        "Years that a certificate is valid that the member makes itself.",
        variables=("ETCD_SELF_SIGNED_CERT_VALIDITY",),
        needs=("auto_tls", "peer_auto_tls"),
    )
    tls_min_version: str = setting(
        Choice(tuple(VERSIONS)),
        "TLS1.2",
        "Least version of TLS that is spoken.",
        variables=("ETCD_TLS_MIN_VERSION",),
    )
    tls_max_version: str = setting(
        Choice(tuple(VERSIONS)),
        "TLS1.3",
        "Greatest version of TLS that is spoken.",
        variables=("ETCD_TLS_MAX_VERSION",),
    )
    cipher_suites: tuple[str, ...] = setting(
        _SUITES,
        (),
        "Cipher suites of TLS 1.2, by their names in IANA's register; those of 1.3 are not chosen. If all"
        " are of 1.3, TLS 1.2 is not spoken.",
        variables=("ETCD_CIPHER_SUITES",),
        default_words="those of the TLS library",
    )
    allow_insecure_http: bool = setting(
        Switch(),
        False,
        "Serve plain HTTP on addresses that other machines reach.",
    )
    etcd_compat: bool = setting(
        Switch(),
        False,
        "Only warn of what etcd accepts: plain HTTP that others reach, wildcard URLs that are advertised.",
        default_words="true with variables ETCD_*, with etcd's configuration file, and when called as etcd",
    )
    max_connections: int = setting(
        WholeNumber(1, 1_000_000, "connections"),
        10_000,
        "Client connections open at a time; beyond it unused ones go, then those of the client with most.",
    )
    memory_budget: int = setting(
        WholeNumber(0, 1 << 40, "bytes"),
        0,
        "Bytes all buffers may hold together; 0 for an eighth of the memory, from 64 to 512 MiB.",
    )
    loop_budget_ms: int = setting(
        WholeNumber(1, 60_000, "milliseconds"),
        5,
        "Milliseconds a piece of work may take before it is counted and logged as blocking the loop.",
    )
    max_header_bytes: int = setting(
        WholeNumber(1024, 1 << 20, "bytes"),
        64 << 10,
        "Bytes of a request's line and header fields together.",
    )
    max_body_bytes: int = setting(
        WholeNumber(1024, 1 << 30, "bytes"),
        10 << 20,
        "Bytes of a request's body.",
    )
    max_request_bytes: int = setting(
        WholeNumber(
            1024,
            (1 << 32) - 1,
            "bytes",
            zero="0 would refuse every write, as etcd then does",
        ),
        1_572_864,
        "Bytes of one write of the v3 API, as far as the memory budget allows.",
        variables=("ETCD_MAX_REQUEST_BYTES",),
    )
    max_txn_ops: int = setting(
        WholeNumber(
            1,
            (1 << 32) - 1,
            "operations",
            zero="0 would refuse every transaction that is not empty, as etcd then does",
        ),
        128,
        "Operations in each list of a v3 transaction, 65536 at most.",
        variables=("ETCD_MAX_TXN_OPS",),
    )
    quota_backend_bytes: int = setting(
        WholeNumber(-(1 << 63), (1 << 63) - 1, "bytes"),
        0,
        "Bytes the v3 keys and their history may take before writes are refused; 0 for 2 GiB, -1 or less for"
        " no limit.",
        variables=("ETCD_QUOTA_BACKEND_BYTES",),
    )
    auto_compaction_mode: str = setting(
        Choice(("periodic", "revision")),
        "periodic",
        "Whether the v3 history is kept for a time or for a number of revisions.",
        variables=("ETCD_AUTO_COMPACTION_MODE",),
    )
    auto_compaction_retention: str = setting(
        Duration("give a time as 30m, or a whole number", "TIME|NUMBER", bare=True),
        "0",
        "How much v3 history is kept: a time as 30m, a bare number being hours, or revisions; 0 for all.",
        variables=("ETCD_AUTO_COMPACTION_RETENTION",),
    )
    watch_progress_notify_interval: str = setting(
        Duration("give a time as 10m or 500ms"),
        "10m",
        "How often idle v3 watches that ask for it are sent the revision.",
        flags=("experimental-watch-progress-notify-interval",),
        variables=(
            "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL",
            "ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL",
        ),
    )
    slow_client_seconds: int = setting(
        WholeNumber(1, 3600, "seconds"),
        30,
        "Seconds a client may pause while it sends a request or reads an answer before it is cut off.",
    )
    scrub_mib_per_second: int = setting(
        WholeNumber(0, 1024, "MiB"),
        4,
        "MiB of the stored state that are verified each second in the background, once an hour; 0: none.",
    )
    log_level: str = log_level("ETCD_LOG_LEVEL")
    log_format: str = log_format("ETCD_LOG_FORMAT")
    log_outputs: tuple[str, ...] = setting(
        Several(_read_output, _OUTPUTS_FIX, "WORD,...", high=len(LOG_OUTPUTS)),
        ("default",),
        "Where the log goes: stderr, which is the default, stdout, or both.",
        flags=("log-output",),
        variables=("ETCD_LOG_OUTPUTS", "ETCD_LOG_OUTPUT"),
    )
    network_validate: bool = setting(
        Switch(),
        True,
        "Refuse to write a network config that no daemon can use, in both APIs; false: write it, as etcd.",
        table="network",
    )
    network_prefixes: tuple[str, ...] = setting(
        Several(_read_prefix, "give keys as /name/name, without a slash at the end", "KEY,..."),
        KNOWN_PREFIXES,
        "Keys under which networks are kept: what is written to config below one of them is checked.",
        needs=("network_validate",),
        table="network",
    )

    archive_folder: Path | None = setting(
        FilePath(),
        None,
        "Folder to which the log is archived, for restoring to any point of it; only this member may use it.",
        table="archive",
        is_place=True,
    )
    archive_lag_seconds: int = setting(
        WholeNumber(1, 3600, "seconds"),
        10,
        "Seconds after which the writing of a change to the archive begins at the latest.",
        needs=("archive_folder",),
        table="archive",
    )
    archive_keep_seconds: int = setting(
        WholeNumber(0, 3_155_760_000, "seconds"),
        0,
        "Seconds back to which the archive leads at least: 3600 or more; 0, and nothing is removed.",
        needs=("archive_folder",),
        table="archive",
    )

    backup_folder: Path | None = setting(
        FilePath(),
        None,
        "Existing folder for scheduled backups of everything, best on another disk.",
        table="backup",
        default_words="not set: no scheduled backups",
        is_place=True,
    )
    backup_every: str = setting(
        Duration("give a time as 6h or 30m, at least 1s"),
        "6h",
        "Time from one scheduled backup to the next.",
        needs=("backup_folder",),
        table="backup",
    )
    backup_keep: int = setting(
        WholeNumber(1, 100_000, "backups"),
        28,
        "Scheduled backups of this member that are left in backup_folder; older ones are removed.",
        needs=("backup_folder",),
        table="backup",
    )
    backup_hook: str | None = setting(
        Text("give a program with its arguments", r".{1,4096}", "COMMAND"),
        None,
        "Command run, without a shell, after each scheduled backup, to take it off this machine.",
        table="backup",
    )
    backup_hook_seconds: int = setting(
        WholeNumber(1, 86_400, "seconds"),
        600,
        "Seconds after which a backup_hook that still runs is killed.",
        needs=("backup_hook",),
        table="backup",
    )

    def __post_init__(self) -> None:
        own = {member.name: member.peer_urls for member in self.initial_cluster}
        self._derive("advertise_client_urls", self.listen_client_urls)
        self._derive("initial_advertise_peer_urls", own.get(self.name, self.listen_peer_urls))
        self._derive("initial_cluster", Alone((InitialMember(self.name, self.initial_advertise_peer_urls),)))
        check_settings(self)
        self._check_listeners()
        for exposed in self._exposures():
            if not exposed.tolerated:
                raise BadSetting(exposed.key, exposed.problem, exposed.fix)
        self._check_own_entry()
        self._check_joining()
        self._check_versions()
        self._check_certificates("", self._served)
        self._check_certificates("peer_", self._peers)
        self._check_backup()
        self._check_places()
        if 0 < self.archive_keep_seconds < SHORTEST_ARCHIVE:
            raise BadSetting(
                "archive_keep_seconds",
                f"{self.archive_keep_seconds} is too few: the state is copied about once in so many seconds",
                f"give at least {SHORTEST_ARCHIVE}, and the archive leads back at least so far, or 0 to keep"
                " all; 604800 is a week",
            )
        if self.voters % 2 == 0:
            raise BadSetting(
                "voters",
                f"{self.voters} voters survive the loss of no more members than {self.voters - 1} do",
                "give 1, 3, 5 or 7",
            )
        if 0 < self.memory_budget < SMALLEST:
            raise BadSetting(
                "memory_budget",
                f"{self.memory_budget} bytes are too few for a member to work with",
                f"give at least {SMALLEST}, or 0 for a part of the memory",
            )
        if self.auto_compaction_mode == "revision" and count(self.auto_compaction_retention) is None:
            raise BadSetting(
                "auto_compaction_retention",
                f"{quoted(self.auto_compaction_retention)} is no number of revisions",
                "give a whole number, or the auto_compaction_mode periodic",
            )
        if self.election_timeout < 5 * self.heartbeat_interval:
            raise BadSetting(
                "election_timeout",
                f"{self.election_timeout} ms is less than five heartbeats of {self.heartbeat_interval} ms",
                f"give at least {5 * self.heartbeat_interval}, or a smaller heartbeat_interval",
            )

    @property
    def history_seconds(self) -> float:
        """For how long the v3 history is kept; 0 for no bound in time."""
        retention = self.auto_compaction_retention
        if self.auto_compaction_mode != "periodic":
            return 0.0
        hours = count(retention)
        return seconds(retention) if hours is None else hours * 3600.0

    @property
    def history_revisions(self) -> int:
        """How many revisions of the v3 history are kept; 0 for no bound in number."""
        return (count(self.auto_compaction_retention) or 0) if self.auto_compaction_mode == "revision" else 0

    @property
    def entries_per_snapshot(self) -> int:
        """`snapshot_count`, or what 0 stands for."""
        return self.snapshot_count or SNAPSHOT_COUNT

    @property
    def progress_seconds(self) -> float:
        """`watch_progress_notify_interval` in seconds, at least 0.1, as in etcd."""
        return max(0.1, seconds(self.watch_progress_notify_interval))

    def _derive(self, key: str, value: object) -> None:
        if not getattr(self, key):
            object.__setattr__(self, key, value)

    def _check_backup(self) -> None:
        if seconds(self.backup_every) < 1:
            raise BadSetting(
                "backup_every", f"{quoted(self.backup_every)} is too short", "give at least 1s; 6h is usual"
            )
        if self.backup_hook is None:
            return
        if self.backup_folder is None:
            raise BadSetting("backup_hook", "is of no use without backup_folder", "give backup_folder too")
        try:
            words = shlex.split(self.backup_hook)
        except ValueError as error:
            raise BadSetting(
                "backup_hook", f"cannot be split into words: {error}", "close what is quoted"
            ) from None
        if not words:
            raise BadSetting("backup_hook", "names no program", "give a program with its arguments")

    def _check_places(self) -> None:
        """Folders whose files would be taken for each other's. Links are followed. Files of backups are not:
        they have names of their own.
        """
        data = Path(os.path.realpath(self.data_dir))
        state, log = data / "state", Path(os.path.realpath(self.wal_dir or data / "wal"))
        members = {"the folder of the state": state, "wal_dir": log}
        for key, places in (
            ("wal_dir", {"the folder of the state": state}),
            ("archive_folder", {"data_dir": data, **members}),
            ("backup_folder", members),
        ):
            given = getattr(self, key)
            found = Path(os.path.realpath(given or "/"))
            for other, place in places.items():
                is_inside = place in found.parents and place != data
                if given is not None and (found == place or is_inside):
                    how = "lies inside" if is_inside else "is the same folder as"
                    raise BadSetting(key, f"{given} {how} {other}", "name a folder of its own")

    @property
    def backup_seconds(self) -> float:
        """`backup_every` in seconds."""
        return seconds(self.backup_every)

    def _check_listeners(self) -> None:
        seen: dict[Url, str] = {}
        for key in _LISTENED:
            for url in getattr(self, key):
                if url.port and url in seen:
                    raise BadSetting(key, f"{url} is in {seen[url]} too", "give each its own port")
                seen[url] = key

    def _exposures(self) -> Iterator[_Exposure]:
        """What others could reach, or be misled by, that they should not. A wildcard misleads nobody about
        the only member of a cluster: whoever asks it has reached it.
        """
        for key in _LISTENED:
            for url in getattr(self, key):
                if not (url.is_loopback or url.scheme == "https" or self.allow_insecure_http):
                    yield _Exposure(
                        key,
                        f"{url} serves plain HTTP to other machines",
                        "use https or a loopback address, or set allow_insecure_http on a trusted network",
                        tolerated=self.etcd_compat or key == "listen_metrics_urls",
                    )
        alone = len(self.initial_cluster) == 1 and not self.join and self.initial_cluster_state == "new"
        for key, listened in _ADVERTISED.items():
            for url in getattr(self, key):
                if url.is_wildcard:
                    yield _Exposure(
                        key,
                        f"{url} stands for all addresses of this machine, and leads nobody else here",
                        f"name those addresses of {listened} that others reach",
                        tolerated=self.etcd_compat or alone,
                    )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What is tolerated and better changed, one line each."""
        exposed = (f"{each.key}: {each.problem}; {each.fix}" for each in self._exposures())
        return (*exposed, *self._unused())

    def _unused(self) -> Iterator[str]:
        """What is not used beside other settings."""
        if self.join_token is not None and self.join_token_file is not None:
            yield "join_token_file: not read, since join_token is set; leave one out"
        for prefix, listened, urls in (
            ("", "listen_client_urls", self._served),
            ("peer_", "listen_peer_urls", self._peers),
        ):
            names = ("cert_file", "key_file", "trusted_ca_file", "client_cert_auth", "auto_tls")
            given = [f"{prefix}{name}" for name in names if getattr(self, f"{prefix}{name}")]
            if given and all(url.scheme != "https" for url in urls):
                yield f"{', '.join(given)}: no effect, since no URL is https; write it so in {listened}"
            elif f"{prefix}auto_tls" in given and f"{prefix}cert_file" in given:
                yield f"{prefix}auto_tls: no effect beside {prefix}cert_file, which is shown; leave one out"

    @property
    def _served(self) -> tuple[Url, ...]:
        """Where clients are served."""
        return (*self.listen_client_urls, *self.listen_client_http_urls, *self.listen_metrics_urls)

    @property
    def _peers(self) -> tuple[Url, ...]:
        """Where members are reached: this one, and the others."""
        others = (url for each in self.initial_cluster for url in each.peer_urls)
        return (*self.listen_peer_urls, *others, *self.join)

    def tls_policy(self, prefix: str) -> TlsPolicy:
        """What is asked of the streams of one side. `prefix` is "" for clients and "peer_" for members."""
        own = prefix or "client_"
        return TlsPolicy(
            self.tls_min_version,
            self.tls_max_version,
            self.cipher_suites,
            getattr(self, f"{own}crl_file"),
            getattr(self, f"{own}cert_allowed_cn"),
            getattr(self, f"{own}cert_allowed_hostname"),
            verifies=not (prefix and self.peer_auto_tls and self.peer_cert_file is None),
        )

    def _check_versions(self) -> None:
        if self.tls_min_version > self.tls_max_version:
            raise BadSetting(
                "tls_max_version",
                f"{self.tls_max_version} is less than the tls_min_version {self.tls_min_version}",
                "give a greater one, or leave one of them out",
            )
        if self.cipher_suites and self.tls_min_version != "TLS1.2":
            raise BadSetting(
                "cipher_suites",
                f"has no effect, since those of {self.tls_min_version} cannot be chosen",
                "remove it, or give the tls_min_version TLS1.2",
            )
        if (
            self.tls_max_version == "TLS1.2"
            and self.cipher_suites
            and not any(map(SUITES.get, self.cipher_suites))
        ):
            raise BadSetting(
                "cipher_suites",
                "has no suite of TLS 1.2, the tls_max_version",
                "add one, or give the tls_max_version TLS1.3",
            )

    def _check_own_entry(self) -> None:
        urls = {member.name: member.peer_urls for member in self.initial_cluster}.get(self.name)
        advertised = ",".join(map(str, self.initial_advertise_peer_urls))
        if urls is None:
            raise BadSetting(
                "initial_cluster",
                f"has no member named {quoted(self.name)}",
                f"add {self.name}={advertised}, or correct the name",
            )
        if set(urls) != set(self.initial_advertise_peer_urls):
            raise BadSetting(
                "initial_cluster",
                f"gives {self.name} the URLs {','.join(map(str, urls))}, it advertises {advertised}",
                "make initial_cluster and initial_advertise_peer_urls agree",
            )

    def _check_joining(self) -> None:
        if self.join and len(self.initial_cluster) > 1:
            raise BadSetting(
                "join",
                "gets the members from a running cluster, and initial_cluster names them too",
                "give one of the two",
            )
        unnamed = isinstance(self.initial_cluster, Alone) and not self.join and not self.force_new_cluster
        if self.initial_cluster_state == "existing" and unnamed:
            raise BadSetting(
                "initial_cluster_state",
                "is existing, and no other member is named to ask",
                "give initial_cluster with the members of the cluster, or use join",
            )

    def _check_certificates(self, prefix: str, urls: Sequence[Url]) -> None:
        """Check the TLS settings of one side: certificate and key are both set or neither; authorities and
        https URLs need them. `prefix` is "" for clients and "peer_" for other members.
        """
        certificate, key, trusted = f"{prefix}cert_file", f"{prefix}key_file", f"{prefix}trusted_ca_file"
        pairs = [(certificate, key), (key, certificate)]
        if not getattr(self, f"{prefix}auto_tls"):
            pairs.append((trusted, certificate))
        if prefix:
            calling = f"{prefix}client_cert_file", f"{prefix}client_key_file"
            pairs += [calling, calling[::-1], (calling[0], certificate)]
        for one, other in pairs:
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise BadSetting(one, f"is of no use without {other}", f"give {other} too")
        asked = f"{prefix}client_cert_auth"
        if getattr(self, asked) and getattr(self, trusted) is None:
            raise BadSetting(
                asked,
                f"has no effect without {trusted}, which says whom to trust",
                f"give {trusted}, or leave {asked} out",
            )
        own = prefix or "client_"
        for limit in (f"{own}crl_file", f"{own}cert_allowed_cn", f"{own}cert_allowed_hostname"):
            if getattr(self, limit) and getattr(self, trusted) is None:
                raise BadSetting(
                    limit, f"has no effect without {trusted}, which says whom to trust", f"give {trusted} too"
                )
        if getattr(self, f"{own}cert_allowed_cn") and getattr(self, f"{own}cert_allowed_hostname"):
            raise BadSetting(
                f"{own}cert_allowed_cn",
                f"cannot be combined with {own}cert_allowed_hostname",
                "give one of the two",
            )
        encrypted = next((url for url in urls if url.scheme == "https"), None)
        if (
            encrypted is not None
            and getattr(self, certificate) is None
            and not getattr(self, f"{prefix}auto_tls")
        ):
            raise BadSetting(
                certificate, f"is needed for {encrypted}", f"give {certificate} and {key}, or use http"
            )


class _Exposure(NamedTuple):
    """Something that a setting exposes."""

    key: str
    problem: str
    fix: str
    tolerated: bool


_LISTENED: Final = (
    "listen_client_urls",
    "listen_peer_urls",
    "listen_client_http_urls",
    "listen_metrics_urls",
)
_ADVERTISED: Final = {
    "advertise_client_urls": "listen_client_urls",
    "initial_advertise_peer_urls": "listen_peer_urls",
}

COMMAND_VARIABLES: Final = (
    "NETSTORE_ENDPOINTS",
    "NETSTORE_PASSWORD",
    "NETSTORE_PREFIX",
    "NETSTORE_TIMEOUT",
    "NETSTORE_USERNAME",
)
"""Variables of netstorectl. A shell that starts a store may have them, so they are not refused as unknown."""


def _check_place(config: StoreConfig, given: AbstractSet[str]) -> None:
    """BadSetting if a store without a data folder that was set would begin empty beside the one of an etcd
    that was started so: `NAME.etcd` in the working folder (etcd's --data-dir).
    """
    if "data_dir" in given:
        return
    folder = Path(f"{config.name}.etcd").absolute()
    if not os.path.isdir(folder / "member"):  # noqa: PTH112 - says no where it may not look
        return
    from netstore.disk.datadir import is_data_folder  # noqa: PLC0415 - few starts come here

    try:
        is_begun = is_data_folder(config.data_dir)
    except OSError:
        return  # the start says why its folder cannot be read
    if not is_begun:
        raise BadSetting(
            "data_dir",
            f"is not set, and an etcd that was started so has its data in {folder}",
            f"run netstorectl import --data-dir NEW {folder} and give NEW as the data_dir; or give another"
            " folder as the data_dir to begin an empty store",
            "default",
        )


STORE: Final = Layered(
    form=StoreConfig,
    program="netstored",
    about="Runs one member of a netstore cluster. Without flags: a cluster of one, on loopback.",
    table="store",
    tables=("store", "agent", "archive", "network", "plugins", "backup"),
    prefix="NETSTORE_",
    siblings=("NETSTORE_AGENT_", *COMMAND_VARIABLES),
    alias_prefix="ETCD_",
    original="etcd",
    foreign=ETCD_ONLY,
    default_file=CONFIG_FILE,
    meanings=MEANINGS,
    original_flags=frozenset(FLAGS),
    read_original=read_etcd_file,
    manners="etcd_compat",
    cautions=lambda config: config.cautions,
    check_place=_check_place,
    tools={
        "inspect-log [FROM:TO]": "List the entries of a stopped member's log, and exit.",
        "skip-entry INDEX": "Have a stopped member skip an entry that it cannot apply, and exit.",
        "confirm HASH": "Confirm --skip-entry with the hash that --inspect-log shows for the entry.",
    },
)
