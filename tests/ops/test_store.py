"""What netstored accepts: etcd's words, and nothing absurd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netstore.disk.datadir import MAX_TOKEN_CHARACTERS
from netstore.ops.addresses import InitialMember
from netstore.ops.settings import BadSetting
from netstore.ops.store import STORE, StoreConfig, default_data_dir
from netstore.urls import Url
from tests.support.settings import refusal


def store(*argv: str, **environ: str) -> StoreConfig:
    return STORE.load(argv, environ).config


class TestStoreDefaults:
    def test_a_member_alone_on_loopback(self) -> None:
        config = store()
        assert config.name == "default"
        assert config.listen_client_urls == config.advertise_client_urls == (Url("http", "127.0.0.1", 2379),)
        assert (
            config.listen_peer_urls == config.initial_advertise_peer_urls == (Url("http", "127.0.0.1", 2380),)
        )
        assert config.initial_cluster == (InitialMember("default", (Url("http", "127.0.0.1", 2380),)),)
        assert (config.snapshot_count, config.heartbeat_interval, config.election_timeout) == (
            100_000,
            100,
            1000,
        )
        assert config.enable_v2
        assert not config.allow_insecure_http

    def test_urls_follow_what_is_given(self) -> None:
        config = store(
            "--name=a", "--listen-client-urls=http://127.0.0.2:0", "--listen-peer-urls=http://127.0.0.2:7"
        )
        assert config.advertise_client_urls == config.listen_client_urls
        assert config.initial_cluster == (InitialMember("a", (Url("http", "127.0.0.2", 7),)),)

    def test_own_entry_of_the_cluster_is_advertised(self) -> None:
        config = store(
            "--name=b",
            "--initial-cluster=a=http://a:1,b=http://b:1,b=https://b:2",
            "--peer-cert-file=/c",
            "--peer-key-file=/k",
        )
        assert config.initial_advertise_peer_urls == (Url("http", "b", 1), Url("https", "b", 2))

    @pytest.mark.parametrize(
        ("environ", "euid", "folder"),
        [
            ({"STATE_DIRECTORY": "/var/lib/x:/var/lib/y", "HOME": "/h"}, 0, "/var/lib/x"),
            ({"HOME": "/root"}, 0, "/var/lib/netstore"),
            ({"HOME": "/h"}, 1000, "/h/.local/share/netstore"),
            ({"HOME": "/h", "XDG_DATA_HOME": "/data"}, 1000, "/data/netstore"),
        ],
    )
    def test_data_dir(
        self, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], euid: int, folder: str
    ) -> None:
        for name in ("STATE_DIRECTORY", "XDG_DATA_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "geteuid", lambda: euid)
        assert default_data_dir() == Path(folder)
        assert store().data_dir == Path(folder)


class TestStoreChecks:
    def test_a_unit_file_of_etcd_is_understood(self) -> None:
        words = (
            "--name=infra0 --data-dir /d --wal-dir /wal --listen-client-urls http://127.0.0.1:1 "
            "--advertise-client-urls http://10.0.1.10:2379 --listen-peer-urls http://127.0.0.1:2380 "
            "--initial-advertise-peer-urls http://10.0.1.10:2380 "
            "--initial-cluster=infra0=http://10.0.1.10:2380 "
            "--initial-cluster-state existing --initial-cluster-token t --snapshot-count 50000 "
            "--heartbeat-interval 50 --election-timeout 500 --enable-v2 "
            "--log-level=warn --logger=zap --proxy off"
        )
        loaded = STORE.load(words.split(), {})
        assert loaded.config.name == "infra0"
        assert loaded.config.initial_cluster == (InitialMember("infra0", (Url("http", "10.0.1.10", 2380),)),)
        assert loaded.config.initial_cluster_state == "existing"
        assert len(loaded.notices) == 2
        environ = {
            f"ETCD_{flag.removeprefix('--').upper().replace('-', '_')}": value
            for flag, value in (("--name", "infra0"), ("--heartbeat-interval", "50"), ("--wal-dir", "/wal"))
        }
        assert store(**environ).heartbeat_interval == 50

    @pytest.mark.parametrize(
        ("argv", "text"),
        [
            (
                "--listen-client-urls=http://0.0.0.0:1",
                "plain HTTP to other",
            ),
            ("--listen-peer-urls=http://10.0.0.1:1", "plain HTTP to other"),
            (
                "--allow-insecure-http --listen-client-urls=http://0.0.0.0:1 --join=http://a:1",
                "leads nobody else here",
            ),
            (
                "--allow-insecure-http --listen-peer-urls=http://[::]:1 --initial-cluster=default=http://[::]:1,b=http://b:1",
                "leads nobody else here",
            ),
            (
                "--listen-client-urls=https://127.0.0.1:1",
                "cert_file (default): is needed for https://127.0.0.1:1",
            ),
            (
                "--listen-peer-urls=https://127.0.0.1:1",
                "peer_cert_file (default): is needed for https://127.0.0.1:1",
            ),
            (
                "--initial-cluster=default=http://a:1,b=https://b:1",
                "peer_cert_file (default): is needed for https://b:1",
            ),
            ("--join=https://a:1", "peer_cert_file (default): is needed for https://a:1"),
            ("--listen-client-urls=http://store.example:1", "names a host"),
            ("--listen-client-urls=http://127.0.0.1:2380", "is in listen_client_urls too"),
            ("--advertise-client-urls=http://a:0", "port 0"),
            (
                "--initial-cluster=a=http://a:1",
                "has no member named 'default'; add",
            ),
            (
                "--initial-cluster=default=http://a:1 --initial-advertise-peer-urls=http://b:2",
                "it advertises",
            ),
            ("--initial-cluster=http://a:1", "is not NAME=URL"),
            ("--initial-cluster=default", "is not NAME=URL"),
            ("--initial-cluster=default=http://a:1,b=http://a:1", "to two members"),
            ("--initial-cluster=default=http://a:1,default=http://a:1", "twice"),
            ("--election-timeout=499", "499 ms is less than five heartbeats of 100 ms; give at least 500"),
            ("--election-timeout=50001", "out of range"),
            ("--heartbeat-interval=0", "out of range"),
            ("--snapshot-count=-1", "out of range"),
            ("--name=a=b", "is not usable; give 1 to 128 characters"),
            ("--cors=example.com", "is not an origin"),
            ("--initial-cluster-state=old", "give one of new, existing"),
            ("--log-level=trace", "give one of debug, info, warn, error, panic, fatal"),
            ("--cert-file=/c", "is of no use without key_file"),
            ("--peer-key-file=/c", "is of no use without peer_cert_file"),
            ("--trusted-ca-file=/c", "is of no use without cert_file"),
            ("--client-cert-auth", "give trusted_ca_file, or leave client_cert_auth out"),
            ("--peer-client-cert-auth", "give peer_trusted_ca_file"),
            ("--listen-metrics-urls=https://127.0.0.1:1", "cert_file (default): is needed for https"),
            ("--listen-metrics-urls=http://127.0.0.1:2379", "is in listen_client_urls too"),
            ("--tls-min-version=TLS1.3 --tls-max-version=TLS1.2", "is less than the tls_min_version"),
            ("--tls-min-version=TLS1.1", "give one of TLS1.2, TLS1.3"),
            ("--tls-min-version=TLS1.3 --cipher-suites=TLS_AES_128_GCM_SHA256", "cannot be chosen"),
            ("--tls-max-version=TLS1.2 --cipher-suites=TLS_AES_128_GCM_SHA256", "no suite of TLS 1.2"),
            (
                "--cipher-suites=TLS_RSA_WITH_RC4_128_SHA",
                "is no suite that can be chosen; give names as TLS_ECDHE",
            ),
            ("--client-crl-file=/l --cert-file=/c --key-file=/k", "give trusted_ca_file too"),
            ("--peer-cert-allowed-cn=a --peer-cert-file=/c --peer-key-file=/k", "give peer_trusted_ca_file"),
            ("--peer-client-cert-file=/c", "is of no use without peer_client_key_file"),
            ("--log-outputs=stderr,/var/log/etcd.log", "is neither standard output nor standard error"),
            ("--log-outputs=systemd/journal", "the journal has what a unit writes to stderr"),
            (
                "--max-request-bytes=0",
                "0 would refuse every write, as etcd then does; give a whole number of bytes from 1024 to ",
            ),
            (
                "--max-txn-ops=0",
                "0 would refuse every transaction that is not empty, as etcd then does; give a whole number",
            ),
            ("--feature-gates=Invented=true", "known gates are CompactHashCheck, "),
            ("--join=http://a:1 --initial-cluster=default=http://b:1,c=http://c:1", "give one of the two"),
            ("--initial-cluster-state=existing", "give initial_cluster with the members of the cluster"),
            ("--join=http://a:0", "port 0"),
            ("--voters=4", "give 1, 3, 5 or 7"),
            ("--memory-budget=1000000", "give at least 67108864"),
            ("--voters=9", "out of range"),
            ("--auto-compaction-retention=soon", "give a time as 30m, or a whole number"),
            ("--auto-compaction-mode=revision --auto-compaction-retention=1h", "is no number of revisions"),
            ("--auto-compaction-retention=-1h", "'-1h' is not usable; give a time as 30m"),
            ("--auto-compaction-retention=0x10", "'0x10' is not usable; give a time as 30m"),
            ("--auto-compaction-retention=1d", "'1d' is not usable; give a time as 30m"),
            ("--auto-compaction-retention=.h", "'.h' is not usable; give a time as 30m"),
            ("--auto-compaction-retention=2562048h", "is longer than 292 years; give a time as 30m"),
            ("--watch-progress-notify-interval=" + "9" * 400 + "h", "is longer than 292 years"),
            ("--watch-progress-notify-interval=10", "give a time as 10m"),
            ("--auth-token=jwt", "there are no users and roles yet"),
            ("--host-whitelist=a.example", "not supported by netstored"),
        ],
    )
    def test_refusals(self, argv: str, text: str) -> None:
        assert text in refusal(STORE, *argv.split())

    @pytest.mark.parametrize(
        ("argv", "seconds", "revisions"),
        [
            ("", 0, 0),
            ("--auto-compaction-retention=2", 7200, 0),
            ("--auto-compaction-retention=1h30m", 5400, 0),
            ("--auto-compaction-retention=500ms", 0.5, 0),
            ("--auto-compaction-retention=1.5m", 90, 0),
            ("--auto-compaction-retention=+1h30m5us", 5400.000005, 0),
            ("--auto-compaction-retention=.5h1.m1000000ns1\N{MICRO SIGN}s1h1h", 9060.001001, 0),
            ("--auto-compaction-retention=010", 36_000, 0),
            ("--auto-compaction-retention=+1", 3600, 0),
            ("--auto-compaction-mode=revision --auto-compaction-retention=+1", 0, 1),
            ("--auto-compaction-mode=revision --auto-compaction-retention=1000", 0, 1000),
        ],
    )
    def test_how_much_history_is_kept(self, argv: str, seconds: float, revisions: int) -> None:
        config = store(*argv.split())
        assert config.history_seconds == pytest.approx(seconds)
        assert config.history_revisions == revisions

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            ("--archive-folder=D", "D is the same folder as data_dir"),
            ("--archive-folder=D/wal", "D/wal is the same folder as wal_dir"),
            ("--archive-folder=D/wal/a", "D/wal/a lies inside wal_dir"),
            ("--archive-folder=L", "L is the same folder as data_dir"),
            (
                "--backup-folder=D/state",
                "D/state is the same folder as the folder of the state",
            ),
            ("--backup-folder=D/state/b", "D/state/b lies inside the folder of the state"),
            ("--wal-dir=D/state", "D/state is the same folder as the folder of the state"),
            ("--wal-dir=W --backup-folder=W", "W is the same folder as wal_dir"),
        ],
    )
    def test_folders_that_would_have_each_others_files(self, tmp_path: Path, flags: str, told: str) -> None:
        (tmp_path / "D").mkdir()
        (tmp_path / "L").symlink_to("D")
        words = [each.replace("=", f"={tmp_path}/") for each in flags.split()]
        found = refusal(STORE, f"--data-dir={tmp_path}/D", *words)
        assert told in found.replace(f"{tmp_path}/", "")
        assert words[-1].partition("=")[0] in found
        assert "name a folder of its own" in found

    @pytest.mark.parametrize(
        "flags",
        ["--wal-dir=D", "--backup-folder=D", "--archive-folder=A --backup-folder=A", "--archive-folder=D/a"],
    )
    def test_folders_whose_files_have_other_names(self, tmp_path: Path, flags: str) -> None:
        words = [each.replace("=", f"={tmp_path}/") for each in flags.split()]
        store(f"--data-dir={tmp_path}/D", *words)

    def test_folders_that_may_be_in_each_other(self, tmp_path: Path) -> None:
        given = (f"--{name}={tmp_path}/d/{name}" for name in ("wal-dir", "archive-folder", "backup-folder"))
        store(f"--data-dir={tmp_path}/d", *given)
        store(f"--data-dir={tmp_path}/d", f"--wal-dir={tmp_path}/d/wal")
        store(f"--archive-folder={tmp_path}/b/log", f"--backup-folder={tmp_path}/b")

    def test_how_long_an_archive_is_kept(self) -> None:
        assert store().archive_keep_seconds == 0
        assert store("--archive-keep-seconds=604800").archive_keep_seconds == 604_800
        assert store(NETSTORE_ARCHIVE_KEEP_SECONDS="3600").archive_keep_seconds == 3600
        assert "--archive-keep-seconds" in (told := refusal(STORE, "--archive-keep-seconds=3599"))
        assert "give at least 3600, and the archive leads back at least so far, or 0 to keep all" in told

    @pytest.mark.parametrize(("interval", "seconds"), [("10m", 600), ("5s", 5), ("1ms", 0.1)])
    def test_progress(self, interval: str, seconds: float) -> None:
        assert store(f"--experimental-watch-progress-notify-interval={interval}").progress_seconds == seconds

    def test_zero_and_large_numbers_mean_what_they_do_in_etcd(self) -> None:
        assert store("--snapshot-count=0").entries_per_snapshot == store().entries_per_snapshot == 100_000
        assert store("--snapshot-count=5").entries_per_snapshot == 5
        for quota in (2**63 - 1, 2**51, -1, -(2**63)):
            assert store(f"--quota-backend-bytes={quota}").quota_backend_bytes == quota

    def test_several_outputs_are_taken(self) -> None:
        assert store("--log-outputs=stdout,stderr,").log_outputs == ("stdout", "stderr")

    def test_other_machines_are_served_where_there_is_tls(self) -> None:
        config = store(
            "--listen-client-urls=https://10.0.0.1:1",
            "--listen-peer-urls=https://10.0.0.1:2",
            *("--cert-file=/c", "--key-file=/k", "--trusted-ca-file=/ca", "--client-cert-auth"),
            *("--peer-cert-file=/c", "--peer-key-file=/k", "--peer-trusted-ca-file=/ca"),
        )
        assert str(config.initial_advertise_peer_urls[0]) == "https://10.0.0.1:2"
        assert config.trusted_ca_file == config.peer_trusted_ca_file == Path("/ca")

    def test_insecure_is_possible_when_told(self) -> None:
        config = store(
            "--allow-insecure-http",
            "--listen-client-urls=http://[::]:1",
            "--advertise-client-urls=http://a:1",
        )
        assert str(config.listen_client_urls[0]) == "http://[::]:1"

    @pytest.mark.parametrize("key", ["join_token", "initial_cluster_token"])
    def test_a_token_may_be_as_long_as_a_data_folder_keeps(self, key: str) -> None:
        flag = f"--{key.replace('_', '-')}"
        assert getattr(store(f"{flag}={'t' * MAX_TOKEN_CHARACTERS}"), key) == "t" * MAX_TOKEN_CHARACTERS
        assert f"1 to {MAX_TOKEN_CHARACTERS} " in refusal(STORE, f"{flag}={'t' * (MAX_TOKEN_CHARACTERS + 1)}")

    def test_a_configuration_made_by_hand_is_checked_too(self) -> None:
        with pytest.raises(BadSetting, match="snapshot_count: -1 is out of range"):
            StoreConfig(snapshot_count=-1)
        with pytest.raises(BadSetting, match="cors"):
            StoreConfig(cors=tuple(map(str, range(100))))

    def test_other_programs_variables_do_not_stop_it(self) -> None:
        assert (
            store(NETSTORE_ENDPOINTS="http://a:1", NETSTORE_AGENT_LEASE_TTL="9", ETCDCTL_API="2").name
            == "default"
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--backup-keep=3", "backup_keep (flag --backup-keep) has no effect without backup_folder"),
        ("--archive-keep-seconds=9999", "without archive_folder"),
        ("--self-signed-cert-validity=3", "without auto_tls or peer_auto_tls"),
        ("--network-validate=false --network-prefixes=/n", "without network_validate"),
        ("--cert-file=/c --key-file=/k", "cert_file, key_file: no effect, since no URL is https"),
        (
            "--peer-auto-tls",
            "peer_auto_tls: no effect, since no URL is https; write it so in listen_peer_urls",
        ),
        ("--join-token=t --join-token-file=/t", "join_token_file: not read, since join_token is set"),
        (
            "--auto-tls --cert-file=/c --key-file=/k --listen-client-urls=https://127.0.0.1:1",
            "auto_tls: no effect beside cert_file",
        ),
    ],
)
def test_what_has_no_effect_with_the_rest_is_told(words: str, told: str) -> None:
    (notice,) = STORE.load(words.split(), {}).notices
    assert told in notice


def test_what_has_an_effect_is_not_told() -> None:
    words = (
        "--backup-folder=/b --backup-keep=3 --archive-folder=/a --archive-lag-seconds=3 --cert-file=/c"
        " --key-file=/k --listen-client-urls=http://127.0.0.1:1,https://127.0.0.1:2"
    )
    assert STORE.load(words.split(), {}).notices == ()


class TestEtcdsManners:
    OPEN = "--listen-client-urls=http://0.0.0.0:1 --advertise-client-urls=http://0.0.0.0:1 --join=http://a:1"

    @pytest.mark.parametrize(
        ("argv", "environ", "called"),
        [
            ("--etcd-compat", {}, ""),
            ("", {"ETCD_NAME": "default"}, ""),
            ("", {"NETSTORE_ETCD_COMPAT": "true"}, ""),
            ("", {}, "etcd"),
        ],
    )
    def test_what_etcd_accepts_is_warned_of(self, argv: str, environ: dict[str, str], called: str) -> None:
        loaded = STORE.load([*self.OPEN.split(), *argv.split()], environ, called)
        assert loaded.config.etcd_compat
        assert [notice.partition(":")[0] for notice in loaded.notices] == [
            "listen_client_urls",
            "advertise_client_urls",
        ]

    @pytest.mark.parametrize(
        ("argv", "environ", "called"),
        [
            ("", {}, "netstored"),
            ("--etcd-compat=false", {"ETCD_NAME": "default"}, "etcd"),
            ("", {"ETCD_SERVICE_HOST": "10.0.0.1", "ETCD_UNKNOWN": "1"}, ""),
        ],
    )
    def test_others_are_refused(self, argv: str, environ: dict[str, str], called: str) -> None:
        with pytest.raises(BadSetting, match="serves plain HTTP to other machines; use https"):
            STORE.load([*self.OPEN.split(), *argv.split()], environ, called)

    def test_the_only_member_may_advertise_a_wildcard(self) -> None:
        words = "--allow-insecure-http --listen-client-urls http://0.0.0.0:1 --listen-peer-urls http://[::]:2"
        loaded = STORE.load(words.split(), {})
        assert [notice.partition(":")[0] for notice in loaded.notices] == [
            "advertise_client_urls",
            "initial_advertise_peer_urls",
        ]

    def test_metrics_may_be_open(self) -> None:
        loaded = STORE.load(["--listen-metrics-urls=http://0.0.0.0:2381"], {})
        assert loaded.notices[0].startswith("listen_metrics_urls: http://0.0.0.0:2381 serves plain HTTP")

    @pytest.mark.parametrize(
        "flag",
        [
            "--wal-dir",
            "--cert-file",
            "--trusted-ca-file",
            "--name",
            "--initial-cluster",
            "--listen-client-urls",
            "--initial-cluster-state",
            "--tls-min-version",
            "--auto-compaction-retention",
        ],
    )
    def test_an_empty_value_is_none(self, flag: str) -> None:
        assert STORE.load([f"{flag}="], {}).config == STORE.load([], {}).config
        if flag == "--wal-dir":
            with pytest.raises(BadSetting, match=r"wal_dir .*takes back '7' \(flag --wal-dir\)"):
                STORE.load([f"{flag}=7", flag, ""], {})
        else:
            assert STORE.load([f"{flag}=7", flag, ""], {}).config == STORE.load([], {}).config

    def test_lists_may_end_with_a_comma(self) -> None:
        config = store(
            "--name=a",
            "--listen-peer-urls=http://127.0.0.1:1,",
            "--initial-cluster=a=http://127.0.0.1:1,,b=http://b:1,",
            "--cors=http://a, ",
        )
        assert [each.name for each in config.initial_cluster] == ["a", "b"]
        assert config.cors == ("http://a",)
        assert "has an empty item" in refusal(
            STORE, "--listen-peer-urls=http://127.0.0.1:1,,http://127.0.0.1:2"
        )

    def test_what_is_asked_of_streams(self) -> None:
        config = StoreConfig(
            cert_file=Path("/c"),
            key_file=Path("/k"),
            trusted_ca_file=Path("/a"),
            client_crl_file=Path("/l"),
            client_cert_allowed_hostname=("h",),
            peer_auto_tls=True,
            listen_peer_urls=(Url("https", "127.0.0.1", 1),),
            tls_max_version="TLS1.2",
        )
        own, peers = config.tls_policy(""), config.tls_policy("peer_")
        assert (own.highest, own.revoked, own.hosts, own.verifies) == ("TLS1.2", Path("/l"), ("h",), True)
        assert (peers.highest, peers.revoked, peers.hosts, peers.verifies) == ("TLS1.2", None, (), False)


@pytest.mark.parametrize("name", ["default", "node1"])
def test_an_empty_store_does_not_begin_beside_the_default_folder_of_an_etcd(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    (tmp_path / f"{name}.etcd").mkdir()

    def check(*words: str, **environ: str) -> None:
        STORE.check_files(STORE.load(["--name", name, *words], environ))

    check()  # it is no etcd's
    (tmp_path / f"{name}.etcd" / "member").mkdir()
    check("--data-dir", str(state))
    check("--etcd-compat", "--data-dir", str(state))
    check(ETCD_DATA_DIR=str(state))
    check("--etcd-compat", "--name", "other")
    listens = "http://127.0.0.1:1"
    cases: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
        ((f"--listen-client-urls={listens}",), {}),
        (("--etcd-compat", "--data-dir="), {}),
        ((), {"ETCD_LISTEN_CLIENT_URLS": listens}),
    )
    for words, environ in cases:
        with pytest.raises(BadSetting) as caught:
            check(*words, **environ)
        text = str(caught.value)
        assert f"is not set, and an etcd that was started so has its data in {tmp_path}/{name}.etcd" in text
        assert f"netstorectl import --data-dir NEW {tmp_path}/{name}.etcd" in text
    for key in ("data_dir", "wal_dir", "archive_folder", "backup_folder"):
        with pytest.raises(BadSetting, match=rf"{key} .*is empty, which takes back '/mine'"):
            check(f"--{key.replace('_', '-')}=", **{f"NETSTORE_{key.upper()}": "/mine"})
    state.mkdir()
    (state / "identity").write_bytes(b"netstore data folder\n")
    check()  # it was begun before
