"""Three members of which two differ while the third, which could tell who is right, does not run."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from netstore.node.member import DIFFERING_FIX
from tests.support import control
from tests.support.cluster import PACE, Members, converged, exchange, get, request, write
from tests.support.patience import seconds, until
from tests.support.stopped import rewrite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

LINES = re.compile(r'"states_differ(?:_no_more)?"')


def lines(daemon: Daemon) -> list[str]:
    """What its log says of a difference, in order."""
    return [each.strip('"') for each in LINES.findall(daemon.log)]


def compared(daemon: Daemon) -> str:
    """The entry after which it found the states to differ last; empty while it knows of no difference."""
    problems = request(daemon, "GET", "/netstore/status").body["problems"]
    found = re.search(r"the states of members \S+, \S+ differ after entry (\d+)", " ".join(problems))
    return "" if found is None else found[1]


def differ_metric(daemon: Daemon) -> float:
    """The value of the metric."""
    shown = request(daemon, "GET", "/metrics").raw.decode()
    return next(
        float(line.split()[1]) for line in shown.splitlines() if line.startswith("netstore_states_differ ")
    )


def hand_over(members: Members) -> None:
    """Let the other one lead: states are compared after its first entry."""
    leader = members.leader()
    other = "b" if leader == "a" else "a"
    body = json.dumps({"to": members.id_of(other)})

    def leads() -> bool:
        exchange(members[leader], "POST", "/netstore/leader", body, {"Content-Type": "application/json"})
        return members.leader() == other

    until(leads, f"{other} leads")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_members_that_differ_without_a_majority_say_so_until_there_is_one(tmp_path: Path) -> None:
    with Members(tmp_path, flags=PACE) as members:
        write(members["a"], "truth", "true")
        converged(members, "truth", "true")
        for name in "bc":
            members[name].stop()
        rewrite(members["b"].data_dir / "state" / "state.lmdb", b"/truth", b"true", b"lies")
        members["b"].start_again()
        swapped = request(members["a"], "PUT", "/v2/keys/truth?prevValue=true&value=told")
        assert swapped.status == 200, "what b refuses"
        assert get(members["b"], "truth") == "lies"
        hand_over(members)
        seen: dict[str, set[str]] = {"a": set(), "b": set()}
        for name, indexes in seen.items():

            def again(name: str = name, indexes: set[str] = indexes) -> bool:
                indexes.add(compared(members[name]))
                return len(indexes - {""}) > 3

            until(again, f"{name} has compared often")
            assert lines(members[name]) == ["states_differ"], "each comparison after the first adds nothing"
            told(members[name])
        shown(members["b"])
        truth(members)


def told(daemon: Daemon) -> None:
    """The member says it where it is probed and scraped."""
    ready = request(daemon, "GET", "/readyz")
    assert ready.status == 503
    assert "[-]data_corruption failed: the states of members " in ready.raw.decode()
    assert DIFFERING_FIX in ready.raw.decode()
    assert request(daemon, "GET", "/livez").status == 200
    assert differ_metric(daemon) == 1


def shown(daemon: Daemon) -> None:
    """The commands show it, with the fix."""
    (endpoint,) = control.answer("status", url=daemon.url)["endpoints"]
    (problem,) = (each for each in endpoint["problems"] if " differ after entry " in each)
    assert problem.endswith(f" the voters agree on one: {DIFFERING_FIX}")
    findings = control.answer("doctor", url=daemon.url, status=1)["findings"]
    found = [each for each in findings if " differ after entry " in each["found"]]
    assert [(each["check"], each["state"], each["advice"]) for each in found] == [
        (f"store {daemon.url}", "wrong", DIFFERING_FIX)
    ]
    assert found[0]["found"].endswith(" the voters agree on one")


def truth(members: Members) -> None:
    """The third member agrees with a: b stops, and is replaced."""
    members["c"].spawn_again()
    assert members["b"].process.wait(seconds(30)) == 2
    assert (
        "is not that of the others: 2 of 3 voters agree on another one" in members["b"].log.splitlines()[-1]
    )
    until(lambda: request(members["a"], "GET", "/readyz").status == 200, "a is ready")
    assert lines(members["a"]) == ["states_differ", "states_differ_no_more"]
    assert '"more than half of the voters agree"' in members["a"].log
    assert lines(members["c"]) == [], "c has never known of a difference that nobody settles"
    assert differ_metric(members["a"]) == 0
    assert compared(members["a"]) == ""
    assert get(members["a"], "truth", "?quorum=true") == "told"
    assert request(members["a"], "DELETE", f"/v2/members/{members.id_of('b')}").status == 204
    members.wipe("b")
    members.join("b")
    converged(members, "truth", "told")
