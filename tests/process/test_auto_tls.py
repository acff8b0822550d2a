"""Certificates that members make themselves: TLS for clients and members with nothing prepared."""

from __future__ import annotations

import ssl
import sys
from http.client import HTTPSConnection
from typing import TYPE_CHECKING

from tests.support.daemon import free_port, spawn, start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path


def blind() -> ssl.SSLContext:
    """A context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_clients_are_served_with_one_certificate_from_start_to_start(tmp_path: Path) -> None:
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    shown = set()
    with start_netstored(tmp_path, f"--listen-client-http-urls={url}", "--auto-tls") as daemon:
        for _ in range(2):
            connection = HTTPSConnection("127.0.0.1", port, timeout=seconds(20), context=blind())
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            connection.close()
            shown.add(ssl.get_server_certificate(("127.0.0.1", port)))
            daemon.stop()
            daemon.start_again()
    assert len(shown) == 1


def test_members_find_together_over_tls_that_proves_nothing_but_the_token(tmp_path: Path) -> None:
    peers = {name: f"https://127.0.0.1:{free_port()}" for name in ("a", "b", "c")}
    cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    members = []
    try:
        for name, url in peers.items():
            client = f"http://127.0.0.1:{free_port()}"
            flags = {
                "name": name,
                "data-dir": tmp_path / name,
                "listen-client-urls": client,
                "listen-peer-urls": url,
                "initial-cluster": cluster,
                "initial-cluster-token": "a secret of this test",
            }
            words = [f"--{flag}={value}" for flag, value in flags.items()]
            command = [sys.executable, "-m", "netstore.cli.netstored", *words, "--peer-auto-tls"]
            members.append(spawn(command, client, tmp_path / name, tmp_path / f"{name}.log"))
        for member in members:
            member.wait_until_healthy(seconds(60))
        assert len({(tmp_path / name / "fixtures/peer/cert.pem").read_bytes() for name in peers}) == 3
    finally:
        for member in members:
            member.kill()
