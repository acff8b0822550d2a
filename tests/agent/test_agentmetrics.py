"""The metrics of the agent."""

from __future__ import annotations

from netstore.agent.agentmetrics import Facts, render
from netstore.agent.readiness import Result


def samples(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_a_node_that_is_ready() -> None:
    facts = Facts(
        [Result("lease", None)], 2, "vxlan", "v3", lease_held=True, lease_ends_in=3599.5, leases=7, routes=6
    )
    told = samples(render(facts))
    assert told["netstore_agent_ready"] == "1"
    assert told["netstore_agent_lease_expires_in_seconds"] == "3599.5"
    assert (told["netstore_agent_leases"], told["netstore_agent_routes"]) == ("7", "6")
    assert told["netstore_agent_problems"] == "2"
    [info] = [name for name in told if name.startswith("netstore_agent_info{")]
    assert 'backend="vxlan",store_api="v3"' in info


def test_a_node_that_is_not_ready_and_has_no_lease() -> None:
    told = samples(render(Facts([Result("lease", "no subnet"), Result("start", None)], 0)))
    assert told["netstore_agent_ready"] == "0"
    assert told['netstore_agent_check_ok{check="lease"}'] == "0"
    assert told['netstore_agent_check_ok{check="start"}'] == "1"
    assert "netstore_agent_lease_expires_in_seconds" not in told
