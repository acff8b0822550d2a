"""Debian's Prometheus collects from three members under load: what dashboards and alert rules ask has an
answer.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from netstore.agent.agentmetrics import Facts, render
from netstore.agent.readiness import Result
from netstore.exposition import CONTENT_TYPE
from tests.support.certificates import Certificates
from tests.support.cluster import Members
from tests.support.daemon import ROOT, free_port
from tests.support.patience import seconds, until
from tests.support.peers import etcdctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES: Final = ROOT / "contrib" / "prometheus"
WINDOW: Final = "30s"
"""Of rates: many scrapes of one second."""

ETCD: Final = 'job=~".*etcd.*"'
UNARY: Final = ',grpc_type="unary"'
FAILED: Final = 'grpc_code=~"Unknown|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded"'


def rate(metric: str, more: str = "") -> str:
    """The rate of a counter of etcd's jobs."""
    return f"rate({metric}{{{ETCD}{more}}}[{WINDOW}])"


def slowest(metric: str, more: str = "") -> str:
    """The 99th percentile of a histogram."""
    return f"histogram_quantile(0.99, sum by (instance, le) ({rate(f'{metric}_bucket', more)}))"


def open_streams(service: str) -> str:
    """Streams of a service that are open."""
    of = f'{{{ETCD},grpc_service="etcdserverpb.{service}",grpc_type="bidi_stream"}}'
    return f"sum(grpc_server_started_total{of}) - sum(grpc_server_handled_total{of})"


MIXIN: Final = (
    # What the dashboards and alerts for etcd that everybody uses ask: these metrics, with these labels.
    f"sum(etcd_server_has_leader{{{ETCD}}})",
    f"sum({rate('grpc_server_started_total', UNARY)})",
    f"sum({rate('grpc_server_handled_total', f'{UNARY},{FAILED}')})",
    open_streams("Watch"),
    open_streams("Lease"),
    f"etcd_mvcc_db_total_size_in_bytes{{{ETCD}}}",
    f"etcd_mvcc_db_total_size_in_use_in_bytes{{{ETCD}}} / etcd_mvcc_db_total_size_in_bytes{{{ETCD}}}",
    f"etcd_mvcc_db_total_size_in_bytes{{{ETCD}}} / etcd_server_quota_backend_bytes{{{ETCD}}}",
    f"predict_linear(etcd_mvcc_db_total_size_in_bytes{{{ETCD}}}[4h], 14400)",
    slowest("etcd_disk_wal_fsync_duration_seconds"),
    slowest("etcd_disk_backend_commit_duration_seconds"),
    slowest("etcd_network_peer_round_trip_time_seconds"),
    slowest("grpc_server_handling_seconds", ',grpc_type="unary",grpc_method!="Defragment"'),
    f"process_resident_memory_bytes{{{ETCD}}}",
    rate("etcd_network_client_grpc_received_bytes_total"),
    rate("etcd_network_client_grpc_sent_bytes_total"),
    f"sum by (instance) ({rate('etcd_network_peer_received_bytes_total')})",
    f"sum by (instance) ({rate('etcd_network_peer_sent_bytes_total')})",
    f"count without (To) (sum without (instance) ({rate('etcd_network_peer_sent_failures_total')}))",
    f"sum({rate('etcd_server_proposals_failed_total')})",
    f"sum(etcd_server_proposals_pending{{{ETCD}}})",
    f"sum({rate('etcd_server_proposals_committed_total')})",
    f"sum({rate('etcd_server_proposals_applied_total')})",
    f"changes(etcd_server_leader_changes_seen_total{{{ETCD}}}[1d])",
    f"max without (instance) (etcd_server_leader_changes_seen_total{{{ETCD}}})",
    f"sum without (instance) (up{{{ETCD}}} == bool 0)",
)


class _Agent(BaseHTTPRequestHandler):
    """The metrics of an agent, as it makes them."""

    def do_GET(self) -> None:
        facts = Facts(
            [Result("lease", None)], 0, "vxlan", "v3", lease_held=True, lease_ends_in=3600.0, routes=2
        )
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.end_headers()
        self.wfile.write(render(facts).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def agent() -> Iterator[str]:
    """The address of one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Agent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}", timeout=seconds(10)) as answer:  # noqa: S310 - http
            return json.load(answer)

    def ready(self) -> bool:
        try:
            self.get("/api/v1/status/buildinfo")
        except OSError:
            return False
        return True

    def query(self, expression: str) -> list[float]:
        """The values that a query gives now, without NaN: a quantile of nothing."""
        found = self.get(f"/api/v1/query?query={urllib.parse.quote(expression)}")
        values = (float(each["value"][1]) for each in found["data"]["result"])
        return [value for value in values if not math.isnan(value)]


@contextmanager
def prometheus(folder: Path, jobs: dict[str, list[str]]) -> Iterator[Prometheus]:
    """One that collects from these addresses every second, with our rules."""
    config = folder / "prometheus.yml"
    scrapes = [{"job_name": job, "static_configs": [{"targets": targets}]} for job, targets in jobs.items()]
    document = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "2s"},
        "rule_files": [str(FILES / "rules.yml")],
        "scrape_configs": scrapes,
    }
    config.write_text(json.dumps(document))  # which is YAML, too
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            (
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address={address}",
            ),
            stdout=log,
            stderr=log,
        )
    try:
        collecting = Prometheus(f"http://{address}")
        until(collecting.ready, "Prometheus answers")
        yield collecting
    finally:
        process.terminate()
        process.wait(seconds(20))


def rules() -> dict[str, str]:
    """The expression of each alert rule, as a comparison that always has a value."""
    found = {}
    text = (FILES / "rules.yml").read_text()
    for name, block in re.findall(r"- alert: (\w+)\n((?: {8}.*\n)+)", text):
        lines, *_ = re.split(r"\n {8}\w+:", block.partition("expr: ")[2])
        expression = " ".join(lines.removeprefix(">-").split())
        *_, last = re.finditer(r" (==|<=|>=|<|>) ", expression)
        found[name] = f"{expression[: last.end()]}bool {expression[last.end() :]}"
    return found


def panels() -> list[str]:
    """The queries of the dashboard, for all jobs and instances."""
    dashboard = json.loads((FILES / "dashboard.json").read_text())
    return [
        target["expr"]
        .replace("$__rate_interval", WINDOW)
        .replace("$job", "netstored")
        .replace("$instance", ".+")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


class Archiving(Members):
    """Members that archive their logs and make backups."""

    def own_flags(self, name: str) -> tuple[str, ...]:
        (folder := self.folder / f"archive-{name}").mkdir(mode=0o700)
        (backups := self.folder / "backups").mkdir(mode=0o700, exist_ok=True)
        return ("--archive-folder", str(folder), "--backup-folder", str(backups))


@pytest.mark.slow
@pytest.mark.peer("prometheus", "etcdctl")
@pytest.mark.timeout(300)
def test_every_query_of_dashboards_and_rules_has_an_answer(tmp_path: Path) -> None:
    with Archiving(tmp_path) as members, agent() as node, _load(members):
        targets = [daemon.url.removeprefix("http://") for daemon in members.daemons.values()]
        jobs = {"netstored": targets, "a-job-of-etcd": targets, "netstore-agent": [node]}
        with prometheus(tmp_path, jobs) as collecting:
            wanted = {
                **{query: query for query in (*MIXIN, *panels())},
                **{f"rule {name}": expression for name, expression in rules().items()},
            }
            left = dict(wanted)

            def all_answered() -> bool:
                for name, expression in list(left.items()):
                    if collecting.query(expression):
                        del left[name]
                return not left

            try:
                until(all_answered, "every query has data", 60.0)
            except AssertionError:
                raise AssertionError(f"without data: {sorted(left)}") from None
            told = collecting.get("/api/v1/rules")["data"]["groups"]
            health = {rule["name"]: rule["health"] for group in told for rule in group["rules"]}
            assert set(health) == set(rules())
            assert "err" not in health.values()


@contextmanager
def _load(members: Members) -> Iterator[None]:
    """Requests at all members until it ends: v3 and v2, a watch and a lease that is kept alive."""
    stopped = threading.Event()
    urls = [daemon.url for daemon in members.daemons.values()]
    watch = _spawn("watch", "--prefix", "/", at=urls[0])
    lease = _v3(urls[0], "lease", "grant", "60").split()[1]
    kept = _spawn("lease", "keep-alive", lease, at=urls[1])

    def ask() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            url = urls[number % len(urls)]
            with suppress(OSError, subprocess.SubprocessError):  # of a request the next one is no worse
                _v3(url, "put", f"/load/{number % 10}", str(number))
                _v3(url, "get", "/load/1")
                body = urllib.parse.urlencode({"value": number}).encode()
                request = urllib.request.Request(f"{url}/v2/keys/load", body, method="PUT")  # noqa: S310 - http
                with urllib.request.urlopen(request, timeout=seconds(10)):  # noqa: S310 - same
                    pass

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        stopped.set()
        asking.join(seconds(30))
        for process in (watch, kept):
            process.terminate()
            process.wait(seconds(10))


def _v3(url: str, *words: str) -> str:
    return etcdctl(url, *words, environment={"ETCDCTL_API": "3"}).stdout


def _spawn(*words: str, at: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ("etcdctl", "--endpoints", at, *words),
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.peer("promtool")
def test_the_rules_are_valid_and_fire_when_they_should() -> None:
    for words in (("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run(("promtool", *words), cwd=FILES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (FILES / "rules_test.yml").read_text()
    assert [name for name in rules() if name not in tested] == [], "a rule that no test makes fire"


def with_tls() -> str:
    """The shipped configuration with the job that is commented out."""
    return re.sub(r"^  #(?=-|  )", "  ", (FILES / "prometheus.yml").read_text(), flags=re.MULTILINE)


@pytest.mark.peer("promtool")
@pytest.mark.parametrize("is_shipped", [True, False], ids=["as shipped", "with TLS"])
def test_the_configuration_is_valid(tmp_path: Path, *, is_shipped: bool) -> None:
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    if not is_shipped:
        (tmp_path / "prometheus.yml").write_text(with_tls())
        _make_certificates(tmp_path)
    done = subprocess.run(
        ("promtool", "check", "config", "prometheus.yml"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _make_certificates(folder: Path) -> None:
    certificates = Certificates(folder / "pki")
    (folder / "tls").mkdir()
    for name, path in (
        ("ca.crt", certificates.ca),
        ("prometheus.crt", certificates.client_certificate),
        ("prometheus.key", certificates.client_key),
    ):
        shutil.copy(path, folder / "tls" / name)


def test_each_job_has_the_label_that_the_rules_ask_for() -> None:
    config = yaml.safe_load(with_tls())
    ways, labels = set(), set()
    for job in config["scrape_configs"]:
        ways.add((job.get("scheme", "http"), tuple(job.get("tls_config", ()))))
        labels |= {each.get("labels", {}).get("job", job["job_name"]) for each in job["static_configs"]}
    assert ("https", ("ca_file", "cert_file", "key_file")) in ways
    asked = set(re.findall(r'job="([^"]*)"', (FILES / "rules.yml").read_text()))
    assert labels == asked == {"netstored", "netstore-agent"}
