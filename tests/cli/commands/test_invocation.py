"""The shared options, and what each way to fail looks like."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from netstore.cli import netstorectl
from netstore.cli.commands.invocation import Exit, Settings, clean
from tests.cli.commands.conftest import Terminal, answering, http
from tests.support.certificates import Certificates
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Run

DEAD = "http://127.0.0.1:1"
FILE = '{"action":"get","node":{"key":"/a","value":"1","modifiedIndex":1,"createdIndex":1}}'


def served(body: str = FILE, status: str = "200 OK") -> bytes:
    return http(status, body, "X-Etcd-Index: 1", "Content-Type: application/json")


def error(code: int, cause: str, status: str) -> bytes:
    return served(json.dumps({"errorCode": code, "message": "m", "cause": cause, "index": 0}), status)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


# Options


@pytest.mark.parametrize(
    "words",
    [
        ("--endpoints", "{}", "key", "get", "/a"),
        ("key", "--endpoints", "{}", "get", "/a"),
        ("key", "get", "--endpoints", "{}", "/a"),
        ("key", "get", "/a", "--endpoints={}"),
        ("--endpoints", DEAD, "key", "get", "/a", "--endpoints", "{}"),
    ],
)
def test_shared_options_go_anywhere_and_the_last_one_counts(run: Run, words: tuple[str, ...]) -> None:
    with answering(lambda _head: served()) as url:
        told = run(*(word.format(url) for word in words))
    assert (told.status, told.out, told.err) == (0, "1\n", "")


def test_an_option_beats_the_environment_wherever_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETSTORE_ENDPOINTS", DEAD)
    monkeypatch.setenv("NETSTORE_PREFIX", "/elsewhere")
    with answering(lambda head: served() if b"/v2/keys/here/config?" in head else b"") as url:
        for words in (
            ("--endpoints", url, "--prefix", "/here", "network", "get", "--raw"),
            ("network", "get", "--raw", "--endpoints", url, "--prefix", "here/"),
        ):
            assert run(*words).out == "1\n"


@pytest.mark.parametrize("name", ["NETSTORE_ENDPOINTS", "ETCDCTL_ENDPOINTS"])
def test_endpoints_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with answering(lambda _head: served()) as url:
        monkeypatch.setenv(name, f"{DEAD},{url.removeprefix('http://')}")
        assert run("key", "get", "/a").out == "1\n"


@pytest.mark.parametrize(
    "endpoints", ["ftp://h", "http://", "http://h:x", "http://h/path", "http://u:secret@h", ","]
)
def test_bad_endpoints_are_a_usage_error(run: Run, endpoints: str) -> None:
    told = run("--endpoints", endpoints, "key", "ls")
    assert told.status == 2
    assert told.err.startswith("netstorectl: ")
    assert "endpoint" in told.err
    assert "secret" not in told.err


@pytest.mark.parametrize(
    ("given", "certificate", "urls"),
    [
        ("h", None, ("http://h:2379",)),
        ("h:1,g:2", None, ("http://h:1", "http://g:2")),
        ("h", "ca.pem", ("https://h:2379",)),
        ("http://h", "ca.pem", ("http://h:2379",)),
        ("[::1]:4", None, ("http://[::1]:4",)),
    ],
)
def test_an_endpoint_without_a_scheme(given: str, certificate: str | None, urls: tuple[str, ...]) -> None:
    assert Settings(endpoints=given, ca_file=certificate).addresses() == urls


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("NETSTORECTL_CACERT", "--ca-file"),
        ("ETCDCTL_CACERT", "--ca-file"),
        ("ETCDCTL_CA_FILE", "--ca-file"),
    ],
)
def test_certificates_that_cannot_be_read_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, option: str
) -> None:
    path = str(tmp_path / "none.pem")
    by_option = run("--endpoints", "https://127.0.0.1:1", option, path, "key", "ls")
    monkeypatch.setenv(name, path)
    by_environment = run("--endpoints", "https://127.0.0.1:1", "key", "ls")
    assert by_option == by_environment
    assert by_option.status == 2
    assert path in by_option.err


@pytest.mark.parametrize(
    "names",
    [
        ("NETSTORECTL_CERT", "NETSTORECTL_KEY"),
        ("ETCDCTL_CERT", "ETCDCTL_KEY"),
        ("ETCDCTL_CERT_FILE", "ETCDCTL_KEY_FILE"),
    ],
)
def test_our_certificate_and_key_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, str]
) -> None:
    certificate, key = str(tmp_path / "our.pem"), str(tmp_path / "our.key")
    by_option = run(
        "--endpoints", "https://127.0.0.1:1", "--cert-file", certificate, "--key-file", key, "key", "ls"
    )
    monkeypatch.setenv(names[0], certificate)
    monkeypatch.setenv(names[1], key)
    by_environment = run("--endpoints", "https://127.0.0.1:1", "key", "ls")
    assert by_option == by_environment
    assert by_option.status == 2
    assert certificate in by_option.err
    assert key in by_option.err


@pytest.mark.parametrize("timeout", ["0", "-1", "x", "nan", "inf", "3601"])
def test_bad_time_limits_are_a_usage_error(run: Run, timeout: str) -> None:
    told = run("--timeout", timeout, "key", "ls")
    assert told.status == 2
    assert "--timeout" in told.err


# Who asks


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("--username", "ann:secret:word"), {}),
        (("--username", "ann"), {"NETSTORE_PASSWORD": "secret:word"}),
        (("--username", "ann"), {"ETCDCTL_PASSWORD": "secret:word"}),
        ((), {"NETSTORE_USERNAME": "ann:secret:word"}),
        ((), {"ETCDCTL_USERNAME": "ann:secret:word"}),
        ((), {"ETCDCTL_USER": "ann", "ETCDCTL_PASSWORD": "secret:word"}),
    ],
)
def test_credentials_are_sent_and_never_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    wanted = b"authorization: basic " + base64.b64encode(b"ann:secret:word")
    heads: list[bytes] = []

    def session(head: bytes) -> bytes:
        heads.append(head)
        return error(110, "Insufficient credentials", "401 Unauthorized")

    with answering(session) as url:
        told = run("--endpoints", url, *words, "--debug", "key", "get", "/a")
    assert wanted.lower() in heads[0].lower()
    assert told.status == 1
    assert told.err.endswith("netstorectl: the store wants to know who asks; give --username\n")
    assert f"debug: HTTP Request: GET {url}/v2/keys/a" in told.err
    assert "secret" not in told.err
    assert base64.b64encode(b"ann:secret:word").decode() not in told.err


def test_a_name_without_a_password_and_nobody_to_ask(run: Run) -> None:
    told = run("--username", "ann", "key", "ls")
    assert told.status == 2
    assert "--username ann: no password" in told.err


def test_a_password_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "secret"

    def session(head: bytes) -> bytes:
        heads.append(head)
        return error(100, "/n", "404 Not Found") if head.startswith(b"GET") else served()

    heads: list[bytes] = []
    monkeypatch.setattr("getpass.getpass", answer)
    monkeypatch.setattr(sys, "stdin", Terminal())
    document = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}'
    with answering(session) as url:
        status = netstorectl.run(["--endpoints", url, "--username", "ann", "network", "set", document])
    assert (status, capsys.readouterr().err) == (0, "")
    assert asked == ["Password of ann: "]
    assert len(heads) == 3
    wanted = b"authorization: basic " + base64.b64encode(b"ann:secret")
    assert all(wanted.lower() in head.lower() for head in heads)


# Failures


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


@pytest.mark.parametrize(
    ("given", "key"),
    [("", "/"), ("/", "/"), ("a", "/a"), ("//a//b/", "/a/b"), ("/a/./b/../c", "/a/c"), ("/../a", "/a")],
)
def test_keys_are_cleaned_as_every_client_does(given: str, key: str) -> None:
    assert clean(given) == key


# TLS


def handshaking(context: ssl.SSLContext, listener: socket.socket) -> None:
    """Take one connection, shake hands as far as that goes, and wait until the client hangs up."""
    sock, _ = listener.accept()
    shaking = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    with suppress(OSError):
        shaking.do_handshake()
    with suppress(OSError), socket.socket(fileno=shaking.detach()) as rest:
        rest.shutdown(socket.SHUT_WR)
        while rest.recv(65536):
            pass


def test_a_store_whose_certificate_is_not_trusted(
    run: Run, certificates: Certificates, tmp_path: Path
) -> None:
    other = Certificates(tmp_path / "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        server = threading.Thread(target=handshaking, args=(context, listener))
        server.start()
        told = run("--endpoints", url, "--ca-file", str(other.ca), "member", "ls")
        server.join()
    assert told.status == Exit.UNAVAILABLE
    assert f"({url}: TLS: certificate refused: " in told.err
    assert told.err.endswith("check --endpoints, --ca-file, --cert-file and that the store runs there\n")


@pytest.mark.parametrize("shown", [None, "stranger"])
@pytest.mark.parametrize("words", [("key", "ls"), ("key", "set", "/a", "b")])
def test_a_store_that_does_not_accept_our_certificate_has_done_nothing(
    run: Run, certificates: Certificates, shown: str | None, words: tuple[str, ...]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = ["--ca-file", str(certificates.ca)]
    if shown is not None:
        ours += ["--cert-file", str(certificates.folder / f"{shown}.pem")]
        ours += ["--key-file", str(certificates.folder / f"{shown}.key")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        server = threading.Thread(target=handshaking, args=(context, listener))
        server.start()
        told = run("--endpoints", url, *ours, *words)
        server.join()
    assert told.status == Exit.UNAVAILABLE
    assert "the store wants a certificate of ours that it trusts" in told.err


def answering_in_plain(listener: socket.socket) -> None:
    """Take one connection and answer it as a store does that has no TLS."""
    sock, _ = listener.accept()
    with sock:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_https_where_a_store_speaks_http(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answering_in_plain, args=(listener,))
        server.start()
        told = run("--endpoints", f"https://127.0.0.1:{listener.getsockname()[1]}", "key", "get", "/a")
        server.join()
    assert told.status == Exit.UNAVAILABLE
    assert "TLS: " in told.err
    assert "; is it http:// there?)" in told.err


@pytest.mark.parametrize("content", ["", "no certificate\n", None])
def test_files_that_hold_no_certificate(run: Run, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    for option, fix in (
        ("--ca-file", "give a PEM file of authorities' certificates"),
        ("--cert-file", "give a PEM certificate and the key that belongs to it"),
    ):
        told = run("--endpoints", "https://127.0.0.1:1", option, str(path), "key", "ls")
        assert told.status == Exit.USAGE
        assert str(path) in told.err
        assert told.err.endswith(f": {fix}\n")
        assert ".c:" not in told.err
        assert "Errno" not in told.err


# What is said


def test_what_the_first_of_two_stores_said_is_told(run: Run) -> None:
    sick = error(300, "etcdserver: request timed out", "500 Internal Server Error")
    with answering(lambda _head: sick) as url:
        told = run("--endpoints", f"{url},{DEAD}", "key", "get", "--quorum", "/a")
    assert told.status == Exit.UNAVAILABLE
    assert f"{url}: 300: " in told.err
    assert "etcdserver: request timed out" in told.err


@pytest.mark.parametrize("words", [("--timeout", "0", "status"), ("key", "set", "/a"), ("bogus",)])
def test_a_usage_error_ends_before_the_help_is_named(run: Run, words: tuple[str, ...]) -> None:
    told = run(*words)
    assert told.status == Exit.USAGE
    assert ". See 'netstorectl" in told.err


@pytest.mark.parametrize("words", [("alarm", "list"), ("snapshot", "save", "x"), ("get", "/a")])
def test_who_looks_for_what_etcdctl_has_is_told(run: Run, words: tuple[str, ...]) -> None:
    told = run(*words)
    assert told.status == Exit.USAGE
    assert f"ETCDCTL_API=3 etcdctl {words[0]}. See" in told.err
    assert "etcdctl" not in run("member", "get").err, "only where no noun was given"
