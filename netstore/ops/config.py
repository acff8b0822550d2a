"""What netstored and netstore-agent can be told, each setting declared once.

Flag names are etcd's and flannel's where the notion is the same, so that their unit files port by changing
the binary's name. The declarations drive flags, environment, TOML, `--help`, `--check-config` and the test
of the manual (`ops.layered`); a check that needs two settings lives in `__post_init__`, so a configuration
object that exists is fit to use, whoever made it.
"""

# ruff: noqa: RUF009 - `setting` is a field specifier, called once for each field

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.limits import SMALLEST
from netstore.network.config import DEFAULT_PREFIX
from netstore.network.lease import DEFAULT_TTL
from netstore.ops.layered import (
    BadSetting,
    Choice,
    Foreign,
    Layered,
    Place,
    Several,
    Switch,
    Text,
    Unfit,
    Whole,
    check_settings,
    quoted,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG_FILE: Final = Path("/etc/netstore/netstore.toml")
"""Read when it exists and no other file is named."""

LOG_LEVELS: Final = ("debug", "info", "warn", "error", "panic", "fatal")
"""etcd's words, quietest last. Nothing here is logged above error, so panic and fatal only silence."""

LOG_FORMATS: Final = ("auto", "json", "console")

DEFAULT_CLUSTER_TOKEN: Final = "etcd-cluster"  # noqa: S105 - no secret: everybody knows it
"""etcd's; everybody knows it, so it proves nothing."""

MAX_ELECTION_MS: Final = 50_000
"""etcd's own bound: a cluster that needs longer to notice a dead leader is not in one place."""


class Url(NamedTuple):
    """An address to listen on or to be reached at. `str()` gives its normal form, without a path."""

    scheme: str
    host: str
    """A name or an address, an IPv6 address without its brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only this machine reaches it."""
        address = _address(self.host)
        return address.is_loopback if address else self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        """It means every address of this machine, so nobody can be sent there."""
        address = _address(self.host)
        return address is not None and address.is_unspecified


class InitialMember(NamedTuple):
    """A member that the cluster starts with, and the peer URLs it is reached at."""

    name: str
    peer_urls: tuple[Url, ...]


class Alone(tuple[InitialMember, ...]):
    """The initial cluster of a member that was told of none: itself."""

    __slots__ = ()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


def read_url(text: str) -> Url:
    """Parse `http://host:port` or `https://host:port`; a port is always named. Raises `Unfit`."""
    match = re.fullmatch(
        r"([A-Za-z][A-Za-z0-9+.-]*)://(?:\[([^\]]*)\]|([^/:\[\]]*))(?::([^/]*))?(/.*)?", text
    )
    if match is None:
        raise Unfit(f"{quoted(text)} is not a URL")
    scheme, bracketed, plain, port, path = match.groups()
    if scheme.lower() not in ("http", "https"):
        raise Unfit(f"{quoted(text)} has the scheme {quoted(scheme)}, not http or https")
    if path not in (None, "/"):
        raise Unfit(f"{quoted(text)} has a path")
    if not port or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise Unfit(f"{quoted(text)} has no port from 0 to 65535")
    host = bracketed if plain is None else plain
    address = _address(host)
    if "%" in host or (bracketed is not None and (address is None or address.version != 6)):
        raise Unfit(f"{quoted(text)} has no IPv6 address between its brackets")
    if address is None and (
        len(host) > 253 or not _HOST_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host)
    ):
        raise Unfit(f"{quoted(text)} has no usable host")
    return Url(scheme.lower(), host, int(port))


def _read_listener(text: str) -> Url:
    url = read_url(text)
    if url.host != "localhost" and _address(url.host) is None:
        raise Unfit(f"{quoted(text)} names a host; a listener needs an address of this machine")
    return url


def _read_target(text: str) -> Url:
    url = read_url(text)
    if url.port == 0:
        raise Unfit(f"{quoted(text)} has port 0, where nobody can be reached")
    return url


_NAME: Final = r"[^\s,=]{1,128}"
_NAME_FIX: Final = "give 1 to 128 characters without spaces, commas and equals signs"


def _read_pair(text: str) -> tuple[str, Url]:
    name, equals, url = text.partition("=")
    if not equals or not re.fullmatch(_NAME, name):
        raise Unfit(f"{quoted(text)} is not NAME=URL")
    return name, _read_target(url)


@dataclass(frozen=True, slots=True)
class _Members:
    """etcd's `name=url,name=url`, a name given again adding a URL; in TOML also an array of such pairs."""

    fix: str = "give each member as NAME=http://HOST:PORT, separated by commas"
    placeholder: str = "NAME=URL,..."

    def read(self, value: object) -> tuple[InitialMember, ...]:
        return self._gather(_PAIRS.read(value))

    def read_words(self, words: Sequence[str]) -> tuple[InitialMember, ...]:
        return self._gather(_PAIRS.read_words(words[-1:]))

    def _gather(self, pairs: Sequence[tuple[str, Url]]) -> tuple[InitialMember, ...]:
        urls: dict[str, list[Url]] = {}
        for name, url in pairs:
            if any(url in others for others in urls.values()):
                raise Unfit(f"gives {quoted(str(url))} to two members")
            urls.setdefault(name, []).append(url)
        return tuple(InitialMember(name, tuple(each)) for name, each in urls.items())

    def check(self, value: tuple[InitialMember, ...]) -> None:
        if not value:
            raise Unfit("is empty")

    def show(self, value: tuple[InitialMember, ...]) -> str:
        return _PAIRS.show(tuple((member.name, url) for member in value for url in member.peer_urls))


_PAIRS: Final = Several(_read_pair, "give NAME=URL", write=lambda pair: f"{pair[0]}={pair[1]}", high=128)


def _read_origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/,]{1,300}", text):
        raise Unfit(f"{quoted(text)} is not an origin")
    return text


_URL_FIX: Final = "give http://ADDRESS:PORT or https://ADDRESS:PORT, several separated by commas"
_LISTENERS: Final = Several(_read_listener, _URL_FIX, "URL,...", low=1, high=16)
_TARGETS: Final = Several(_read_target, _URL_FIX, "URL,...", low=1, high=16)


_DURATION: Final = r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h)){1,4}"
"""A time in the notation of etcd's flags, as 1h30m."""

_RETENTION_FIX: Final = "give a time as 30m, or a whole number"

_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """The seconds of a time that was checked."""
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", duration)
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def default_data_dir() -> Path:
    """Where a store keeps its data when nobody says otherwise.

    The folder systemd made for the service, /var/lib/netstore for root, and a folder of their own for
    anybody else, so that the store starts without any configuration.
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
    """How one netstored runs. Raises `BadSetting` when its values do not fit together.

    URLs that are not given are worked out: advertised ones from those listened on, the initial cluster from
    this member alone.
    """

    name: str = setting(
        Text(_NAME_FIX, _NAME),
        "default",
        "Name of this member, unique in its cluster.",
        variables=("ETCD_NAME",),
    )
    data_dir: Path = setting(
        Place(),
        default_data_dir,
        "Folder for everything this member keeps; made with mode 0700 when it is missing.",
        variables=("ETCD_DATA_DIR",),
        default_words="$STATE_DIRECTORY, else /var/lib/netstore for root, else ~/.local/share/netstore",
    )
    wal_dir: Path | None = setting(
        Place(),
        None,
        "Folder for the write-ahead log alone, for a disk of its own.",
        variables=("ETCD_WAL_DIR",),
        default_words="inside data_dir",
    )
    listen_client_urls: tuple[Url, ...] = setting(
        _LISTENERS,
        (Url("http", "127.0.0.1", 2379),),
        "URLs to serve clients on; port 0 takes a free one.",
        variables=("ETCD_LISTEN_CLIENT_URLS",),
    )
    advertise_client_urls: tuple[Url, ...] = setting(
        _TARGETS,
        (),
        "URLs that clients are told to reach this member at.",
        variables=("ETCD_ADVERTISE_CLIENT_URLS",),
        default_words="as listen_client_urls",
    )
    listen_peer_urls: tuple[Url, ...] = setting(
        _LISTENERS,
        (Url("http", "127.0.0.1", 2380),),
        "URLs to serve other members on; port 0 takes a free one.",
        variables=("ETCD_LISTEN_PEER_URLS",),
    )
    initial_advertise_peer_urls: tuple[Url, ...] = setting(
        _TARGETS,
        (),
        "URLs that other members reach this one at when the cluster starts.",
        variables=("ETCD_INITIAL_ADVERTISE_PEER_URLS",),
        default_words="as in initial_cluster, else as listen_peer_urls",
    )
    initial_cluster: tuple[InitialMember, ...] = setting(
        _Members(),
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
        Several(_read_target, _URL_FIX, "URL,...", high=16),
        (),
        "Peer URLs of members of a running cluster, one of which lets this member in.",
        default_words="none: the cluster starts as initial_cluster says",
    )
    join_token: str | None = setting(
        Text("give 1 to 256 printable characters, as netstorectl member token prints them", r".{1,256}"),
        None,
        "What a member proves itself with where no certificate does; kept in data_dir, and never printed.",
        secret=True,
        default_words="as data_dir has it, else made at the first start",
    )
    join_token_file: Path | None = setting(
        Place(),
        None,
        "File to read join_token from, so that no list of processes shows it.",
    )
    voters: int = setting(
        Whole(1, 7, "members"),
        3,
        "Members that are to vote; one that joins gets a vote while fewer have one, and learns otherwise.",
    )
    force_new_cluster: bool = setting(
        Switch(),
        False,
        "Make this member's data the beginning of a new cluster of one, after the others are lost for good.",
        variables=("ETCD_FORCE_NEW_CLUSTER",),
    )
    snapshot_count: int = setting(
        Whole(1, 10_000_000, "log entries"),
        100_000,
        "Log entries applied between two snapshots of the state.",
        variables=("ETCD_SNAPSHOT_COUNT",),
    )
    heartbeat_interval: int = setting(
        Whole(1, 10_000, "milliseconds"),
        100,
        "Milliseconds between two heartbeats of the leader.",
        variables=("ETCD_HEARTBEAT_INTERVAL",),
    )
    election_timeout: int = setting(
        Whole(5, MAX_ELECTION_MS, "milliseconds"),
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
        Place(),
        None,
        "PEM file of the certificate shown to clients, followed by those between it and its authority.",
        variables=("ETCD_CERT_FILE",),
    )
    key_file: Path | None = setting(
        Place(),
        None,
        "PEM file of the private key of cert_file.",
        variables=("ETCD_KEY_FILE",),
    )
    trusted_ca_file: Path | None = setting(
        Place(),
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
        Place(),
        None,
        "PEM file of the certificate shown to other members, whichever side calls.",
        variables=("ETCD_PEER_CERT_FILE",),
    )
    peer_key_file: Path | None = setting(
        Place(),
        None,
        "PEM file of the private key of peer_cert_file.",
        variables=("ETCD_PEER_KEY_FILE",),
    )
    peer_trusted_ca_file: Path | None = setting(
        Place(),
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
    allow_insecure_http: bool = setting(
        Switch(),
        False,
        "Serve plain HTTP on addresses that other machines reach.",
    )
    max_connections: int = setting(
        Whole(1, 1_000_000, "connections"),
        10_000,
        "Client connections open at a time; beyond it those go that never spoke, then those of who has most.",
    )
    memory_budget: int = setting(
        Whole(0, 1 << 40, "bytes"),
        0,
        "Bytes all buffers may hold together; 0 for an eighth of the memory, from 64 to 512 MiB.",
    )
    loop_budget_ms: int = setting(
        Whole(1, 60_000, "milliseconds"),
        5,
        "Milliseconds a piece of work may take before it is counted, and told, as holding the loop.",
    )
    max_header_bytes: int = setting(
        Whole(1024, 1 << 20, "bytes"),
        64 << 10,
        "Bytes of a request's line and header fields together.",
    )
    max_body_bytes: int = setting(
        Whole(1024, 1 << 30, "bytes"),
        10 << 20,
        "Bytes of a request's body.",
    )
    max_request_bytes: int = setting(
        Whole(1024, 32 << 20, "bytes"),
        1_572_864,
        "Bytes of one write of the v3 API.",
        variables=("ETCD_MAX_REQUEST_BYTES",),
    )
    max_txn_ops: int = setting(
        Whole(1, 10_000, "operations"),
        128,
        "Operations in each list of a v3 transaction.",
        variables=("ETCD_MAX_TXN_OPS",),
    )
    quota_backend_bytes: int = setting(
        Whole(-1, 1 << 50, "bytes"),
        0,
        "Bytes the v3 keys and their history may take before writes are refused; 0 for 2 GiB, -1 for none.",
        variables=("ETCD_QUOTA_BACKEND_BYTES",),
    )
    auto_compaction_mode: str = setting(
        Choice(("periodic", "revision")),
        "periodic",
        "Whether the v3 history is kept for a time or for a number of revisions.",
        variables=("ETCD_AUTO_COMPACTION_MODE",),
    )
    auto_compaction_retention: str = setting(
        Text(_RETENTION_FIX, rf"[0-9]{{1,18}}|{_DURATION}", "TIME|NUMBER"),
        "0",
        "How much v3 history is kept: a time as 30m, a bare number being hours, or revisions; 0 for all.",
        variables=("ETCD_AUTO_COMPACTION_RETENTION",),
    )
    watch_progress_notify_interval: str = setting(
        Text("give a time as 10m or 500ms", _DURATION, "TIME"),
        "10m",
        "How often idle v3 watches that ask for it are told the revision.",
        flags=("experimental-watch-progress-notify-interval",),
        variables=(
            "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL",
            "ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL",
        ),
    )
    slow_client_seconds: int = setting(
        Whole(1, 3600, "seconds"),
        30,
        "Seconds a client may stand still while it sends a request or reads an answer before it is cut off.",
    )
    scrub_mib_per_second: int = setting(
        Whole(0, 1024, "MiB"),
        4,
        "MiB of the stored state that are verified each second in the background, once an hour; 0: none.",
    )
    log_level: str = setting(
        Choice(LOG_LEVELS),
        "info",
        "Least severity that is logged.",
        variables=("ETCD_LOG_LEVEL",),
    )
    log_format: str = setting(
        Choice(LOG_FORMATS),
        "auto",
        "Shape of log lines: key=value (console) or JSON; auto takes console on a terminal.",
    )

    def __post_init__(self) -> None:
        own = {member.name: member.peer_urls for member in self.initial_cluster}
        self._derive("advertise_client_urls", self.listen_client_urls)
        self._derive("initial_advertise_peer_urls", own.get(self.name, self.listen_peer_urls))
        self._derive("initial_cluster", Alone((InitialMember(self.name, self.initial_advertise_peer_urls),)))
        check_settings(self)
        self._check_listeners()
        self._check_reach("advertise_client_urls", "listen_client_urls")
        self._check_reach("initial_advertise_peer_urls", "listen_peer_urls")
        self._check_own_entry()
        self._check_joining()
        self._check_certificates("", self.listen_client_urls)
        self._check_certificates(
            "peer_",
            (
                *self.listen_peer_urls,
                *(url for each in self.initial_cluster for url in each.peer_urls),
                *self.join,
            ),
        )
        if self.voters % 2 == 0:
            raise BadSetting(
                "voters",
                f"{self.voters} survive the loss of no more members than {self.voters - 1} do",
                "give 1, 3, 5 or 7",
            )
        if 0 < self.memory_budget < SMALLEST:
            raise BadSetting(
                "memory_budget",
                f"{self.memory_budget} bytes are too few for a member to work with",
                f"give at least {SMALLEST}, or 0 for a part of the memory",
            )
        if self.auto_compaction_mode == "revision" and not self.auto_compaction_retention.isdigit():
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
        """For how long the v3 history is kept; 0 where time does not matter."""
        retention = self.auto_compaction_retention
        if self.auto_compaction_mode != "periodic":
            return 0.0
        return int(retention) * 3600.0 if retention.isdigit() else seconds(retention)

    @property
    def history_revisions(self) -> int:
        """How many revisions of the v3 history are kept; 0 where their number does not matter."""
        return int(self.auto_compaction_retention) if self.auto_compaction_mode == "revision" else 0

    @property
    def progress_seconds(self) -> float:
        """`watch_progress_notify_interval` in seconds, a tenth of one at least, as in etcd."""
        return max(0.1, seconds(self.watch_progress_notify_interval))

    def _derive(self, key: str, value: object) -> None:
        if not getattr(self, key):
            object.__setattr__(self, key, value)

    def _check_listeners(self) -> None:
        seen: dict[Url, str] = {}
        for key in ("listen_client_urls", "listen_peer_urls"):
            for url in getattr(self, key):
                if not (url.is_loopback or url.scheme == "https" or self.allow_insecure_http):
                    raise BadSetting(
                        key,
                        f"{url} would serve plain HTTP to other machines",
                        "use https or a loopback address, or set allow_insecure_http on a trusted network",
                    )
                if url.port and url in seen:
                    raise BadSetting(key, f"{url} is in {seen[url]} too", "give each its own port")
                seen[url] = key

    def _check_reach(self, key: str, listened: str) -> None:
        for url in getattr(self, key):
            if url.is_wildcard:
                raise BadSetting(
                    key,
                    f"{url} is no address that others can be sent to",
                    f"name the addresses behind {listened} that they reach",
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
                "lets a running cluster name the members, and initial_cluster names them too",
                "give one of the two",
            )

    def _check_certificates(self, prefix: str, urls: Sequence[Url]) -> None:
        """What one side of the member, clients' or peers', needs for TLS is there whole or not at all."""
        certificate, key, trusted = f"{prefix}cert_file", f"{prefix}key_file", f"{prefix}trusted_ca_file"
        for one, other in ((certificate, key), (key, certificate), (trusted, certificate)):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise BadSetting(one, f"is of no use without {other}", f"give {other} too")
        asked = f"{prefix}client_cert_auth"
        if getattr(self, asked) and getattr(self, trusted) is None:
            raise BadSetting(
                asked,
                f"says who must be trusted only with {trusted}",
                f"give {trusted}, or leave {asked} out",
            )
        encrypted = next((url for url in urls if url.scheme == "https"), None)
        if encrypted is not None and getattr(self, certificate) is None:
            raise BadSetting(
                certificate, f"is needed for {encrypted}", f"give {certificate} and {key}, or use http"
            )


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
_LATER: Final = "there is nothing like it yet; remove it"

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
        "enable-pprof": Foreign(_LATER, ("false",), switch=True),
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
        "host-whitelist": Foreign(_LATER, ("*", "")),
        "initial-election-tick-advance": Foreign(
            "netstored chooses when to stand for election", None, switch=True
        ),
        "listen-metrics-urls": Foreign(_LATER, ("",)),
        "log-outputs": Foreign("logs go to stderr", ("default", "stderr")),
        "log-package-levels": Foreign("write --log-level", ("",)),
        "logger": Foreign("the shape of log lines is set by --log-format", None),
        "max-concurrent-streams": Foreign("netstored has bounds of its own", None),
        "max-snapshots": Foreign(_OWN_PACE, None),
        "max-wals": Foreign(_OWN_PACE, None),
        "metrics": Foreign(_LATER, ("basic",)),
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

COMMAND_VARIABLES: Final = (
    "NETSTORE_ENDPOINTS",
    "NETSTORE_PASSWORD",
    "NETSTORE_PREFIX",
    "NETSTORE_TIMEOUT",
    "NETSTORE_USERNAME",
)
"""Variables of netstorectl, which a shell may hold that also starts a store."""

STORE: Final = Layered(
    form=StoreConfig,
    program="netstored",
    about="Runs one member of a netstore cluster. Without flags: a cluster of one, on loopback.",
    table="store",
    tables=("store", "agent"),
    prefix="NETSTORE_",
    siblings=("NETSTORE_AGENT_", *COMMAND_VARIABLES),
    alias_prefix="ETCD_",
    original="etcd",
    foreign=ETCD_ONLY,
    default_file=CONFIG_FILE,
    tools={
        "inspect-log [FROM:TO]": "List the entries of a stopped member's log, and exit.",
        "skip-entry INDEX": "Have a stopped member pass over an entry that it cannot apply, and exit.",
        "confirm HASH": "Say that --skip-entry is meant, by the hash that --inspect-log shows.",
    },
)


def _read_interface(text: str) -> str:
    if not re.fullmatch(r"[^\s/]{1,64}", text):
        raise Unfit(f"{quoted(text)} is no interface name or address")
    return text


def _read_pattern(text: str) -> str:
    if len(text) > 256:
        raise Unfit("is longer than 256 characters")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unfit(f"{quoted(text)} is no regular expression: {' '.join(str(error).split())}") from None
    return text


_IPV4: Final = r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}"
_PREFIX: Final = r"(?:/(?!\.{1,2}(?:/|$))[^/\s]{1,255}){1,16}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """How one netstore-agent runs. Raises `BadSetting` when its values do not fit together."""

    endpoints: tuple[Url, ...] = setting(
        _TARGETS,
        (Url("http", "127.0.0.1", 2379),),
        "URLs of the store, tried in order.",
        flags=("etcd-endpoints",),
        variables=("FLANNELD_ETCD_ENDPOINTS",),
    )
    prefix: str = setting(
        Text("give a key as /name/name, without . and .. and a slash at its end", _PREFIX, "KEY"),
        DEFAULT_PREFIX,
        "Key under which the network keeps its config and its leases.",
        flags=("etcd-prefix",),
        variables=("FLANNELD_ETCD_PREFIX",),
    )
    ca_file: Path | None = setting(
        Place(),
        None,
        "PEM file of the authorities that may sign the store's certificate.",
        flags=("etcd-cafile",),
        variables=("FLANNELD_ETCD_CAFILE",),
        default_words="the system's authorities",
    )
    cert_file: Path | None = setting(
        Place(),
        None,
        "PEM file of the certificate shown to the store.",
        flags=("etcd-certfile",),
        variables=("FLANNELD_ETCD_CERTFILE",),
    )
    key_file: Path | None = setting(
        Place(),
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
        Several(_read_interface, "give names or addresses of interfaces", "NAME,..."),
        (),
        "Interfaces, by name or address, that carry traffic between nodes; the first that exists is taken.",
        variables=("FLANNELD_IFACE",),
        default_words="the interface of the default route",
    )
    iface_regex: tuple[str, ...] = setting(
        Several(_read_pattern, "give a regular expression", "PATTERN", whole=True),
        (),
        "Patterns for the name or address of that interface, tried after iface; give the flag once for each.",
        variables=("FLANNELD_IFACE_REGEX",),
        default_words="none",
    )
    iface_can_reach: str | None = setting(
        Text("give an IPv4 address", _IPV4, "ADDRESS"),
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
    subnet_file: Path = setting(
        Place(),
        Path("/run/flannel/subnet.env"),
        "File to write this node's subnet to, in flannel's format.",
        variables=("FLANNELD_SUBNET_FILE",),
    )
    subnet_lease_renew_margin: int | None = setting(
        Whole(1, 1439, "minutes"),
        None,
        "Minutes before its end at which a lease is renewed.",
        variables=("FLANNELD_SUBNET_LEASE_RENEW_MARGIN",),
        default_words="60, or half of lease_ttl when that is less",
    )
    lease_ttl: int = setting(
        Whole(2, 365 * 86_400, "seconds"),
        DEFAULT_TTL,
        "Seconds that a lease lives without being renewed.",
    )
    healthz_ip: str = setting(
        Text("give an IPv4 address", _IPV4, "ADDRESS"),
        "127.0.0.1",
        "Address to serve /healthz on.",
        variables=("FLANNELD_HEALTHZ_IP",),
    )
    healthz_port: int = setting(
        Whole(0, 65_535),
        0,
        "Port to serve /healthz on; 0 for none.",
        variables=("FLANNELD_HEALTHZ_PORT",),
    )
    cleanup: bool = setting(
        Switch(),
        False,
        "Take back routes, lease and subnet file on SIGTERM, instead of leaving pods connected.",
    )
    log_level: str = setting(Choice(LOG_LEVELS), "info", "Least severity that is logged.")
    log_format: str = setting(
        Choice(LOG_FORMATS),
        "auto",
        "Shape of log lines: key=value (console) or JSON; auto takes console on a terminal.",
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
                f"give at most {(self.lease_ttl - 1) // 60}, or a longer lease_ttl",
            )

    @property
    def renew_margin_seconds(self) -> float:
        """Seconds before its end at which a lease is renewed: as set, else an hour or half of its life."""
        if self.subnet_lease_renew_margin is not None:
            return self.subnet_lease_renew_margin * 60.0
        return min(3600.0, self.lease_ttl / 2)


_NO_KUBE: Final = "the agent keeps its leases in the store, never in Kubernetes"
_NO_FILTER: Final = "the agent does not touch netfilter yet; remove it"
_ONE_NETWORK: Final = "one agent serves one network"
_LOGS: Final = "logs go to stderr and are set by --log-level"

FLANNEL_ONLY: Final[Mapping[str, Foreign]] = MappingProxyType(
    {
        "alsologtostderr": Foreign(_LOGS, None, switch=True),
        "ip-blackhole-route": Foreign(_LATER, ("false",), switch=True),
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
        "public-ipv6": Foreign(_LATER, ("",)),
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

AGENT: Final = Layered(
    form=AgentConfig,
    program="netstore-agent",
    about="Holds this node's subnet lease and keeps its routes to the other nodes.",
    table="agent",
    tables=("store", "agent"),
    prefix="NETSTORE_AGENT_",
    siblings=(),
    alias_prefix="FLANNELD_",
    original="flannel",
    foreign=FLANNEL_ONLY,
    default_file=CONFIG_FILE,
)
