"""`netstorectl subnet move` and `drain`: what a node's agent does meanwhile decides."""

from __future__ import annotations

import json
import os
import signal
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import trio

from netstore.client.subnets_v3 import V3Subnets
from netstore.network.pluginreport import Report, encode_report
from netstore.proto import rpc_pb2 as pb
from tests.support.patience import seconds
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.client.subnetstore import Entry
    from tests.cli.commands.conftest import Keys, Run

GOOD = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
NODE, OTHER = "192.168.77.11", "192.168.77.12"
OLD, NEW = "172.30.5.0/24", "172.30.9.0/24"
LONG = ("--wait", "60")


def lease(ip: str) -> str:
    return json.dumps({"PublicIP": ip, "BackendType": "host-gw"})


class Site:
    """A network in a store in which one node holds a subnet."""

    def __init__(self, ctl: Run, store: str, prefix: str, keys: Keys) -> None:
        self.ctl, self.store, self.keys = ctl, store, keys
        self.folder = f"{prefix}/subnets"
        ctl("network", "set", GOOD)
        keys.put(self.key(OLD), lease(NODE), 1000)

    def key(self, subnet: str) -> str:
        return f"{self.folder}/{subnet.replace('/', '-')}"

    def node(self, subnet: str) -> dict[str, Any] | None:
        return self.keys.node(self.key(subnet))

    def write(self, subnet: str, value: str) -> None:
        """Write a record while the command runs, as an agent does."""
        if self.keys.api == "v3":
            client = V3Client(self.store)
            client.kv.Put(pb.PutRequest(key=self.key(subnet).encode(), value=value.encode()))
            client.close()
            return
        form = urllib.parse.urlencode({"value": value}).encode()
        url = f"{self.store}/v2/keys{self.key(subnet)}"
        request = urllib.request.Request(url, data=form, method="PUT")  # noqa: S310 - of the store of the test
        with urllib.request.urlopen(request, timeout=seconds(20)):  # noqa: S310 - same
            pass


@pytest.fixture
def site(ctl: Run, store: str, prefix: str, keys: Keys) -> Site:
    return Site(ctl, store, prefix, keys)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Sets what happens when the command waits for the first time."""
    sleep = trio.sleep

    def plan(action: Callable[[], object]) -> None:
        waiting = [action]

        async def acting(delay: float) -> None:
            if waiting:
                waiting.pop()()
            await sleep(min(delay, 0.05))  # fixed: how often it looks

        monkeypatch.setattr(trio, "sleep", acting)

    return plan


@pytest.mark.parametrize("holder", [NODE, OLD])
def test_a_move_that_the_agent_carries_out(
    site: Site, meanwhile: Callable[[Callable[[], object]], None], holder: str
) -> None:
    meanwhile(lambda: site.write(NEW, lease(NODE)))
    told = site.ctl("subnet", "move", *LONG, holder, NEW, "-o", "json")
    assert (told.status, told.document["action"]) == (0, "moved")
    assert [each["subnet"] for each in told.document["subnets"]] == [OLD, NEW]
    assert f"{OLD} stays until it ends" in told.err
    assert site.node(OLD) is not None, "pods there keep their routes"


def test_the_former_lease_is_released_on_request(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    meanwhile(lambda: site.write(NEW, lease(NODE)))
    told = site.ctl("subnet", "move", *LONG, "--release", NODE, NEW)
    assert (told.status, [row[0] for row in told.rows]) == (0, [NEW])
    assert site.node(OLD) is None


@pytest.mark.parametrize("ttl", [0, 1000])
def test_a_move_that_no_agent_carries_out_is_undone(site: Site, ttl: int) -> None:
    site.keys.put(site.key(OLD), lease(NODE), ttl)
    told = site.ctl("subnet", "move", "--wait", "0.3", NODE, NEW)
    assert told.status == 1
    assert f"the daemon of {NODE} has not taken {NEW} within 0.3 s" in told.err
    assert site.node(NEW) is None
    old = site.node(OLD)
    assert old is not None
    assert ("ttl" in old) is bool(ttl)


@pytest.mark.parametrize("ttl", [0, 1000])
def test_an_interrupted_move_is_undone(
    site: Site, meanwhile: Callable[[Callable[[], object]], None], ttl: int
) -> None:
    site.keys.put(site.key(OLD), lease(NODE), ttl)

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    meanwhile(interrupt)
    told = site.ctl("subnet", "move", *LONG, NODE, NEW)
    assert told.status == 130
    assert "interrupted; all is as before" in told.err
    assert site.node(NEW) is None
    old = site.node(OLD)
    assert old is not None
    assert ("ttl" in old) is bool(ttl)


def test_without_waiting_the_reservation_stays(site: Site) -> None:
    told = site.ctl("subnet", "move", "--wait", "0", NODE, NEW, "-o", "json")
    assert (told.status, told.document["action"]) == (0, "reserved")
    new = site.node(NEW)
    assert new is not None
    assert "BackendType" not in new["value"]
    assert "ttl" not in new


def test_a_reservation_is_left_for_another(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    site.keys.put(site.key(OLD), lease(NODE))
    meanwhile(lambda: site.write(NEW, lease(NODE)))
    assert site.ctl("subnet", "move", *LONG, NODE, NEW).status == 0
    old = site.node(OLD)
    assert old is not None
    assert "ttl" in old, "an agent leaves no reservation, so it is one no more"


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ((NODE, OLD), 1, "holds 172.30.5.0/24 already"),
        ((NODE, "172.31.9.0/24"), 1, "not in the network"),
        ((NODE, "172.30.7.0/24"), 1, "is held by 192.168.77.12"),
        ((NODE, "172.30.9.7/24"), 2, "host bits"),
        (("192.168.77.99", NEW), 3, "is not there"),
        (("172.30.99.0/24", NEW), 3, "is not there"),
        (("--wait", "-1", NODE, NEW), 2, "is not a number of seconds"),
    ],
)
def test_what_cannot_be_moved(site: Site, words: tuple[str, ...], status: int, named: str) -> None:
    site.keys.put(site.key("172.30.7.0/24"), lease(OTHER), 1000)
    told = site.ctl("subnet", "move", *words)
    assert (told.status, told.out) == (status, "")
    assert named in told.err
    assert site.node(NEW) is None


def test_of_two_subnets_of_a_node_one_has_to_be_named(site: Site) -> None:
    site.keys.put(site.key("172.30.7.0/24"), lease(NODE), 1000)
    told = site.ctl("subnet", "move", NODE, NEW)
    assert told.status == 1
    assert "name the subnet that is to be left, or release one" in told.err


def test_only_what_shows_times_asks_for_them(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In v3 it takes a call for each lease."""
    asked: list[int] = []
    timed = V3Subnets.timed

    async def counting(store: V3Subnets, entries: Sequence[Entry]) -> list[Entry]:
        asked.append(len(entries))
        return await timed(store, entries)

    monkeypatch.setattr(V3Subnets, "timed", counting)
    site.keys.put(site.key("172.30.7.0/24"), lease(OTHER), 1000)
    for words, most in (
        (("map",), 0),
        (("history", NODE), 0),
        (("move", "--wait", "0", OTHER, NEW), 0),
        (("drain", "--yes", "--wait", "0", OTHER), 0),
        (("show", OLD), 1),
    ):
        asked.clear()
        assert site.ctl("subnet", *words).status == 0
        assert max(asked, default=0) == (most if site.keys.api == "v3" else 0), words
    assert int(site.ctl("subnet", "ls").rows[0][3]) > 900


# drain


def test_a_node_that_is_gone_is_drained(site: Site) -> None:
    site.keys.put(site.key(NEW), lease(NODE))
    site.keys.put(site.key("172.30.7.0/24"), lease(OTHER), 1000)
    told = site.ctl("subnet", "drain", "--yes", "--wait", "0.3", NODE, "-o", "json")
    assert (told.status, told.document["action"]) == (0, "drained")
    assert [each["subnet"] for each in told.document["subnets"]] == [OLD, NEW]
    assert [site.node(each) for each in (OLD, NEW)] == [None, None]
    assert site.node("172.30.7.0/24") is not None
    key = f"{site.folder.removesuffix('subnets')}drained/{NODE}"
    assert site.keys.node(key) is not None
    told = site.ctl("subnet", "undrain", NODE)
    assert (told.status, told.rows) == (0, [[NODE, "undrained"]])
    again = site.ctl("subnet", "undrain", NODE)
    assert (again.status, "the node is not drained" in again.err) == (3, True)
    assert site.ctl("subnet", "undrain", "node7").status == 3
    assert site.ctl("subnet", "undrain", "192.168.77").status == 2


def test_a_node_is_drained_by_its_name_under_which_it_may_have_another_address(site: Site) -> None:
    named = json.dumps({"PublicIP": NODE, "BackendType": "host-gw", "NodeName": "node7"})
    site.keys.put(site.key(OLD), named, 1000)
    site.keys.put(site.key("172.30.7.0/24"), lease(OTHER), 1000)
    assert "node7 holds 172.30.5.0/24" in site.ctl("subnet", "drain", "node7").err
    told = site.ctl("subnet", "drain", "--yes", "--wait", "0.3", "node7", "-o", "json")
    assert [each["subnet"] for each in told.document["subnets"]] == [OLD]
    folder = site.folder.removesuffix("subnets") + "drained"
    for name in ("node7", NODE):
        assert site.keys.node(f"{folder}/{name}") is not None, name
    assert site.keys.node(f"{folder}/{OTHER}") is None
    told = site.ctl("subnet", "undrain", NODE)
    assert (told.status, told.rows) == (0, [[NODE, "undrained"]])
    for name in ("node7", NODE):
        assert site.keys.node(f"{folder}/{name}") is None, name


def test_a_node_is_drained_by_the_host_name_that_its_agent_reports(site: Site) -> None:
    plugins = site.folder.removesuffix("subnets") + "plugins"
    for ip, name in ((NODE, "node7"), (OTHER, "node8"), ("192.168.77.13", "node8")):
        site.keys.put(f"{plugins}/{ip}", encode_report(Report(name, "1.0")))
    site.keys.put(f"{plugins}/192.168.77.14", "no report")
    assert site.ctl("subnet", "drain", "--yes", "--wait", "0", "node7").status == 0
    assert site.node(OLD) is None
    assert site.ctl("subnet", "undrain", "node7").status == 0
    several = site.ctl("subnet", "drain", "--yes", "node8")
    assert (several.status, "2 nodes have this name" in several.err) == (1, True)
    unknown = site.ctl("subnet", "drain", "--yes", "node9")
    assert (unknown.status, "no lease and no agent has this name" in unknown.err) == (3, True)


def named(ip: str, name: str) -> str:
    return json.dumps({"PublicIP": ip, "BackendType": "host-gw", "NodeName": name})


def marks(site: Site) -> set[str]:
    """Which of the names in these tests are drained."""
    folder = site.folder.removesuffix("subnets") + "drained"
    names = (NODE, OTHER, "node7", "node8", "host7")
    return {name for name in names if site.keys.node(f"{folder}/{name}") is not None}


@pytest.mark.parametrize(
    ("name", "gone", "marked"),
    [("node7", {OLD, NEW}, {"node7", OTHER}), ("node8", {"172.30.7.0/24"}, {"node8"})],
)
def test_a_former_lease_with_an_address_that_another_node_has_now_is_its_own_by_name(
    site: Site, name: str, gone: set[str], marked: set[str]
) -> None:
    for subnet, value in ((OLD, named(NODE, "node7")), (NEW, named(OTHER, "node7"))):
        site.keys.put(site.key(subnet), value, 1000)
    site.keys.put(site.key("172.30.7.0/24"), named(NODE, "node8"), 1000)
    several = site.ctl("subnet", "drain", "--yes", NODE)
    assert (several.status, "the nodes node7 and node8 have leases with it" in several.err) == (1, True)
    assert site.ctl("subnet", "drain", "--yes", "--wait", "0", name).status == 0
    assert {each for each in (OLD, NEW, "172.30.7.0/24") if site.node(each) is None} == gone
    assert marks(site) == marked, "no mark keeps the other node away"


def test_a_node_that_is_drained_by_host_name_stays_away_by_its_name_in_its_leases(site: Site) -> None:
    site.keys.put(
        f"{site.folder.removesuffix('subnets')}plugins/{NODE}", encode_report(Report("host7", "1.0"))
    )
    site.keys.put(site.key(OLD), named(NODE, "node7"), 1000)
    site.keys.put(site.key(NEW), named(OTHER, "node7"), 1000)
    assert site.ctl("subnet", "drain", "--yes", "--wait", "0", "host7").status == 0
    assert [site.node(each) for each in (OLD, NEW)] == [None, None]
    assert marks(site) == {NODE, OTHER, "host7", "node7"}
    assert site.ctl("subnet", "undrain", "host7").status == 0
    assert marks(site) == set()


@pytest.mark.parametrize("by", [NODE, OTHER, "node7"])
def test_an_undrain_undoes_all_drains_of_the_node(site: Site, by: str) -> None:
    for subnet, value in ((OLD, lease(NODE)), (OLD, named(NODE, "node7")), (NEW, named(OTHER, "node7"))):
        site.keys.put(site.key(subnet), value, 1000)
        word = "node7" if subnet == NEW else NODE
        assert site.ctl("subnet", "drain", "--yes", "--wait", "0", word).status == 0
    assert marks(site) == {NODE, OTHER, "node7"}
    assert site.ctl("subnet", "undrain", by).status == 0
    assert marks(site) == set()


def test_a_node_that_is_named_moves(site: Site) -> None:
    site.keys.put(site.key(OLD), json.dumps({"PublicIP": NODE, "NodeName": "node7"}), 1000)
    assert site.ctl("subnet", "move", "--wait", "0", "node7", NEW).status == 0
    assert site.node(NEW) is not None


def test_a_node_that_comes_back_is_told(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    meanwhile(lambda: site.write(OLD, lease(NODE)))
    told = site.ctl("subnet", "drain", "--yes", "--wait", "60", NODE)
    assert told.status == 1
    assert f"{NODE} has taken {OLD} again: its daemon is no netstore-agent" in told.err


def test_a_drain_wants_to_be_told_twice(site: Site) -> None:
    told = site.ctl("subnet", "drain", NODE)
    assert told.status == 1
    assert "give --yes if that is meant" in told.err
    assert site.node(OLD) is not None
    assert site.ctl("subnet", "drain", "--yes", OTHER).status == 3
    assert site.ctl("subnet", "drain", "--yes", "node7").status == 3
    assert site.ctl("subnet", "drain", "--yes", "192.168.77.999").status == 2
