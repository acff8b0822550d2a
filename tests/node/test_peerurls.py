"""Peer URLs: what is one, what is not, and in which words. The words are etcd 3.4's, seen on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.node.peerurls import MAX_PEER_URLS, BadPeerUrl, checked


def test_urls_are_trimmed_sorted_and_each_once() -> None:
    given_urls = [" http://b:1 ", "https://a:2", "http://b:1", "http://[::1]:2380"]
    assert checked(given_urls) == ("http://[::1]:2380", "http://b:1", "https://a:2")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1", 'URL address does not have the form "host:port": http://127.0.0.1'),
        ("http://[::1]", 'URL address does not have the form "host:port": http://[::1]'),
        ("http:opaque", 'URL address does not have the form "host:port": http:opaque'),
        ("http://127.0.0.1:1/", "URL must not contain a path: http://127.0.0.1:1/"),
        ("http://127.0.0.1:1/path", "URL must not contain a path: http://127.0.0.1:1/path"),
        ("ftp://127.0.0.1:1", "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"),
        ("localhost:1", "URL scheme must be http, https, unix, or unixs: localhost:1"),
        ("host", "URL scheme must be http, https, unix, or unixs: host"),
        ("", "URL scheme must be http, https, unix, or unixs: "),
        ("127.0.0.1:1", 'parse "127.0.0.1:1": first path segment in URL cannot contain colon'),
        (":1", 'parse ":1": missing protocol scheme'),
        ("http://h:x", 'parse "http://h:x": invalid port ":x" after host'),
        ("http://a b:1", 'parse "http://a b:1": invalid character " " in host name'),
        ("%zz", 'parse "%zz": invalid URL escape "%zz"'),
        ("http://a:1\x00", 'parse "http://a:1\\x00": net/url: invalid control character in URL'),
    ],
)
def test_what_is_none_is_refused_in_the_words_of_etcd(url: str, said: str) -> None:
    with pytest.raises(BadPeerUrl) as caught:
        checked(["http://fine:1", url])
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "url",
    [
        "http://:1",  # etcd takes these, and never reaches the member
        "http://h:0",
        "http://h:65536",
        "http://h:1?x=1",
        "http://h:1#x",
        "http://user:word@h:1",
        "unix://h:1",
        "http://h:\u0661",
        "http://" + "h" * 600 + ":1",
    ],
)
def test_what_nobody_can_be_reached_at_is_refused(url: str) -> None:
    with pytest.raises(BadPeerUrl):
        checked([url])


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".",
        ".a",
        "h" * 64,
        "[1]",
        "[:::]",
        "[::1.2.3]",
        "xn--é",
        "a\u2100b",
        "é",
        "。",
    ],
)
def test_a_host_that_nothing_can_look_up_is_refused_with_the_field_and_the_fix(host: str) -> None:
    with pytest.raises(BadPeerUrl) as caught:
        checked([f"http://{host}:1"])
    assert str(caught.value).startswith("peerURLs: ")
    assert "is neither a host name nor an IP address: write http://HOST:PORT" in str(caught.value)


@pytest.mark.parametrize(
    "host", ["a_b.c-d.", "h" * 63, "[fe80::1]", "10.0.0.1", "xn--bcher-kva", "A.example"]
)
def test_names_and_addresses_are_taken(host: str) -> None:
    assert checked([f"http://{host}:1"]) == (f"http://{host}:1",)


def test_no_urls_and_too_many_are_refused() -> None:
    with pytest.raises(BadPeerUrl, match=r"^no valid URLs given$"):
        checked([])
    with pytest.raises(BadPeerUrl, match="at most 16"):
        checked(f"http://h:{port}" for port in range(1, MAX_PEER_URLS + 2))


@given(st.text(st.sampled_from("http:/sunix[]%@?#.1aA \t\x00é"), max_size=24))
def test_any_text_is_an_url_or_refused(text: str) -> None:
    """What passes reads back as scheme, host and port, and passes again."""
    try:
        (url,) = checked([text])
    except BadPeerUrl:
        return
    scheme, address = url.split("://")
    host, _, port = address.rpartition(":")
    assert scheme.lower() in ("http", "https")
    assert host
    assert 0 < int(port) < 65536
    assert checked([url]) == (url,)
