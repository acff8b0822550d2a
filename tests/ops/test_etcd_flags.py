"""Every flag of every etcd from 3.4 on has an answer, and what Kubernetes writes starts unchanged."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from netstore.errors import NetstoreError
from netstore.ops.etcd_flags import ETCD_ONLY, FLAGS, GATES, MEANINGS
from netstore.ops.layers import OWN_FLAGS
from netstore.ops.store import STORE
from tests.support.etcdflags import FLAGS_OF

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVED = {flag for each in STORE.settings() for flag in each.flags} | set(OWN_FLAGS)


@pytest.mark.parametrize("release", FLAGS_OF)
def test_every_flag_of_a_release_is_in_the_table(release: str) -> None:
    theirs = FLAGS_OF[release]
    assert theirs <= set(FLAGS)
    of_release = {name for name, each in FLAGS.items() if release in covered(each.releases)}
    assert of_release == theirs


def covered(releases: str) -> set[str]:
    """The minor releases in such words as "3.4.20, 3.5.2 to 3.6"."""
    found = set()
    for part in releases.split(", "):
        first, _, last = part.partition(" to ")
        minors = [int(each.split(".")[1]) for each in (first, last or first)]
        found |= {f"3.{minor}" for minor in range(minors[0], minors[1] + 1)}
    return found


@pytest.mark.peer("etcd")
def test_every_flag_of_an_installed_etcd_is_known() -> None:
    usage = subprocess.run(["etcd", "--help"], capture_output=True, text=True, check=True)
    theirs = set(re.findall(r"^  --([a-z0-9-]+)", usage.stdout + usage.stderr, re.MULTILINE))
    assert theirs <= set(FLAGS)
    assert len(theirs) > 50


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_a_setting_or_has_a_reason(name: str) -> None:
    assert (name in SERVED) is (FLAGS[name].foreign is None)
    variable = f"ETCD_{name.upper().replace('-', '_')}"
    if FLAGS[name].foreign is None and name not in OWN_FLAGS:
        [owner] = [each for each in STORE.settings() if name in each.flags]
        assert variable in owner.variables


@pytest.mark.parametrize("name", ETCD_ONLY)
def test_an_answer_is_the_same_as_flag_and_variable(name: str) -> None:
    foreign = ETCD_ONLY[name]
    variable = f"ETCD_{name.upper().replace('-', '_')}"
    for value in dict.fromkeys(("true", "false", "7", "off", "simple", *(foreign.harmless or ()))):
        by_variable: tuple[list[str], dict[str, str]] = ([], {variable: value})
        for argv, environ in (([f"--{name}={value}"], {}), *([by_variable] if value else [])):
            if foreign.takes(value):
                assert foreign.reason in STORE.load(argv, environ).notices[0]
            else:
                with pytest.raises(NetstoreError, match=" is of etcd and not supported") as told:
                    STORE.load(argv, environ)
                assert foreign.reason in str(told.value)


@pytest.mark.parametrize("word", ["1", "t", "T", "true", "TRUE", "True"])
def test_a_switch_is_on_by_any_word_for_it(word: str) -> None:
    with pytest.raises(NetstoreError, match="ETCD_DEBUG is of etcd and not supported"):
        STORE.load([], {"ETCD_DEBUG": word})


@pytest.mark.parametrize("word", ["0", "f", "F", "false", "FALSE", "False"])
def test_a_switch_is_off_by_any_word_for_it(word: str) -> None:
    told = STORE.load([], {"ETCD_DEBUG": word}).notices
    assert told == ("ETCD_DEBUG has no effect: write --log-level=debug",)


@pytest.mark.parametrize("flag", ["pre-vote", "strict-reconfig-check"])
def test_who_allows_less_caution_gets_as_much(flag: str) -> None:
    for word in ("", "=true", "=false"):
        told = STORE.load([f"--{flag}{word}"], {}).notices
        assert told == (f"--{flag} has no effect: netstored always does this",)


def test_of_a_list_that_is_given_twice_the_last_one_counts() -> None:
    argv = (
        "--listen-client-urls=http://127.0.0.1:1 --listen-client-urls=http://127.0.0.1:2,http://127.0.0.1:2"
    )
    [url] = STORE.load(argv.split(), {}).config.listen_client_urls
    assert str(url) == "http://127.0.0.1:2"


def test_who_wants_no_v2_keys_is_not_left_with_them() -> None:
    """No value of etcd's flag has an effect, so the one that asks for more than a notice is refused."""
    assert len(STORE.load(["--v2-deprecation=write-only"], {}).notices) == 1
    with pytest.raises(NetstoreError, match="write --enable-v2=false instead"):
        STORE.load(["--v2-deprecation=gone"], {})
    with pytest.raises(NetstoreError, match="write --enable-v2=false instead"):
        STORE.load([], {"ETCD_V2_DEPRECATION": "gone"})


def test_feature_gates() -> None:
    every = ",".join(f"{name}=true" for name in GATES)
    others = ("AllAlpha=true,AllBeta=false", "InitialCorruptCheck=True, LeaseCheckpoint = 1 ", "AllBeta=F")
    for value in (every, "InitialCorruptCheck=false", "InitialCorruptCheck=true,", "", *others):
        assert len(STORE.load([f"--feature-gates={value}"], {}).notices) == 1
    (told,) = STORE.load(["--feature-gates=InitialCorruptCheck=true , AllBeta=false"], {}).notices
    assert told.endswith(
        "feature-gates has no effect: InitialCorruptCheck: members always compare their states; AllBeta: no"
        " feature waits to be switched on"
    )
    for value in ("InitialCorruptCheck", "Unknown=true", "InitialCorruptCheck=yes", ",", "a=true,b"):
        with pytest.raises(NetstoreError, match="known gates are CompactHashCheck, "):
            STORE.load([f"--feature-gates={value}"], {})


COMMON = (
    "--advertise-client-urls=https://192.0.2.10:2379 --client-cert-auth=true --data-dir=/var/lib/etcd"
    " --initial-advertise-peer-urls=https://192.0.2.10:2380 --initial-cluster=cp1=https://192.0.2.10:2380"
    " --cert-file=/etc/kubernetes/pki/etcd/server.crt --key-file=/etc/kubernetes/pki/etcd/server.key"
    " --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt"
    " --peer-key-file=/etc/kubernetes/pki/etcd/peer.key --peer-client-cert-auth=true"
    " --peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --name=cp1 --snapshot-count=10000"
    " --listen-client-urls=https://127.0.0.1:2379,https://192.0.2.10:2379"
    " --listen-metrics-urls=http://127.0.0.1:2381 --listen-peer-urls=https://192.0.2.10:2380"
)
OLD = "--experimental-initial-corrupt-check=true"
JOINING = (
    "--initial-cluster=cp0=https://192.0.2.9:2380,cp1=https://192.0.2.10:2380"
    " --initial-cluster-state=existing"
)


def command_lines() -> Iterator[tuple[str, str]]:
    """What kubeadm writes: the releases of Kubernetes, and the flags."""
    yield "1.22", COMMON
    yield "1.23 to 1.24", f"{OLD} {COMMON}"
    yield "1.25 to 1.33", f"{OLD} --experimental-watch-progress-notify-interval=5s {COMMON}"
    yield (
        "1.34 to 1.37",
        f"--feature-gates=InitialCorruptCheck=true --watch-progress-notify-interval=5s {COMMON}",
    )
    yield "joins", f"{COMMON} {JOINING}"


@pytest.mark.parametrize(
    "words", [words for _, words in command_lines()], ids=[of for of, _ in command_lines()]
)
def test_what_kubeadm_writes_starts_unchanged(words: str) -> None:
    loaded = STORE.load(words.split(), {})
    assert all("Corrupt" in notice or "corrupt" in notice for notice in loaded.notices)
    config = loaded.config
    assert list(map(str, config.listen_metrics_urls)) == ["http://127.0.0.1:2381"]
    assert config.progress_seconds == (5.0 if "5s" in words else 600.0)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--listen-client-url", "--listen-client-urls"),
        ("--data_dir", "--data-dir"),
        ("--ca-file", "--trusted-ca-file"),
        ("--cacert", "--trusted-ca-file"),
        ("--cert", "--cert-file"),
        ("--key", "--key-file"),
        ("--listen-url", "--listen-client-urls"),
        ("--advertise-url", "--advertise-client-urls"),
        ("--max-snapshot", "--max-snapshots"),
        ("--max-wal", "--max-wals"),
        ("--port", "--listen-client-urls"),
        ("--snapshot-counts", "--snapshot-count"),
        ("--backend-quota-bytes", "--quota-backend-bytes"),
        ("--compaction-retention", "--auto-compaction-retention"),
        ("--http-port", ""),
        ("--foo", ""),
        ("--interval", ""),
        ("--peer-timeout", ""),
        ("--client-url", ""),
    ],
)
def test_what_is_suggested_for_an_unknown_flag_is_what_may_be_meant(flag: str, meant: str) -> None:
    with pytest.raises(NetstoreError) as told:
        STORE.load([f"{flag}=1"], {})
    end = f"did you mean {meant}?" if meant else "see --help for those that are known"
    assert str(told.value).endswith(end)


def test_what_is_meant_is_there() -> None:
    assert {flag.removeprefix("--") for flag in MEANINGS.values()} <= SERVED
    assert not set(MEANINGS) & (SERVED | set(FLAGS))
