"""etcd's configuration file is read, with its own names for what flags say otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.errors import NetstoreError
from netstore.ops.etcd_file import MAX_FILE_BYTES, read_etcd_file
from netstore.ops.store import STORE

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = """\
# This is the configuration file for the etcd server.
name: 'm7'
data-dir: /d
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: https://127.0.0.1:2380
listen-client-urls: https://127.0.0.1:2379,https://127.0.0.2:2379
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: https://127.0.0.1:2380
advertise-client-urls: https://127.0.0.1:2379
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster: m7=https://127.0.0.1:2380,
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
proxy: 'off'
proxy-failure-wait: 5000
client-transport-security:
  cert-file: /c
  key-file: /k
  client-cert-auth: true
  trusted-ca-file: /ca
  auto-tls: false
  allowed-hostname: [a.example, b.example]
peer-transport-security:
  cert-file: /pc
  key-file: /pk
  client-cert-auth: yes
  trusted-ca-file: /pca
  auto-tls: false
  allowed-cn: [peers]
  skip-client-san-verification: true
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: "1"
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
watch-progress-notify-interval: 5000000000
feature-gates: InitialCorruptCheck=true
socket-options:
  reuse-port: false
listen-metrics-urls: http://127.0.0.1:2381
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etcd.conf.yml"
    path.write_text(SAMPLE)
    return path


def test_what_a_file_of_etcd_says_is_set(file: Path) -> None:
    loaded = STORE.load([f"--config-file={file}"], {})
    config = loaded.config
    assert (config.name, str(config.data_dir), config.wal_dir) == ("m7", "/d", None)
    assert len(config.listen_client_urls) == 2
    assert str(config.peer_trusted_ca_file) == "/pca"
    assert config.peer_client_cert_auth
    assert config.client_cert_allowed_hostname == ("a.example", "b.example")
    assert config.peer_cert_allowed_cn == ("peers",)
    assert config.history_seconds == 3600.0
    assert config.progress_seconds == 5.0
    assert config.log_level == "debug"
    assert config.etcd_compat
    assert loaded.sources["etcd_compat"] == loaded.sources["name"] == f"etcd's file {file}"
    assert all(str(file) in notice for notice in loaded.notices)
    assert [notice for notice in loaded.notices if "peer-skip-client-san-verification" in notice]


def test_keys_may_be_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "etcd.yaml"
    path.write_text("DATA-DIR: /d\nPeer-Transport-Security:\n  Allowed-CN: Peers\nName:\n")
    assert read_etcd_file(str(path), path.read_bytes()) == [
        ("data-dir", "/d"),
        ("peer-cert-allowed-cn", "Peers"),
    ]


def test_the_same_in_json(tmp_path: Path) -> None:
    path = tmp_path / "etcd.json"
    path.write_text('{"name": "m7", "data-dir": "/d", "quota-backend-bytes": 8589934592, "cors": null}')
    config = STORE.load([], {"ETCD_CONFIG_FILE": str(path)}).config
    assert (config.name, config.quota_backend_bytes) == ("m7", 8 << 30)


def test_beside_the_file_nothing_of_etcds_counts_and_all_of_netstores_does(file: Path) -> None:
    environ = {
        "ETCD_CONFIG_FILE": str(file),
        "ETCD_NAME": "other",
        "ETCD_MAX_WALS": "3",
        "ETCD_WAL_DIR": "",
        "NETSTORE_MEMORY_BUDGET": "100000000",
    }
    loaded = STORE.load(["--data-dir=/other", "--proxy=on", "--voters=5"], environ)
    config = loaded.config
    assert (config.name, str(config.data_dir)) == ("m7", "/d")
    assert (config.voters, config.memory_budget) == (5, 100_000_000)
    alone = [
        each.split()[0] for each in loaded.notices if each.endswith(f"beside the configuration file {file}")
    ]
    assert alone == ["--data-dir", "--proxy", "ETCD_MAX_WALS", "ETCD_NAME"]


def test_a_name_that_is_not_known_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("nam: x\nquota-backend-byte: 7\nexperimental-snapshot-catch-up-entries: 7\n")
    notices = STORE.load(["--config-file", str(path)], {}).notices
    assert notices[0] == f"{path}: nam is not known and has no effect: did you mean name?"
    assert notices[1].endswith(
        "quota-backend-byte is not known and has no effect: did you mean quota-backend-bytes?"
    )
    assert "experimental-snapshot-catchup-entries has no effect" in notices[2]


def test_which_files_are_etcds(tmp_path: Path) -> None:
    for name, text, is_etcds in (
        ("a.toml", "name: x\n", False),
        ("a.conf", "[store]\nname = 'x'\n", False),
        ("a.conf", "name: x\n", True),
        ("a.conf", "", False),
        ("a.conf", "name = ", False),
        ("a.yml", "[store]\nname = 'x'\n", None),
        ("a.yml", "{}", True),
    ):
        path = tmp_path / name
        path.write_text(text)
        if is_etcds is None:
            with pytest.raises(NetstoreError):
                read_etcd_file(str(path), path.read_bytes())
        else:
            assert (read_etcd_file(str(path), path.read_bytes()) is not None) is is_etcds, (name, text)


BOMB = "cors: [&a0 [x]" + "".join(f", &a{n} [" + f"*a{n - 1}, " * 9 + "]" for n in range(1, 30)) + "]"
"""Written out it has 9 to the power of 29 texts."""


def test_what_is_in_a_list_is_written_as_outside(tmp_path: Path) -> None:
    path = tmp_path / "etcd.yaml"
    path.write_text("log-outputs: [true, stderr, 1e3, 0x10]\n")
    assert read_etcd_file(str(path), path.read_bytes()) == [("log-outputs", "true,stderr,1e3,16")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [", "is not YAML in line"),
        ("name: *nobody", "is not YAML in line 1"),
        ("- name", "has no keys"),
        ("client-transport-security: /c", "client-transport-security has no keys"),
        ("name: {a: b}", "name is a mapping; give a text"),
        ("peer-transport-security: {cert-file: {}}", "peer-transport-security.cert-file is a mapping"),
        ("[" * 100_000, "' is not YAML: nested too deep"),
        ("snapshot-count: 2001-99-99 99:99:99", "is not"),
        ("name: !!int ''", "is not YAML in line 1: the value is not of the type"),
        ("debug: x\nname: !!bool x", "is not YAML in line 2: the value is not of the type"),
        ("name: !!timestamp x", "is not YAML in line 1: the value is not of the type"),
        ("name: 0x" + "f" * 5000, "name is a number beyond"),
        ("snapshot-count: 1.0e+300", "snapshot-count is a number beyond"),
        ("name: 2026-11-30", "name is a date"),
        ("cors: [a, [b]]", "cors, in its list, is a list"),
        (BOMB, "cors, in its list, is a list"),
        ("pre-vote: true\nname: a\nname: b", "in line 3: the key 'name' is repeated"),
        ("data-dir: a\nDATA-DIR: b", "in line 2: the key 'DATA-DIR' is repeated"),
        ("peer-transport-security: {key-file: a, key-file: b}", "in line 1: the key 'key-file' is repeated"),
        ("snapshot-count: many", "snapshot_count (etcd's file "),
        ("name: !!python/object:os.system x", "is not YAML in line 1"),
        ("a" * (MAX_FILE_BYTES + 1), "is longer than"),
        ("discovery-config: {endpoints: [a, b]}", "is of etcd and not supported"),
        ("feature-gates: X=true", "is of etcd and not supported"),
    ],
)
def test_refusals_name_the_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "etcd.yaml"
    path.write_text(text)
    with pytest.raises(NetstoreError) as told:
        STORE.load([f"--config-file={path}"], {})
    assert problem in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.yml", "none"):
        with pytest.raises(NetstoreError, match="cannot read the configuration file"):
            STORE.load([], {"ETCD_CONFIG_FILE": str(tmp_path / name)})
