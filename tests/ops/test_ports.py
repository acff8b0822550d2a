"""The ports that a member opens, with their certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trustme

from netstore.errors import NetstoreError
from netstore.ops.ports import Ports
from netstore.ops.store import StoreConfig
from netstore.urls import Url

if TYPE_CHECKING:
    from pathlib import Path

ANY = Url("http", "127.0.0.1", 0)
ANY_TLS = Url("https", "127.0.0.1", 0)


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Any]:
    """Certificate, key and authority by the ends of their settings' names."""
    ca = trustme.CA()
    made = ca.issue_cert("127.0.0.1")
    files = {name: tmp_path / name for name in ("cert_file", "key_file", "trusted_ca_file")}
    files["key_file"].touch(mode=0o600)
    made.private_key_pem.write_to_path(files["key_file"])
    made.cert_chain_pems[0].write_to_path(files["cert_file"])
    ca.cert_pem.write_to_path(files["trusted_ca_file"])
    return files


def test_urls_have_the_ports_that_the_kernel_chose() -> None:
    ports = Ports(StoreConfig(listen_client_urls=(ANY, ANY), listen_peer_urls=(ANY,)))
    bound = [sock.getsockname()[1] for sock, _ in ports.for_clients()]
    assert [url.port for url in ports.bound_client_urls()] == bound
    assert 0 not in bound
    assert [tls for _, tls in ports.for_peers()] == [False]
    assert not ports.certifies_peers
    ports.close()
    assert [sock.fileno() for sock, _ in (*ports.for_clients(), *ports.for_peers())] == [-1] * 3


def test_https_has_its_certificate_and_http_has_none(certificate: dict[str, Any]) -> None:
    peers = {f"peer_{name}": file for name, file in certificate.items()}
    config = StoreConfig(
        listen_client_urls=(ANY_TLS, ANY), listen_peer_urls=(ANY_TLS,), **certificate, **peers
    )
    ports = Ports(config)
    assert [given for _, given in ports.for_clients()] == [ports.client_credentials, None]
    assert ports.client_credentials is not None
    assert ports.peer_credentials is not ports.client_credentials
    assert [tls for _, tls in ports.for_peers()] == [True]
    assert ports.certifies_peers
    ports.close()


def test_a_port_in_use_is_named_and_the_others_are_closed() -> None:
    first = Ports(StoreConfig(listen_client_urls=(ANY,), listen_peer_urls=(ANY,)))
    [taken] = first.bound_client_urls()
    for sock, _ in first.for_clients():
        sock.listen()
    with pytest.raises(NetstoreError, match=f"^listen_peer_urls: cannot listen on {taken}"):
        Ports(StoreConfig(listen_client_urls=(ANY,), listen_peer_urls=(taken,)))
    first.close()
