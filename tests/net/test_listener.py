"""Sockets for the URLs that a member listens on."""

from __future__ import annotations

from contextlib import closing

import pytest

from netstore.errors import NetstoreError
from netstore.net.listener import bind, bound_url, listen
from netstore.urls import read_url


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_port_0_takes_a_free_one_which_the_url_then_has(host: str) -> None:
    url = read_url(f"http://{host}:0")
    with closing(bind("listen_client_urls", url)) as sock:
        bound = bound_url(url, sock)
        assert bound.port == sock.getsockname()[1] != 0
        assert bound._replace(port=0) == url


def test_an_address_that_is_taken_is_told_with_the_setting_and_the_fix() -> None:
    url = read_url("http://127.0.0.1:0")
    with closing(bind("listen_client_urls", url)) as sock:
        sock.listen()
        taken = bound_url(url, sock)
        with pytest.raises(NetstoreError) as caught:
            bind("listen_peer_urls", taken)
    assert str(caught.value) == (
        f"listen_peer_urls: cannot listen on {taken}: Address already in use; stop what uses it or choose"
        " another address"
    )


def test_an_address_on_which_another_listens_since_it_was_bound_is_told_with_the_fix() -> None:
    url = read_url("http://127.0.0.1:0")
    with closing(bind("listen_client_urls", url)) as other:
        port = other.getsockname()[1]
        sock = bind("listen_client_urls", bound_url(url, other))
        listen(other, 1)
        with pytest.raises(NetstoreError) as caught:
            listen(sock, 1)
        assert sock.fileno() == -1, "it is closed"
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1, port {port}: Address already in use; stop what uses it or choose"
        " another address"
    )
