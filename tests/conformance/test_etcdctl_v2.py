"""The real etcdctl, v2, as an operator uses it: the same words must print the same on etcd and on netstored.

Scripted sessions are run against each store, once with the member list asked first, as etcdctl does by
itself, and once with `--no-sync`. Indexes are written as distances from where the store stood before the
session (`+1` is its first change), so the script also says which operations take an index. The expectations
were written down from Debian's etcd 3.4.23.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import pytest

from netstore.disk.datadir import read_token
from tests.support.cluster import FORM, exchange
from tests.support.daemon import Daemon, free_port, start_netstored
from tests.support.patience import Deadline, seconds
from tests.support.peers import etcdctl, start_etcd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from pathlib import Path

NETWORK: Final = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'

WATCH_SECONDS: Final = 20.0
"""How long a watch in the background may take to see its event: only a bound, never waited out."""

NO_SYNC: Final = ("--no-sync",)
SYNC: Final[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Step:
    """One call of etcdctl: its arguments, exit status and output."""

    words: tuple[str, ...]
    out: str = ""
    err: str = ""
    code: int = 0
    stdin: str = ""


def does(*words: str, out: str = "", stdin: str = "") -> Step:
    return Step(words, out=out, stdin=stdin)


def fails(*words: str, err: str, code: int = 4) -> Step:
    return Step(words, err=err, code=code)


def node(key: str, value: str, created: int, modified: int | None = None, more: str = "") -> str:
    """A file as `-o json` prints it."""
    indexes = f'"createdIndex":+{created},"modifiedIndex":+{created if modified is None else modified}'
    return f'{{"key":"{key}","value":{json.dumps(value)},"nodes":null,{indexes}{more}}}'


def answer(action: str, node: str, prev: str = "null") -> str:
    return f'{{"action":"{action}","node":{node},"prevNode":{prev}}}\n'


CONFIG: Final = "/kube-centos/network/config"
TIMED: Final = ',"expiration":TIME,"ttl":TTL'

FLANNEL_SETUP: Final = (
    # How the guides prepare a network, and what the administrator looks at afterwards.
    fails("ls", "/kube-centos", err="Error:  100: Key not found (/kube-centos) [+0]\n"),
    does("mkdir", "/kube-centos/network"),
    fails(
        "mkdir", "/kube-centos/network", err="Error:  105: Key already exists (/kube-centos/network) [+1]\n"
    ),
    does("mk", CONFIG, NETWORK, out=f"{NETWORK}\n"),
    fails("mk", CONFIG, NETWORK, err=f"Error:  105: Key already exists ({CONFIG}) [+2]\n"),
    does("set", CONFIG, NETWORK, out=f"{NETWORK}\n"),
    does("get", CONFIG, out=f"{NETWORK}\n"),
    does("get", "--quorum", CONFIG, out=f"{NETWORK}\n"),
    does("ls", "/kube-centos/network", "-r", out=f"{CONFIG}\n"),
    does("ls", "-r", "-p", "/", out=f"/kube-centos/\n/kube-centos/network/\n{CONFIG}\n"),
    does("ls", "-p", out="/kube-centos/\n"),
    does("ls", CONFIG, out=f"{CONFIG}\n"),
    fails("get", "/kube-centos/network", err="/kube-centos/network: is a directory\n", code=1),
    does(
        "-o", "json", "ls", "-r", "--sort", "/kube-centos",
        out=answer(
            "get",
            '{"key":"/kube-centos","dir":true,"value":"","nodes":[{"key":"/kube-centos/network","dir":true,'
            f'"value":"","nodes":[{node(CONFIG, NETWORK, 3)}],"createdIndex":+1,"modifiedIndex":+1}}],'
            '"createdIndex":+1,"modifiedIndex":+1}',
        ),
    ),
)  # fmt: skip

LEASE: Final = "/kube-centos/network/subnets/172.30.7.0-24"
HOLDER: Final = '{"PublicIP":"192.168.77.11","BackendType":"host-gw"}'

LEASES: Final = (
    does("set", "--ttl", "86400", LEASE, HOLDER, out=f"{HOLDER}\n"),
    does("-o", "json", "get", LEASE, out=answer("get", node(LEASE, HOLDER, 1, more=TIMED))),
    does(
        "-o", "extended", "get", LEASE,
        out=f"Key: {LEASE}\nCreated-Index: +1\nModified-Index: +1\nTTL: TTL\nIndex: +1\n\n{HOLDER}\n",
    ),
    does("set", "--ttl", "0", LEASE, HOLDER, out=f"{HOLDER}\n"),  # a reservation: no TTL is sent
    does("-o", "json", "get", LEASE, out=answer("get", node(LEASE, HOLDER, 2))),
    does("update", "--ttl", "86400", LEASE, HOLDER, out=f"{HOLDER}\n"),
    does("-o", "json", "get", LEASE, out=answer("get", node(LEASE, HOLDER, 2, 3, more=TIMED))),
    does("ls", "/kube-centos/network/subnets", out=f"{LEASE}\n"),
    does("rm", LEASE, out=f"PrevNode.Value: {HOLDER}\n"),
    does("ls", "/kube-centos/network/subnets"),
    fails("rm", LEASE, err=f"Error:  100: Key not found ({LEASE}) [+4]\n"),
)  # fmt: skip

COMPARES: Final = (
    does("set", "/a", "1", out="1\n"),
    does("update", "/a", "2", out="2\n"),
    fails("update", "/no", "2", err="Error:  100: Key not found (/no) [+2]\n"),
    does("set", "--swap-with-value", "2", "/a", "3", out="3\n"),
    fails(
        "set", "--swap-with-value", "9", "/a", "3", err="Error:  101: Compare failed ([9 != 3]) [+3]\n"
    ),
    does("set", "--swap-with-index", "+3", "/a", "4", out="4\n"),
    fails(
        "set", "--swap-with-index", "+3", "/a", "5", err="Error:  101: Compare failed ([+3 != +4]) [+4]\n"
    ),
    fails(
        "set", "--swap-with-value", "9", "--swap-with-index", "+1", "/a", "5",
        err="Error:  101: Compare failed ([9 != 4] [+1 != +4]) [+4]\n",
    ),
    fails("rm", "--with-value", "no", "/a", err="Error:  101: Compare failed ([no != 4]) [+4]\n"),
    fails("rm", "--with-index", "+3", "/a", err="Error:  101: Compare failed ([+3 != +4]) [+4]\n"),
    does("rm", "--with-value", "4", "/a", out="\n"),
    does("set", "/a", "1", out="1\n"),
    does("rm", "--with-index", "+6", "/a", out="\n"),
)  # fmt: skip

FORMS: Final = (
    does("-o", "json", "set", "/a", "4", out=answer("set", node("/a", "4", 1))),
    does("-o", "json", "set", "/a", "5", out=answer("set", node("/a", "5", 2), node("/a", "4", 1))),
    does(
        "-o", "extended", "set", "/a", "6",
        out="Key: /a\nCreated-Index: +3\nModified-Index: +3\nPrevNode.Value: 5\nTTL: 0\nIndex: +3\n\n6\n",
    ),
    does(
        "-o", "extended", "rm", "/a",
        out="Key: /a\nCreated-Index: +3\nModified-Index: +4\nPrevNode.Value: 6\nTTL: 0\nIndex: +4\n",
    ),
    does("-o", "json", "mk", "/a", "7", out=answer("create", node("/a", "7", 5))),
    does("-o", "json", "rm", "/a", out=answer("delete", node("/a", "", 5, 6), node("/a", "7", 5))),
    fails("-o", "json", "rm", "/a", err="Error:  100: Key not found (/a) [+6]\n"),
    Step(("-o", "weird", "ls"), err="Unsupported output format: weird\n"),
)  # fmt: skip

DIRECTORIES: Final = (
    does("mk", "--in-order", "/q", "one", out="one\n"),
    does("mk", "--in-order", "/q", "two", out="two\n"),
    does("-o", "json", "mk", "--in-order", "/q", "3", out=answer("create", node("/q/NAME+3", "3", 3))),
    does("ls", "--sort", "/q", out="/q/NAME+1\n/q/NAME+2\n/q/NAME+3\n"),
    fails("rm", "/q", err="Error:  102: Not a file (/q) [+3]\n"),
    fails("rmdir", "/q", err="Error:  108: Directory not empty (/q) [+3]\n"),
    fails("rm", "--dir", "/q", err="Error:  108: Directory not empty (/q) [+3]\n"),
    does("rm", "-r", "/q"),
    does("mkdir", "--ttl", "1000", "/d"),
    does("updatedir", "--ttl", "2000", "/d"),
    fails("setdir", "/d", err="Error:  102: Not a file (/d) [+6]\n"),
    does(
        "-o", "json", "ls", "/d",
        out=answer(
            "get",
            '{"key":"/d","dir":true,"value":"","nodes":null,"createdIndex":+5,"modifiedIndex":+5'
            + TIMED
            + "}",
        ),
    ),
    does("ls", "/d"),
    does("rmdir", "/d"),
    does("setdir", "/d"),
    does("rm", "--dir", "/d"),
    does("set", "/f", "1", out="1\n"),
    fails("set", "/f/below", "1", err="Error:  104: Not a directory (/f) [+10]\n"),
    fails("get", "/f/below", err="Error:  104: Not a directory (/f) [+10]\n"),
    fails("mkdir", "/f", err="Error:  105: Key already exists (/f) [+10]\n"),
    does("rmdir", "/f", out="PrevNode.Value: 1\n"),
    fails("rm", "/", err="Error:  107: Root is read only (/) [+11]\n"),
    fails("set", "/", "1", err="Error:  107: Root is read only (/) [+11]\n"),
)  # fmt: skip

MIXED: Final = 'grüße €\n <two> & "three" \\ \t\x01'

TEXTS: Final = (
    does("set", "/stdin", stdin="from stdin\n", out="from stdin\n\n"),
    does("set", "/empty", "", out="\n"),
    does("get", "/empty", out="\n"),
    does("set", "/text", MIXED, out=f"{MIXED}\n"),
    does("get", "/text", out=f"{MIXED}\n"),
    does("set", "/k ey?x#y%z+&;=", "1", out="1\n"),
    does("get", "/k ey?x#y%z+&;=", out="1\n"),
    does("set", "/grüße", "1", out="1\n"),
    does("set", "/_hidden", "1", out="1\n"),
    does("set", "--", "/dash", "-v", out="-v\n"),
    does("ls", "--sort", out="/dash\n/empty\n/grüße\n/k ey?x#y%z+&;=\n/stdin\n/text\n"),
    does("get", "/_hidden", out="1\n"),
    does("get", "//dash/", out="-v\n"),
    does("get", "/a/../dash", out="-v\n"),
    fails("set", err="Error:  key required\n", code=1),
    fails("set", "/a", err="Error:  value required\n", code=1),
    fails("nonsense", err="No help topic for 'nonsense'\n", code=3),
)  # fmt: skip

WATCHES: Final = (
    # From history, so that nothing depends on who is first.
    does("set", "/w/a", "1", out="1\n"),
    does("mkdir", "/w/d"),
    does("set", "/w/a", "2", out="2\n"),
    does("set", "/other", "x", out="x\n"),
    does("rm", "/w/a", out="PrevNode.Value: 2\n"),
    does("watch", "--after-index", "+0", "/w/a", out="1\n"),
    does("watch", "--after-index", "+1", "/w/a", out="2\n"),
    does("watch", "--after-index", "+3", "/w/a", out="PrevNode.Value: 2\n"),
    does("watch", "-r", "--after-index", "+2", "/w", out="[set] /w/a\n2\n"),
    does("watch", "-r", "--after-index", "+3", "/", out="[set] /other\nx\n"),
    does("watch", "-r", "--after-index", "+3", "/w", out="[delete] /w/a\nPrevNode.Value: 2\n"),
    # An event on a directory is passed over, the next one answers.
    does("watch", "-r", "--after-index", "+1", "/w", out="[set] /w/a\n2\n"),
    does(
        "-o", "json", "watch", "--after-index", "+3", "/w/a",
        out=answer("delete", node("/w/a", "", 3, 5), node("/w/a", "2", 3)),
    ),
)  # fmt: skip

SESSIONS: Final = {
    "flannel-setup": FLANNEL_SETUP,
    "leases": LEASES,
    "compares": COMPARES,
    "forms": FORMS,
    "directories": DIRECTORIES,
    "texts": TEXTS,
    "watches": WATCHES,
}


class Counting:
    """Writes indexes as distances from `base`, and times as words."""

    def __init__(self, base: int) -> None:
        self._base = base

    def absolute(self, word: str) -> str:
        """`+3` in an argument becomes the third index of the session."""
        return str(self._base + int(word[1:])) if re.fullmatch(r"\+\d+", word) else word

    def relative(self, text: str) -> str:
        """What was printed, comparable between stores and runs."""
        text = re.sub(r'("(?:created|modified)Index":)(\d+)', self._distance, text)
        text = re.sub(r"((?:^|-)Index: )(\d+)$", self._distance, text, flags=re.MULTILINE)
        text = re.sub(r"(\) \[)(\d+)(?=\]$)", self._distance, text, flags=re.MULTILINE)
        text = re.sub(r"\[(\d+) != (\d+)\]", self._compared, text)
        text = re.sub(r"/0(\d{19})\b", lambda name: f"/NAME+{int(name[1]) - self._base}", text)
        text = re.sub(r'"expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"', '"expiration":TIME', text)
        text = re.sub(r'"ttl":\d+', '"ttl":TTL', text)
        return re.sub(r"TTL: [1-9]\d*$", "TTL: TTL", text, flags=re.MULTILINE)

    def _distance(self, found: re.Match[str]) -> str:
        return f"{found[1]}+{int(found[2]) - self._base}"

    def _compared(self, found: re.Match[str]) -> str:
        wanted, actual = int(found[1]), int(found[2])
        if actual < self._base or wanted < self._base:
            return found[0]  # values of the script, which stay below any index of a started store
        return f"[+{wanted - self._base} != +{actual - self._base}]"


def ask(store: Daemon, method: str, path: str, form: str | None = None) -> tuple[Message, bytes]:
    """One request without any client: header and body of its answer, which must be a success."""
    answer = exchange(store, method, f"/v2/keys{path}", form, FORM if form else {})
    assert answer.status in {200, 201}, answer.raw
    return answer.headers, answer.raw


def index_of(store: Daemon) -> int:
    return int(ask(store, "GET", "/")[0]["X-Etcd-Index"])


def start(kind: str, tmp_path: Path) -> Daemon:
    """A fresh store whose index is well above the small numbers the script uses as values."""
    daemon = start_etcd(tmp_path) if kind == "etcd" else start_netstored(tmp_path)
    while index_of(daemon) < 100:
        ask(daemon, "PUT", "/_warm", "value=up")
    return daemon


@pytest.fixture(scope="module", params=["etcd", "netstored"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start(request.param, tmp_path_factory.mktemp(request.param)) as daemon:
        yield daemon


@pytest.fixture
def emptied(store: Daemon) -> Daemon:
    """The store without any user key."""
    for top in json.loads(ask(store, "GET", "/")[1])["node"].get("nodes", []):
        ask(store, "DELETE", f"{quote(top['key'])}?recursive=true")
    return store


pytestmark = pytest.mark.peer("etcd", "etcdctl")


@pytest.mark.parametrize("sync", [SYNC, NO_SYNC], ids=["sync", "no-sync"])
@pytest.mark.parametrize("name", SESSIONS)
def test_session_prints_what_etcd_prints(emptied: Daemon, name: str, sync: tuple[str, ...]) -> None:
    counting = Counting(index_of(emptied))
    for number, step in enumerate(SESSIONS[name]):
        words = tuple(counting.absolute(word) for word in step.words)
        told = etcdctl(emptied.url, *sync, *words, stdin=step.stdin)
        seen = Step(
            step.words,
            counting.relative(told.stdout),
            counting.relative(told.stderr),
            told.returncode,
            step.stdin,
        )
        assert seen == step, f"step {number} of {name}"


def watching(url: str, *words: str) -> subprocess.Popen[str]:
    """An etcdctl in the background."""
    return subprocess.Popen(
        ("etcdctl", "--endpoints", url, *words),
        env={"PATH": "/usr/bin:/bin", "ETCDCTL_API": "2"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_done(process: subprocess.Popen[str], change: Callable[[], object]) -> tuple[str, str]:
    """Repeat `change` until the process has ended by itself; its output."""
    deadline = Deadline(WATCH_SECONDS)
    while True:
        change()
        try:
            return process.communicate(timeout=0.2)  # fixed: then the change is made again
        except subprocess.TimeoutExpired:
            if deadline.passed():
                process.kill()
                process.communicate()
                raise


def test_live_watch_ends_with_the_first_event(emptied: Daemon) -> None:
    process = watching(emptied.url, "watch", "-r", "/live")
    out, err = until_done(process, lambda: etcdctl(emptied.url, "set", "/live/key", "now"))
    assert (out, err, process.returncode) == ("[set] /live/key\nnow\n", "", 0)


def test_watch_that_goes_on_misses_nothing(emptied: Daemon) -> None:
    base = index_of(emptied)
    count = 40
    process = watching(emptied.url, "watch", "-r", "-f", "--after-index", str(base), "/many")
    assert process.stdout is not None
    try:
        for number in range(count):
            etcdctl(emptied.url, *NO_SYNC, "set", f"/many/{number}", str(number)).check_returncode()
        seen = [process.stdout.readline() for _ in range(2 * count)]
    finally:
        process.terminate()
        process.communicate(timeout=seconds(WATCH_SECONDS))
    assert "".join(seen) == "".join(f"[set] /many/{number}\n{number}\n" for number in range(count))


def test_exec_watch_tells_the_command_about_the_event(emptied: Daemon) -> None:
    script = (
        'echo "$ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_MODIFIED_INDEX"; kill $PPID'
    )
    process = watching(emptied.url, "exec-watch", "-r", "/x", "--", "sh", "-c", script)
    out, err = until_done(process, lambda: etcdctl(emptied.url, "set", "/x/key", "value"))
    told = re.match(r'set /x/key "?value"? (\d+)\n', out)  # set once more before it ended, it is told twice
    assert told, (out, err)
    assert int(told[1]) <= index_of(emptied)


def test_expired_key_is_gone_and_watched_as_expired(emptied: Daemon) -> None:
    base = index_of(emptied)
    etcdctl(emptied.url, *NO_SYNC, "set", "--ttl", "1", "/short/key", "life").check_returncode()
    told = etcdctl(emptied.url, *NO_SYNC, "watch", "-r", "--after-index", str(base + 1), "/short")
    assert (told.stdout, told.stderr, told.returncode) == ("[expire] /short/key\n\n", "", 0)
    gone = etcdctl(emptied.url, *NO_SYNC, "get", "/short/key")
    assert (gone.returncode, Counting(base).relative(gone.stderr)) == (
        4,
        "Error:  100: Key not found (/short/key) [+2]\n",
    )


def test_cleared_history_is_an_error(emptied: Daemon) -> None:
    for number in range(1001):
        ask(emptied, "PUT", "/fill", f"value={number}")
    newest = index_of(emptied)
    told = etcdctl(emptied.url, "watch", "--after-index", "1", "/fill")
    assert told.returncode == 4
    assert told.stderr == (
        "Error:  401: The event in requested index is outdated and cleared "
        f"(the requested history has been cleared [{newest - 999}/2]) [{newest}]\n"
    )


def test_cluster_health_and_member_list_know_the_one_member(store: Daemon) -> None:
    health = etcdctl(store.url, "cluster-health")
    assert re.fullmatch(
        rf"member [0-9a-f]+ is healthy: got healthy result from {re.escape(store.url)}\ncluster is healthy\n",
        health.stdout,
    ), health
    members = etcdctl(store.url, "member", "list")
    assert re.fullmatch(
        rf"[0-9a-f]+: name=\S+ peerURLs=\S+ clientURLs={re.escape(store.url)} isLeader=true\n", members.stdout
    ), members


def test_members_are_changed_and_refused_in_the_same_words(store: Daemon) -> None:
    """Only changes that do not take the quorum away from an etcd of one member."""
    listed = etcdctl(store.url, "member", "list").stdout
    own = listed.partition(":")[0]
    peer = re.findall(r"peerURLs=(\S+)", listed)[0]

    def told(*words: str) -> tuple[int, str]:
        done = etcdctl(store.url, "member", *words)
        return done.returncode, (done.stdout + done.stderr).replace(own, "OWN").replace(store.url, "URL")

    assert told("update", own, peer) == (0, "Updated member with ID OWN in cluster\n")
    assert told("update", "zz", peer) == (1, "No such member: zz\n")
    assert told("update", "ab", "http://127.0.0.1:1") == (1, "No such member: ab\n")
    for nobody in ("ab", "zz"):
        assert told("remove", nobody) == (
            1,
            f"Couldn't find a member in the cluster with an ID of {nobody}.\n",
        )
    lost = "client: etcd cluster is unavailable or misconfigured"
    why = f"{lost}; error #0: client: etcd member URL has no leader"
    assert told("remove", own) == (1, f"Received an error trying to remove member OWN: {why}\n")
    assert told("add", "two", "junk") == (1, "URL scheme must be http, https, unix, or unixs: junk\n")
    assert told("add", "two", peer) == (1, "membership: peerURL exists\n")


def test_a_member_added_by_etcdctl_starts_as_it_says_and_votes(tmp_path: Path) -> None:
    """The words it prints are the environment of the new member's program, as operators of etcd know it. Only
    the token of a cluster that began without `initial_cluster` has to be given besides.
    """
    new = f"http://127.0.0.1:{free_port()}"
    with start_netstored(tmp_path) as first:
        told = etcdctl(first.url, "member", "add", "two", new)
        added = re.match(r"Added member named two with ID ([0-9a-f]+) to cluster\n", told.stdout)
        assert added, told
        assert f"{added[1]}[unstarted]: peerURLs={new}\n" in etcdctl(first.url, "member", "list").stdout
        environment = dict(re.findall(r'^(ETCD_\w+)="(.*)"$', told.stdout, re.MULTILINE))
        assert environment.keys() == {"ETCD_NAME", "ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE"}
        folder = tmp_path / "two"
        folder.mkdir()
        port = int(new.rpartition(":")[2])
        token = read_token(first.data_dir)
        assert token is not None
        with start_netstored(
            folder, "--join-token", token, peer_port=port, environment=environment
        ) as second:
            health = etcdctl(second.url, "cluster-health")
            assert health.stdout.endswith("cluster is healthy\n"), health
            assert etcdctl(first.url, "set", "/k", "1").returncode == 0
            assert etcdctl(second.url, "get", "--quorum", "/k").stdout == "1\n"
            removed = etcdctl(second.url, "member", "remove", added[1])
            assert removed.stdout == f"Removed member {added[1]} from cluster\n"
            assert second.process.wait(seconds(20)) != 0
        assert etcdctl(first.url, "cluster-health").stdout.endswith("cluster is healthy\n")


def test_a_stopped_store_is_a_connection_error(tmp_path: Path) -> None:
    with start_etcd(tmp_path) as gone:
        gone.stop()
        told = etcdctl(gone.url, "ls")
    assert told.returncode == 2
    assert "cluster is unavailable or misconfigured" in told.stderr
