"""How a command reaches the store: endpoints, credentials, TLS."""

from __future__ import annotations

import base64
import socket
import ssl
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from netstore.cli import netstorectl
from netstore.cli.commands.failures import Exit
from netstore.cli.commands.invocation import Settings, clean
from tests.cli.commands.conftest import DEAD, Terminal, answering, error, served
from tests.support.certificates import Certificates

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Run


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


# Options


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
    trustme.CA().issue_cert("me").cert_chain_pems[0].write_to_path(certificate)
    by_option = run(
        "--endpoints", "https://127.0.0.1:1", "--cert-file", certificate, "--key-file", key, "key", "ls"
    )
    monkeypatch.setenv(names[0], certificate)
    monkeypatch.setenv(names[1], key)
    by_environment = run("--endpoints", "https://127.0.0.1:1", "key", "ls")
    assert by_option == by_environment
    assert by_option.status == 2
    assert by_option.err.startswith(f"netstorectl: --key-file: {key}: No such file or directory; ")


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
    refusal = "netstorectl: the store wants to know who asks, or this user may not do it; give --username of"
    assert refusal in told.err
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
        words = ["--endpoints", url, "--store-api", "v2", "--username", "ann", "network", "set", document]
        status = netstorectl.run(words)
    assert (status, capsys.readouterr().err) == (0, "")
    assert asked == ["Password of ann: "]
    assert len(heads) == 4
    wanted = b"authorization: basic " + base64.b64encode(b"ann:secret")
    assert all(wanted.lower() in head.lower() for head in heads)


# Keys


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


@pytest.mark.parametrize("words", [("member", "ls"), ("history", "/a")], ids=["v2", "v3"])
def test_a_store_whose_certificate_is_not_trusted(
    run: Run, certificates: Certificates, tmp_path: Path, words: tuple[str, ...]
) -> None:
    other = Certificates(tmp_path / "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        server = threading.Thread(target=handshaking, args=(context, listener))
        server.start()
        told = run("--endpoints", url, "--ca-file", str(other.ca), *words)
        server.join()
    assert told.status == Exit.UNAVAILABLE
    assert f"({url}: TLS: certificate refused: " in told.err
    assert f"; --ca-file {other.ca} has not signed it" in told.err
    assert told.err.endswith("check --endpoints, --ca-file, --cert-file and that the store runs there\n")


@pytest.mark.parametrize("shown", [None, "stranger"])
@pytest.mark.parametrize("words", [("key", "ls"), ("key", "set", "/a", "b"), ("history", "/a")])
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
    fix = "give --cert-file" if shown is None else f"--cert-file {certificates.folder}/{shown}.pem is none"
    assert f"the store wants a certificate of ours that it trusts; {fix}" in told.err


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
    problem = "No such file or directory" if content is None else "holds no certificate in PEM form"
    for option in "--ca-file", "--cert-file":
        told = run("--endpoints", "https://127.0.0.1:1", option, str(path), "key", "ls")
        assert told.status == Exit.USAGE
        assert told.err.startswith(f"netstorectl: {option}: {path}: {problem}; give a PEM file of ")
        assert ".c:" not in told.err
        assert "Errno" not in told.err


def test_a_certificate_without_its_key_and_a_key_without_its_certificate(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = trustme.CA().issue_cert("me")
    alone, both, key = (str(tmp_path / name) for name in ("alone.pem", "both.pem", "our.key"))
    issued.cert_chain_pems[0].write_to_path(alone)
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    issued.private_key_pem.write_to_path(key)
    for words, problem in (
        (("--cert-file", alone), f"--cert-file: {alone}: holds no private key in PEM form"),
        (("--key-file", key), "--key-file: has no effect without the certificate that it is of"),
        (("--cert-file", key, "--key-file", key), f"--cert-file: {key}: holds no certificate in PEM form"),
    ):
        told = run("--endpoints", "https://127.0.0.1:1", *words, "key", "ls")
        assert (told.status, told.err.startswith(f"netstorectl: {problem}")) == (2, True), told.err
        missing = {"--cert-file", "--key-file"} - {*words}
        assert all(told.err.endswith(f"; give {option}, too\n") for option in missing), told.err
    assert run("--endpoints", "https://127.0.0.1:1", "--cert-file", both, "key", "ls").status == 4
    told = run("--key-file", key, "key", "ls")
    assert (told.status, "give --cert-file, too" in told.err) == (2, True), "https is not asked for, either"
    monkeypatch.setenv("ETCDCTL_KEY", key)
    told = run("--endpoints", "https://127.0.0.1:1", "key", "ls")
    assert (told.status, "give --cert-file, too" in told.err) == (2, True)
