"""Which texts are URLs, and the error texts for others: for peer URLs those recorded from etcd 3.4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.urls import MAX_PEER_URLS, BadPeerUrl, BadUrl, Url, checked_peer_urls, read_url


class TestUrl:
    @pytest.mark.parametrize(
        ("text", "normal"),
        [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("HTTPS://etcd-0.example.:2379/", "https://etcd-0.example.:2379"),
            ("http://[::1]:02379", "http://[::1]:2379"),
            ("http://localhost:0", "http://localhost:0"),
        ],
    )
    def test_normal_form(self, text: str, normal: str) -> None:
        assert str(read_url(text)) == normal

    @pytest.mark.parametrize(
        "text",
        [
            "127.0.0.1:2379",
            "unix://x:1",
            "http://x",
            "http://x:",
            "http://x:65536",
            "http://x:1/path",
            "http://:1",
            "http://[::1:1",
            "http://[1.2.3.4]:1",
            "http://[fe80::1%25eth0]:1",
            "http://::1:1",
            "http://1.2.3:1",
            "http://1.2.3.4.5:1",
            "http://user@x:1",
            "http://a b:1",
            "http://-a:1",
            "http://a..b:1",
            f"http://{'a' * 64}:1",
            f"http://{'.'.join(['a' * 60] * 5)}:1",
            "http://x:1?a=b",
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(BadUrl):
            read_url(text)

    @given(
        st.text(max_size=40) | st.from_regex(r"https?://[a-z0-9.\[\]:%@-]{0,20}:[0-9]{0,6}/?", fullmatch=True)
    )
    def test_the_normal_form_is_read_as_the_same_url(self, text: str) -> None:
        try:
            url = read_url(text)
        except BadUrl:
            return
        assert read_url(str(url)) == url

    @pytest.mark.parametrize(
        ("host", "loopback", "wildcard"),
        [
            ("127.0.0.1", True, False),
            ("127.9.9.9", True, False),
            ("::1", True, False),
            ("localhost", True, False),
            ("0.0.0.0", False, True),
            ("::", False, True),
            ("10.0.0.1", False, False),
            ("localhost.example", False, False),
        ],
    )
    def test_reach(self, host: str, loopback: bool, wildcard: bool) -> None:
        url = Url("http", host, 1)
        assert (url.is_loopback, url.is_wildcard) == (loopback, wildcard)


def test_urls_are_stripped_sorted_and_without_duplicates() -> None:
    given_urls = [" http://b:1 ", "https://a:2", "http://b:1", "http://[::1]:2380"]
    assert checked_peer_urls(given_urls) == ("http://[::1]:2380", "http://b:1", "https://a:2")


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
def test_what_etcd_refuses_is_refused_with_its_text(url: str, said: str) -> None:
    with pytest.raises(BadPeerUrl) as caught:
        checked_peer_urls(["http://fine:1", url])
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "url",
    [
        "http://:1",  # etcd accepts these, and never reaches the member
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
def test_addresses_that_cannot_be_reached_are_refused(url: str) -> None:
    with pytest.raises(BadPeerUrl):
        checked_peer_urls([url])


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".",
        ".a",
        "h" * 64,
        "xn--é",
        "a\u2100b",
        "é",
        "。",
        "a!b",
        "a%41",
        "-a",
        "a,b",
        "1.2.3",
        ".".join(["h" * 63] * 5),
    ],
)
def test_a_host_that_settings_do_not_allow_is_refused_with_field_and_fix(host: str) -> None:
    with pytest.raises(BadUrl, match="has no usable host"):
        read_url(f"http://{host}:1")
    with pytest.raises(BadPeerUrl) as caught:
        checked_peer_urls([f"http://{host}:1"])
    assert str(caught.value).startswith(f"peerURLs: http://{host}:1 has no ")
    assert str(caught.value).endswith(": write http://HOST:PORT")


@pytest.mark.parametrize("host", ["[1]", "[:::]", "[::1.2.3]", "[fe80::1%251]"])
def test_brackets_hold_an_ipv6_address_without_a_zone(host: str) -> None:
    with pytest.raises(BadPeerUrl, match="has no IPv6 address between its brackets"):
        checked_peer_urls([f"http://{host}:1"])


@pytest.mark.parametrize(
    "host", ["a_b.c-d.", "h" * 63, "[fe80::1]", "10.0.0.1", "xn--bcher-kva", "A.example"]
)
def test_names_and_addresses_are_accepted(host: str) -> None:
    assert checked_peer_urls([f"http://{host}:1"]) == (f"http://{host}:1",)


def test_no_urls_and_too_many_are_refused() -> None:
    with pytest.raises(BadPeerUrl, match=r"^no valid URLs given$"):
        checked_peer_urls([])
    with pytest.raises(BadPeerUrl, match="at most 16"):
        checked_peer_urls(f"http://h:{port}" for port in range(1, MAX_PEER_URLS + 2))


@given(st.text(st.sampled_from("http:/sunix[]%@?#.1aA \t\x00é"), max_size=24))
def test_any_text_is_an_url_or_refused(text: str) -> None:
    """An accepted URL has scheme, host and port, and is accepted again."""
    try:
        (url,) = checked_peer_urls([text])
    except BadPeerUrl:
        return
    scheme, address = url.split("://")
    host, _, port = address.rpartition(":")
    assert scheme.lower() in ("http", "https")
    assert host
    assert 0 < int(port) < 65536
    assert checked_peer_urls([url]) == (url,)
    assert read_url(url).port == int(port)
