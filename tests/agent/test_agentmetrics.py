"""The metrics of the agent."""

from __future__ import annotations

import subprocess

import pytest

from netstore.agent.agentmetrics import Facts, render
from netstore.agent.readiness import Result


def samples(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_a_node_that_is_ready() -> None:
    facts = Facts(
        [Result("lease", None)], 2, "vxlan", "v3", lease_held=True, lease_ends_in=3599.5, leases=7, routes=6
    )
    told = samples(render(facts))
    assert told["netstore_agent_ready"] == "1.0"
    assert told["netstore_agent_lease_expires_in_seconds"] == "3599.5"
    assert (told["netstore_agent_leases"], told["netstore_agent_routes"]) == ("7.0", "6.0")
    assert told["netstore_agent_problems"] == "2.0"
    [info] = [name for name in told if name.startswith("netstore_agent_info{")]
    assert 'backend="vxlan",store_api="v3",version=' in info


def test_a_node_that_is_not_ready_and_has_no_lease() -> None:
    told = samples(render(Facts([Result("lease", "no subnet"), Result("start", None)], 0)))
    assert told["netstore_agent_ready"] == "0.0"
    assert told['netstore_agent_check_ok{check="lease"}'] == "0.0"
    assert told['netstore_agent_check_ok{check="start"}'] == "1.0"
    assert "netstore_agent_lease_expires_in_seconds" not in told


@pytest.mark.peer("promtool")
def test_promtool_finds_nothing_wrong() -> None:
    facts = Facts(
        [Result("lease", None), Result("start", 'a "reason"\n')],
        2,
        "vxlan",
        "v3",
        lease_held=True,
        lease_ends_in=9.5,
    )
    done = subprocess.run(
        ("promtool", "check", "metrics"), input=render(facts), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_process_is_told_of_as_everywhere() -> None:
    told = samples(render(Facts([], 0)))
    assert float(told["process_resident_memory_bytes"]) > 1_000_000
    assert float(told["process_open_fds"]) >= 3
    assert float(told["process_start_time_seconds"]) > 1_000_000_000
    assert float(told["process_cpu_seconds_total"]) >= 0
