"""The real etcdctl, v3, as an operator uses it: the same session prints the same on etcd and on netstored.

Each session runs on a fresh store of either kind, so that revisions are equal to the last digit. What differs
between any two stores is given a name first: ids, terms, places in the log, sizes, times, addresses, and the
version, which netstored has newer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from netstore.proto.rpc_pb2 import NOSPACE, AlarmRequest, PutRequest
from tests.support.daemon import Daemon, free_port, launch, start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peer]

LIMIT: Final = 20.0

POD: Final = '{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-0","namespace":"default"}}'


@dataclass(frozen=True)
class Said:
    """Exit status and output of a call of etcdctl."""

    code: int
    out: str
    err: str


_IDS: Final = "cluster_id|member_id|ID|leader|ClusterID|MemberID|Leader"
_COUNTS: Final = "raft_term|raftTerm|RaftTerm|raftIndex|RaftIndex|raftAppliedIndex|RaftAppliedIndex"
_SIZES: Final = "dbSize|DBSize|dbSizeInUse|DBSizeInUse"

NAMES: Final = (
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (rf'"({_IDS}|{_COUNTS}|{_SIZES})"( : |:)\d+', r'"\1"\2N'),
    (r"\b3\.(4|5)\.\d+\b", "VERSION"),
    (r"\b[0-9a-f]{15,16}\b", "ID"),
    (r"memberID:\d+", "memberID:N"),
    (r"took = [0-9.]+.?s", "took = T"),
    (r"\b[0-9.]+(ms|µs|Âµs)", "T"),
    (r"\b[0-9.]+ [kM]B\b", "SIZE"),
    (r"remaining\(\d+s\)", "remaining(LEFT)"),
    (r"((?:true|false),? *\|? *(?:true|false))(?:,| \|) *\d+(?:,| \|) *\d+(?:,| \|) *\d+", r"\1 PLACE"),
    (r"-{2,}", "--"),
    (r" {2,}", " "),
)
"""What is the name of what differs between any two stores."""


def named(text: str) -> str:
    for pattern, name in NAMES:
        text = re.sub(pattern, name, text)
    text = re.sub(r'(?<=ETCD_INITIAL_CLUSTER=")[^"]+', lambda found: _sorted(found[0], ","), text)
    return _sorted(text, "\n") if re.match("ID, (un)?started,", text) else text


def _sorted(text: str, between: str) -> str:
    """Members stand in the order of their ids, which differ between any two stores."""
    return between.join(sorted(text.split(between)))


class Etcdctl:
    """etcdctl against one store."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.environment = {**os.environ, "ETCDCTL_API": "3"}

    def __call__(self, *words: str, stdin: str = "") -> Said:
        done = subprocess.run(
            ("etcdctl", "--endpoints", self.daemon.url, *words),
            env=self.environment,
            input=stdin.encode(),
            capture_output=True,
            timeout=seconds(LIMIT),
            check=False,
        )
        # The client library logs its retries before the error that counts.
        err = "".join(line for line in done.stderr.decode().splitlines(True) if not line.startswith("{"))
        return Said(done.returncode, done.stdout.decode("latin-1"), err)

    def follow(self, *words: str, until: str) -> str:
        """What a command prints that ends by a signal only, up to a line."""
        command = ("etcdctl", "--endpoints", self.daemon.url, *words)
        lines: list[str] = []
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            signal.signal(signal.SIGALRM, lambda *_: process.kill())
            signal.alarm(int(seconds(LIMIT)))
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(line)
                    if line.rstrip("\n") == until:
                        break
            finally:
                signal.alarm(0)
                process.kill()
        return "".join(lines)


@contextmanager
def pair_of_stores(folder: Path) -> Iterator[list[Etcdctl]]:
    """A fresh etcd and a fresh netstored, started and stopped side by side."""
    with ThreadPoolExecutor() as threads:
        starting = [threads.submit(start, folder) for start in (start_etcd, start_netstored)]
        daemons = [each.result() for each in starting]
        yield [Etcdctl(daemon) for daemon in daemons]
        list(threads.map(Daemon.stop, daemons))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[Etcdctl]]:
    """Two fresh stores."""
    with pair_of_stores(tmp_path) as both:
        yield both


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Etcdctl]]:
    """Two stores for sessions that leave both in equal states and do not mind what was there before."""
    with pair_of_stores(tmp_path_factory.mktemp("stores")) as both:
        yield both


def same(stores: list[Etcdctl], session: tuple[tuple[str, ...] | tuple[tuple[str, ...], str], ...]) -> None:
    """Every step of the session must leave the same behind on both."""
    for step in session:
        words, stdin = step if isinstance(step[0], tuple) else (step, "")
        theirs, ours = (store(*words, stdin=str(stdin)) for store in stores)
        assert (ours.code, named(ours.out), named(ours.err)) == (
            theirs.code,
            named(theirs.out),
            named(theirs.err),
        ), words


def in_formats(*words: str) -> tuple[tuple[str, ...], ...]:
    return tuple((*words, "-w", form) for form in ("simple", "json", "fields", "table"))


def test_keys(stores: list[Etcdctl]) -> None:
    same(
        stores,
        (
            ("get", "none"),
            ("put", "a", "1"),
            ("put", "a", "2", "--prev-kv"),
            (("put", "b"), "from stdin"),
            ("put", "c", "3", "-w", "json"),
            ("put", "c", "4", "--prev-kv", "-w", "fields"),
            ("put", "c", "--ignore-value"),
            ("put", "none", "--ignore-value"),
            ("put", "none", "x", "--lease=1234"),
            ("put", "/registry/pods/default/web-0", POD),
            ("put", "/registry/pods/default/web-1", POD),
            ("put", "/registry/pods/kube-system/dns", POD),
            ("put", "/registry/services/specs/default/kubernetes", "{}"),
            ("get", "/registry/pods/default/web-0", "-w", "json"),
            *in_formats("get", "/registry/pods/", "--prefix"),
            ("get", "/registry/pods/", "--prefix", "--keys-only"),
            ("get", "/registry/pods/", "--prefix", "--print-value-only"),
            ("get", "/registry/pods/", "--prefix", "--limit=2", "-w", "json"),
            ("get", "/registry/pods/", "--prefix", "--limit=3", "-w", "fields"),
            ("get", "/registry/pods/default/web-0", "--rev=5"),
            ("get", "/registry/pods/default/web-0", "--rev=10", "-w", "json"),
            ("get", "a", "--rev=2"),
            ("get", "a", "--rev=99"),
            ("get", "a", "c"),
            ("get", "b", "--from-key", "--order=DESCEND", "--sort-by=KEY", "--keys-only"),
            ("get", "", "--prefix", "--keys-only"),
            ("get", "", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--keys-only"),
            ("get", "", "--prefix", "--sort-by=VERSION", "--order=ASCEND", "--limit=1"),
            ("get", "", "--prefix", "--sort-by=CREATE", "--order=DESCEND", "--limit=2", "--keys-only"),
            ("get", "", "--prefix", "--sort-by=VALUE", "--order=ASCEND", "--limit=2"),
            ("get", "a", "--consistency=s"),
            ("get", "a", "--hex"),
            ("get", "a", "--consistency=x"),
            ("del", "a", "--prev-kv"),
            ("del", "a"),
            ("del", "/registry/pods/default/", "--prefix", "--prev-kv", "-w", "json"),
            ("del", "b", "--from-key", "-w", "fields"),
            ("get", "", "--prefix"),
        ),
    )


def test_transactions_and_history(stores: list[Etcdctl]) -> None:
    both = 'mod("a") > "0"\nvalue("a") = "1"\nversion("a") = "1"\ncreate("a") < "9"\n\n'
    same(
        stores,
        (
            ("put", "a", "1"),
            (("txn",), both + "put b 2\nget a\ndel none\n\nput b 3\n\n"),
            (("txn", "-w", "json"), 'value("a") = "9"\n\nput b 2\n\nget b\nget none\n\n'),
            (("txn", "-w", "fields"), '\nput c 1 --prev-kv\nget "" --prefix\ndel a --prev-kv\n\n\n'),
            (("txn",), "\nput d 1\nput d 2\n\n\n"),
            (("txn",), "nonsense\n\n\n\n"),
            ("get", "a", "--rev=2"),
            ("endpoint", "hashkv"),
            ("compaction", "3"),
            ("compaction", "3"),
            ("endpoint", "hashkv", "-w", "json"),
            ("compaction", "4", "--physical"),
            ("endpoint", "hashkv", "--rev=5"),
            ("compaction", "99"),
            ("get", "a", "--rev=2"),
            ("get", "", "--prefix", "--rev=4", "-w", "json"),
            ("defrag",),
            ("get", "", "--prefix", "-w", "json"),
        ),
    )


def test_watching_the_past(used: list[Etcdctl]) -> None:
    first = json.loads(used[0]("get", "w/a", "-w", "json").out)["header"]["revision"] + 1
    same(
        used,
        (
            ("put", "w/a", "1"),
            ("put", "w/b", "2"),
            ("put", "w/a", "3"),
            ("del", "w/a"),
            ("put", "w/dir/x", "4"),
            (("txn",), "\nput w/a 5\nput w/dir/y 6\n\n\n"),
            ("put", "w/z", "the end"),
            ("put", "w/a", "the end"),
        ),
    )
    for words, revision in (
        (("watch", "w/a"), first),
        (("watch", "w/a", "--prev-kv"), first + 1),
        (("watch", "w/a", "w/zz"), first - 1),
        (("watch", "w/", "--prefix"), first + 4),
        (("watch", "w/a", "--hex"), first),
    ):
        until = r"\x74\x68\x65\x20\x65\x6e\x64" if "--hex" in words else "the end"
        theirs, ours = (store.follow(*words, f"--rev={revision}", until=until) for store in used)
        assert ours == theirs, words
        assert until in ours
    same(used, (("compaction", str(first + 3)),))
    refused = [store("watch", "w/a", f"--rev={first}") for store in used]
    assert refused[0] == refused[1]
    assert "required revision has been compacted" in refused[0].err


def test_leases(used: list[Etcdctl]) -> None:
    ids = []
    for store in used:
        granted = store("lease", "grant", "500")
        ids.append(granted.out.split()[1])
        assert re.fullmatch(r"lease [0-9a-f]{16} granted with TTL\(500s\)\n", granted.out)
    for template in (
        ("put", "a", "1", "--lease={}"),
        ("get", "a", "-w", "fields"),
        ("lease", "timetolive", "{}"),
        ("lease", "timetolive", "{}", "--keys", "-w", "fields"),
        ("put", "b", "2"),
        ("lease", "timetolive", "{}", "--keys"),
        ("lease", "list"),
        ("lease", "keep-alive", "{}", "--once"),
        ("lease", "keep-alive", "{}", "--once", "-w", "fields"),
        ("lease", "revoke", "{}"),
        ("lease", "revoke", "{}"),
        ("lease", "timetolive", "{}"),
        ("lease", "keep-alive", "{}", "--once"),
        ("lease", "list"),
        ("get", "", "--prefix"),
        ("lease", "grant", "9000000001"),
        ("lease", "grant", "0", "-w", "json"),
    ):
        theirs, ours = (
            store(*(word.format(id_) for word in template)) for store, id_ in zip(used, ids, strict=True)
        )
        shown = [
            (each.code, re.sub(r'"(Lease|TTL)" : \d+', r'"\1" : N', named(each.out)), named(each.err))
            for each in (theirs, ours)
        ]
        assert shown[1] == shown[0], template


def test_members_and_endpoints(used: list[Etcdctl]) -> None:
    same(
        used,
        (
            ("endpoint", "health"),
            ("endpoint", "health", "-w", "json"),
            ("endpoint", "health", "--cluster"),
            *in_formats("endpoint", "status"),
            ("put", "a", "1"),
            *in_formats("member", "list"),
            ("member", "add", "new", "--peer-urls=http://127.0.0.1:24990", "--learner"),
            ("member", "list"),
            ("member", "add", "bad", "--peer-urls=nonsense"),
            ("member", "remove", "1234"),
            ("member", "promote", "1234"),
            ("alarm", "list"),
            ("alarm", "disarm"),
        ),
    )
    for store in used:
        listed = json.loads(store("member", "list", "-w", "json").out)["members"]
        new = next(f"{each['ID']:x}" for each in listed if each.get("isLearner"))
        me = next(f"{each['ID']:x}" for each in listed if not each.get("isLearner"))
        promoted = store("member", "promote", new)
        assert "can only promote a learner member which is in sync with leader" in promoted.err
        assert re.fullmatch(
            r"Member +[0-9a-f]+ updated in cluster +[0-9a-f]+\n",
            store("member", "update", new, "--peer-urls=http://127.0.0.1:24991").out,
        )
        assert re.fullmatch(
            r"Member +[0-9a-f]+ removed from cluster +[0-9a-f]+\n", store("member", "remove", new).out
        )
        moved = store("move-leader", me)
        assert re.fullmatch(r"Leadership transferred from [0-9a-f]+ to [0-9a-f]+\n", moved.out)
        client = V3Client(store.daemon.url)
        raised = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=int(me, 16), alarm=NOSPACE)
        client.maintenance.Alarm(raised)
        client.close()
    same(
        used,
        (
            ("alarm", "list"),
            ("put", "a", "2"),
            ("endpoint", "status"),
            ("endpoint", "health"),
            ("alarm", "disarm"),
            ("alarm", "list"),
            ("put", "a", "2"),
            ("get", "a", "-w", "json"),
        ),
    )


def test_a_lock_runs_a_command(used: list[Etcdctl]) -> None:
    same(used, (("lock", "mutex", "echo", "held"), ("lock", "mutex", "false"), ("get", "mutex", "--prefix")))


# --- snapshots


def contents(store: Etcdctl, *words: str) -> Any:
    return json.loads(store("get", "", "--prefix", "-w", "json", *words).out).get("kvs")


def test_a_snapshot_is_taken_to_a_real_etcd(tmp_path: Path) -> None:
    """What etcdctl saves here is a database of etcd's: an etcd is started from it and has everything."""
    with start_netstored(tmp_path) as netstored:
        ours = Etcdctl(netstored)
        v3 = V3Client(netstored.url)
        for number in range(60):
            value = b"value %d" % number * (number % 9 + 1)
            v3.kv.Put(PutRequest(key=b"/k/%02d" % (number % 40), value=value))
        v3.kv.Put(PutRequest(key=b"gone", value=b"x"))
        v3.kv.Put(PutRequest(key=b"large", value=b"v" * 300_000))
        v3.close()
        ours("del", "gone")
        lease = ours("lease", "grant", "5000").out.split()[1]
        ours("put", "leased", "y", f"--lease={lease}")
        ours("compaction", "30")
        before, past = contents(ours), contents(ours, "--rev=40")
        hashed = json.loads(ours("endpoint", "hashkv", "-w", "json").out)[0]["HashKV"]
        file = tmp_path / "saved.db"
        saved = ours("snapshot", "save", str(file))
        assert (saved.code, saved.out) == (0, f"Snapshot saved at {file}\n")
        status = json.loads(ours("snapshot", "status", str(file), "-w", "json").out)
        assert status["revision"] == hashed["header"]["revision"]
        assert status["totalSize"] == file.stat().st_size - 32
    peer, client = free_port(), free_port()
    folder = tmp_path / "restored.etcd"
    restored = ours(
        *("snapshot", "restore", str(file), "--data-dir", str(folder)),
        *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
    )
    assert restored.code == 0, restored
    url = f"http://127.0.0.1:{client}"
    command = (
        *("etcd", "--data-dir", str(folder), "--listen-client-urls", url, "--advertise-client-urls", url),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
    )
    with launch(command, url, folder, tmp_path / "restored.log") as etcd:
        theirs = Etcdctl(etcd)
        assert contents(theirs) == before
        assert contents(theirs, "--rev=40") == past
        assert "has been compacted" in theirs("get", "large", "--rev=29").err
        told = theirs("lease", "timetolive", lease, "--keys").out
        assert "granted with TTL(5000s)" in told
        assert "attached keys([leased])" in told
        again = json.loads(theirs("endpoint", "hashkv", "-w", "json").out)[0]["HashKV"]
        assert (again["hash"], again["compact_revision"]) == (hashed["hash"], 30)
        assert theirs("put", "after", "z").out == "OK\n"
