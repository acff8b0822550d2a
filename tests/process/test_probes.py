"""What kubeadm writes starts as it is, and kubelet's probes and Prometheus find what they ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import Certificates
from tests.support.daemon import free_port, launch, netstored_command, spawn, start_netstored
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon


def get(
    url: str, path: str, certificates: Certificates | None = None, *, shown: str | None = "client"
) -> tuple[int, str]:
    """Status and body of one answer."""
    place = urlsplit(url)
    if certificates is not None:
        connection: HTTPConnection = HTTPSConnection(
            place.hostname or "", place.port, timeout=seconds(20), context=certificates.context(shown=shown)
        )
    else:
        connection = HTTPConnection(place.hostname or "", place.port, timeout=seconds(20))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def probed(tmp_path: Path) -> str:
    return f"http://127.0.0.1:{free_port()}"


def kubeadms(tmp_path: Path, certificates: Certificates, probes: str, *more: str) -> Daemon:
    """The command line of a control plane's only member, with paths and ports of this test."""
    client, peer = (f"https://127.0.0.1:{free_port()}" for _ in range(2))
    words = {
        "advertise-client-urls": client,
        "cert-file": certificates.certificate,
        "client-cert-auth": "true",
        "data-dir": tmp_path / "etcd",
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"cp1={peer}",
        "key-file": certificates.key,
        "listen-client-urls": client,
        "listen-metrics-urls": probes,
        "listen-peer-urls": peer,
        "name": "cp1",
        "peer-cert-file": certificates.certificate,
        "peer-client-cert-auth": "true",
        "peer-key-file": certificates.key,
        "peer-trusted-ca-file": certificates.ca,
        "snapshot-count": "10000",
        "trusted-ca-file": certificates.ca,
    }
    command = [
        sys.executable,
        "-m",
        "netstore.cli.netstored",
        *(f"--{name}={each}" for name, each in words.items()),
    ]
    return launch([*command, *more], probes, tmp_path / "etcd", tmp_path / "log")


@pytest.mark.parametrize(
    "more",
    [
        ("--experimental-initial-corrupt-check=true", "--experimental-watch-progress-notify-interval=5s"),
        ("--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=5s"),
    ],
    ids=["etcd 3.5", "etcd 3.6"],
)
def test_kubelets_probes_are_answered_on_a_port_of_their_own(
    tmp_path: Path, probed: str, more: tuple[str, ...]
) -> None:
    certificates = Certificates(tmp_path / "pki")
    with kubeadms(tmp_path, certificates, probed, *more) as daemon:
        assert get(probed, "/readyz") == get(probed, "/livez") == (200, "ok\n")
        assert get(probed, "/readyz?verbose")[1].splitlines()[2] == "[+]linearizable_read ok"
        assert get(probed, "/livez/serializable_read")[0] == 200
        for path in ("/health", "/health?serializable=true", "/health?exclude=NOSPACE"):
            status, body = get(probed, path)
            assert (status, json.loads(body)) == (200, {"health": "true", "reason": ""})
        for path in ("/v2/keys", "/version", "/netstore/status", "/readyz/nothing"):
            assert get(probed, path)[0] == 404, path
        until(lambda: "serving_clients" in daemon.log, "clients are served")
        client = next(line for line in daemon.log.splitlines() if "serving_clients" in line)
        assert "https://127.0.0.1:" in client
        assert "serving_metrics" in daemon.log


def test_a_new_member_without_a_majority_is_alive_and_not_ready(tmp_path: Path, probed: str) -> None:
    """A kubelet that waits for `/livez` does not restart it while the others are being started."""
    peers = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    command = netstored_command(
        tmp_path / "data",
        f"--listen-metrics-urls={probed}",
        "--quota-backend-bytes=-1",
        "--name=m0",
        f"--listen-peer-urls={peers[0]}",
        f"--initial-advertise-peer-urls={peers[0]}",
        "--initial-cluster=" + ",".join(f"m{number}={url}" for number, url in enumerate(peers)),
    )
    with spawn(command, probed, tmp_path / "data", tmp_path / "log") as daemon:
        until(lambda: "serving_metrics" in daemon.log, "probes are served")
        assert get(probed, "/livez") == (200, "ok\n")
        status, lines = get(probed, "/readyz")
        assert (status, "[-]linearizable_read failed" in lines) == (503, True)
        metrics = get(probed, "/metrics")[1].splitlines()
        assert "etcd_server_has_leader 0.0" in metrics
        assert "etcd_server_quota_backend_bytes -1.0" in metrics
        assert "serving_clients" not in daemon.log


def test_web_pages_may_not_read_what_probes_read(tmp_path: Path, probed: str) -> None:
    with start_netstored(tmp_path, f"--listen-metrics-urls={probed}") as daemon:
        for url, allowed in ((daemon.url, "*"), (probed, None)):
            place = urlsplit(url)
            connection = HTTPConnection(place.hostname or "", place.port, timeout=seconds(20))
            connection.request("GET", "/livez", headers={"Origin": "http://page.example"})
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, allowed)
            connection.close()


def test_probes_over_tls_ask_for_a_certificate(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "pki")
    url = f"https://127.0.0.1:{free_port()}"
    with start_netstored(
        tmp_path,
        f"--listen-metrics-urls={url}",
        f"--cert-file={certificates.certificate}",
        f"--key-file={certificates.key}",
        f"--trusted-ca-file={certificates.ca}",
    ) as daemon:
        assert get(url, "/readyz", certificates) == (200, "ok\n")
        assert get(daemon.url, "/readyz") == (200, "ok\n")
        with pytest.raises(OSError, match=r"(?i)certificate required|alert|closed|reset"):
            get(url, "/readyz", certificates, shown=None)


def test_started_under_etcds_name_it_names_etcds_version(tmp_path: Path) -> None:
    (tmp_path / "etcd").write_text("from netstore.cli.netstored import main\nraise SystemExit(main())\n")
    told = subprocess.run(
        [sys.executable, tmp_path / "etcd", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds(60),
        env=os.environ,
    )
    first, second = told.stdout.splitlines()
    assert first.startswith("etcd Version: 3.5.")
    assert second.startswith("netstored ")
