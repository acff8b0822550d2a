"""The ports that a member opens, with their certificates."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography import x509

from netstore.errors import NetstoreError
from netstore.ops.owncertificate import own_certificate
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


def test_probes_have_ports_of_their_own(certificate: dict[str, Any]) -> None:
    config = StoreConfig(
        listen_client_urls=(ANY_TLS,),
        listen_client_http_urls=(ANY,),
        listen_metrics_urls=(ANY, ANY_TLS),
        listen_peer_urls=(ANY,),
        **certificate,
    )
    ports = Ports(config)
    assert [given is None for _, given in ports.for_clients()] == [False, True]
    plain, encrypted = ports.for_probes()
    assert plain[1] is None
    assert encrypted[1] is not None
    assert encrypted[1] is not ports.client_credentials, "HTTP/2 is not offered there"
    assert [url.port for url in ports.bound_probe_urls()] == [
        plain[0].getsockname()[1],
        encrypted[0].getsockname()[1],
    ]
    ports.close()


def test_certificates_are_made_once_and_again_when_they_ended(tmp_path: Path) -> None:
    config = StoreConfig(
        data_dir=tmp_path,
        listen_client_urls=(ANY_TLS,),
        listen_peer_urls=(ANY_TLS,),
        auto_tls=True,
        peer_auto_tls=True,
    )
    ports = Ports(config)
    assert not any((ports.client_credentials, ports.peer_credentials))
    ports.certify()
    assert ports.client_credentials is not None
    assert ports.peer_credentials is not None
    assert not ports.certifies_peers
    ports.close()
    made = tmp_path / "fixtures/client/cert.pem"
    key = made.with_name("key.pem")
    assert key.stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate(made.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    before = made.read_bytes()
    assert own_certificate(tmp_path, "client", (ANY_TLS,), 1) == (made, key)
    assert made.read_bytes() == before
    made.write_bytes(b"nothing")
    own_certificate(tmp_path, "client", (Url("https", "a.example", 1),), 2)
    later = x509.load_pem_x509_certificate(made.read_bytes())
    assert later.not_valid_after_utc.year - later.not_valid_before_utc.year == 2


def test_a_pipe_or_link_is_neither_waited_for_nor_replaced_by_a_certificate(tmp_path: Path) -> None:
    made, key = own_certificate(tmp_path, "client", (ANY_TLS,), 1)
    for path, make, words in (
        (made, os.mkfifo, "is a pipe"),
        (key, lambda path: path.symlink_to(tmp_path / "elsewhere"), "is a symbolic link"),
    ):
        path.unlink()
        make(path)
        with pytest.raises(NetstoreError, match=f"{path}: {words}"):
            own_certificate(tmp_path, "client", (ANY_TLS,), 1)
        assert not path.is_file()
        path.unlink()
        own_certificate(tmp_path, "client", (ANY_TLS,), 1)


def test_a_port_in_use_is_named_and_the_others_are_closed() -> None:
    first = Ports(StoreConfig(listen_client_urls=(ANY,), listen_peer_urls=(ANY,)))
    [taken] = first.bound_client_urls()
    for sock, _ in first.for_clients():
        sock.listen()
    with pytest.raises(NetstoreError, match=f"^listen_peer_urls: cannot listen on {taken}"):
        Ports(StoreConfig(listen_client_urls=(ANY,), listen_peer_urls=(taken,)))
    first.close()
