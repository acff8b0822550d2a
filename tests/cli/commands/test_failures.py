"""What each way to fail looks like: exit status and message."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest

from netstore.cli.commands.failures import Exit, failure_of
from netstore.client.faults import BadAnswer
from tests.cli.commands.conftest import DEAD, FILE, answering, error, http, served
from tests.support.patience import seconds
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.commands.conftest import Run


def test_nothing_listens(run: Run) -> None:
    told = run("--endpoints", DEAD, "key", "set", "/a", "1")
    assert told.status == 4
    assert told.err.startswith(f"netstorectl: no endpoint answered ({DEAD}: ")
    assert told.err.count("\n") == 1


def test_an_https_endpoint_may_fail_for_its_certificates(run: Run) -> None:
    told = run("--endpoints", "https://127.0.0.1:1", "key", "ls")
    assert told.status == 4
    assert told.err.endswith("; check --endpoints, --ca-file, --cert-file and that the store runs there\n")


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("doctor",),
        ("endpoint", "health"),
        ("endpoint", "status", "--cluster"),
        ("member", "ls"),
        ("snapshot", "save", "saved"),
        ("subnet", "ls"),
        ("network", "migrate", "status"),
        ("plugin", "status"),
        ("history", "/a"),
        ("key", "get", "/a"),
    ],
)
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--username", "root"), "--username root: no password"),
        (("--cert-file", "/nonexistent.pem"), "--cert-file: /nonexistent.pem"),
    ],
)
def test_settings_that_no_client_can_use_are_a_usage_error_everywhere(  # noqa: PLR0917 - a table of cases
    run: Run,
    words: tuple[str, ...],
    more: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NETSTORE_PASSWORD", "ETCDCTL_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    answer = run("--endpoints", "https://127.0.0.1:1", *more, *words)
    assert (answer.status, answer.out) == (Exit.USAGE, "")
    assert told in answer.err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("key", "get", "/a"), Exit.UNAVAILABLE),
        (("key", "set", "/a", "1"), Exit.UNKNOWN),
        (("key", "rm", "/a"), Exit.UNKNOWN),
        (("key", "mk", "--in-order", "/a", "1"), Exit.UNKNOWN),
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nX-Etcd-Index: 1\r\n\r\n{",
        error(300, "etcdserver: request timed out", "500 Internal Server Error"),
    ],
    ids=["hung-up", "cut", "timed-out"],
)
def test_a_write_without_an_answer_has_an_unknown_outcome(
    run: Run, words: tuple[str, ...], status: Exit, answer: bytes
) -> None:
    with answering(lambda _head: answer) as url:
        told = run("--endpoints", url, *words)
    assert (told.status, told.out) == (status, "")
    assert told.err.count("\n") == 1
    if status is Exit.UNKNOWN:
        assert told.err.startswith(
            "netstorectl: outcome unknown: the change may have happened or may still happen; look before"
        )


def test_a_store_that_says_nothing_is_given_up(run: Run) -> None:
    never = threading.Event()

    def silent(_head: bytes) -> bytes:
        never.wait(seconds(30))
        return b""

    with answering(silent) as url:
        try:
            for limit in ("0.1", "2", "20"):  # on a slow machine the first may pass before anything is sent
                read = run("--endpoints", url, "--timeout", limit, "key", "get", "/a")
                write = run("--endpoints", url, "--timeout", limit, "key", "set", "/a", "1")
                if write.status == 5:
                    break
        finally:
            never.set()
    assert read.status == 4
    assert f"no answer within {limit} s" in read.err
    assert write.status == 5


@pytest.mark.parametrize(
    "answer", [b"\x00\xff\x16\x03garbage\r\n\r\n", served("not json"), served("[]"), http("200 OK", FILE)]
)
def test_an_answer_no_store_gives(run: Run, answer: bytes) -> None:
    with answering(lambda _head: answer) as url:
        told = run("--endpoints", url, "key", "get", "/a")
    assert told.status == 4
    assert url in told.err
    assert told.err.count("\n") == 1


def test_a_store_without_the_v2_api(run: Run) -> None:
    with answering(lambda _head: http("404 Not Found", "404 page not found\n")) as url:
        told = run("--endpoints", url, "key", "get", "/a")
    assert told.status == 4
    assert "--enable-v2" in told.err


def test_what_the_store_says_is_inert_on_a_terminal(run: Run) -> None:
    hostile = error(105, "\x1b]0;owned\x07\n/a", "412 Precondition Failed")
    with answering(lambda _head: hostile) as url:
        told = run("--endpoints", url, "key", "mk", "/a", "1")
    assert (told.status, told.err) == (1, "netstorectl: \\x1b]0;owned\\x07\\n/a: exists already\n")


def test_a_watch_that_ends_says_where_to_go_on(run: Run) -> None:
    event = FILE.replace('"modifiedIndex":1', '"modifiedIndex":41')

    def once(head: bytes) -> bytes:
        return served(event) if b"waitIndex=7" in head else b""

    with answering(once) as url:
        told = run("--endpoints", url, "key", "watch", "--forever", "--after-index", "6", "/a")
    assert told.status == 4
    assert told.rows == [["get", "/a", "41", "1"]]
    assert told.err.endswith("; to miss nothing go on with --after-index 41\n")


def test_what_the_first_of_two_stores_said_is_told(run: Run) -> None:
    sick = error(300, "etcdserver: request timed out", "500 Internal Server Error")
    with answering(lambda _head: sick) as url:
        told = run("--endpoints", f"{url},{DEAD}", "key", "get", "--quorum", "/a")
    assert told.status == Exit.UNAVAILABLE
    assert f"{url}: 300: " in told.err
    assert "etcdserver: request timed out" in told.err


@pytest.fixture(scope="module")
def etcd_with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An etcd that asks for passwords: root, ann, who may use the prefix /ann/, and bob, who may do nothing;
    that of each is `pw`.
    """
    below = {
        "permType": "READWRITE",
        "key": base64.b64encode(b"/ann/").decode(),
        "range_end": base64.b64encode(b"/ann0").decode(),
    }
    with start_etcd(tmp_path_factory.mktemp("etcd")) as daemon:
        for path, wish in (
            ("user/add", {"name": "root", "password": "pw"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "bob", "password": "pw"}),
            ("user/add", {"name": "ann", "password": "pw"}),
            ("role/add", {"name": "ann"}),
            ("role/grant", {"name": "ann", "perm": below}),
            ("user/grant", {"user": "ann", "role": "ann"}),
            ("enable", {}),
        ):
            request = urllib.request.Request(  # noqa: S310 - of the store of the test
                f"{daemon.url}/v3/auth/{path}", data=json.dumps(wish).encode(), method="POST"
            )
            with urllib.request.urlopen(request, timeout=seconds(20)):  # noqa: S310 - same
                pass
        yield daemon.url


@pytest.mark.peer("etcd")
@pytest.mark.parametrize(
    "words",
    [
        ("member", "add", "http://127.0.0.1:1"),
        ("snapshot", "save", "--v3", "saved"),
        ("history", "/a"),
        ("undo", "--to-revision", "1", "/"),
    ],
)
@pytest.mark.parametrize(
    ("user", "fix"),
    [
        ((), "give --username"),
        (("--username", "root:wrong"), "check the name of --username and its password"),
        (("--username", "bob:pw"), "give --username of somebody who may"),
    ],
)
def test_an_etcd_with_users_refuses_in_words(  # noqa: PLR0917 - a table of cases
    run: Run,
    etcd_with_users: str,
    words: tuple[str, ...],
    user: tuple[str, ...],
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("--endpoints", etcd_with_users, *user, *words)
    assert (told.status, told.out) == (Exit.REFUSED, "")
    assert fix in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peer("etcd")
def test_who_may_use_one_prefix_goes_back_there(run: Run, etcd_with_users: str) -> None:
    for words, status, text in (
        (("diff", "--at", "1", "/ann/"), 0, ""),
        (("undo", "--to-revision", "1", "/ann/"), 0, ""),
        (("diff", "--at", "99", "/ann/"), Exit.NOT_FOUND, "revision 99 is later than the store's newest, 1"),
        (("diff", "--at", "1", "/other/"), Exit.REFUSED, "give --username of somebody who may"),
    ):
        told = run("--endpoints", etcd_with_users, "--username", "ann:pw", *words)
        assert (told.status, text in told.err) == (status, True), told.err


@pytest.mark.peer("etcd")
def test_an_etcd_with_users_serves_who_may(run: Run, etcd_with_users: str, tmp_path: Path) -> None:
    for words in (("member", "ls"), ("endpoint", "status"), ("snapshot", "save", str(tmp_path / "saved"))):
        told = run("--endpoints", etcd_with_users, "--username", "root:pw", *words)
        assert told.status == Exit.OK, told.err


def test_an_answer_may_say_itself_what_to_do() -> None:
    told = failure_of(BadAnswer("the store", "has told nothing", fix="repeat this later"))
    assert (told.status, told.text) == (Exit.UNAVAILABLE, "the store has told nothing; repeat this later")
