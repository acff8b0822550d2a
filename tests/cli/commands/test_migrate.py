"""`netstorectl network migrate`, on a store in memory with nodes that do what the rules say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
import trio
from trio.testing import MockClock

from netstore.cli.commands import migrate
from netstore.cli.commands.failures import Failure
from netstore.client.faults import ClientError, Unreachable
from netstore.network.lease import encode_lease
from netstore.network.migration import (
    FOLDER,
    PLAN,
    Part,
    Phase,
    Told,
    claims,
    encode_part,
    encode_plan,
    parse_part,
    parse_plan,
)
from netstore.network.pluginreport import FOLDER as REPORTS
from netstore.network.pluginreport import Report, encode_report
from tests.agent.fake_store import PREFIX
from tests.agent.stores import APIS, fake, subnets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from netstore.cli.commands.invocation import Settings
    from netstore.network.migration import Plan
    from tests.cli.commands.conftest import Run
    from tests.cli.commands.conftest import Told as Ended

OLD: Final = '{"Network":"10.23.0.0/16","Backend":{"Type":"host-gw"}}'
NEW: Final = '{"Network":"10.23.0.0/16","Backend":{"Type":"vxlan"}}'
NODES: Final = tuple(f"192.168.77.{number}" for number in (11, 12, 13))


class Site:
    """A network in a store, and its nodes."""

    def __init__(self, api: str, run: Run) -> None:
        self.fake = fake(api)
        self.run = run
        self.dead: set[str] = set()
        self.problems: dict[str, str] = {}
        self.phases: list[Phase] = []
        """Those that nodes have seen."""
        self.fake.put(f"{PREFIX}/config", OLD)
        for number, node in enumerate(NODES):
            value = encode_lease(int.from_bytes(bytes(map(int, node.split(".")))), "host-gw")
            self.fake.put(f"{PREFIX}/subnets/10.23.{number + 1}.0-24", value)
            report = Report(f"node{number}", "1.0", "host-gw", migrates=True)
            self.fake.put(f"{PREFIX}/{REPORTS}/{node}", encode_report(report))

    @property
    def plan(self) -> Plan:
        return parse_plan(self.fake.files[f"{PREFIX}/{FOLDER}/{PLAN}"].value)

    @property
    def config(self) -> str:
        return self.fake.files[f"{PREFIX}/config"].value

    def ask(self, _: Settings, action: Callable[[migrate.Stores], Awaitable[Any]]) -> Any:
        """In the place of `migrate._ask`."""
        folders = ("subnets", FOLDER, REPORTS)
        stores = migrate.Stores(*(subnets(self.fake, folder) for folder in folders))

        async def conversation() -> Any:
            fault: BaseException
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.play)
                try:
                    return await migrate.in_words(action, stores)
                except (Failure, ClientError) as error:
                    fault = error
                finally:
                    nursery.cancel_scope.cancel()
            raise fault

        return trio.run(conversation, clock=MockClock(autojump_threshold=0))

    async def play(self) -> None:
        """The nodes that live do what the rules say."""
        while True:
            await trio.sleep(0.1)  # fixed: by the clock of the test
            if f"{PREFIX}/{FOLDER}/{PLAN}" in self.fake.files and not self.plan.phase.is_over:
                if self.plan.phase not in self.phases:
                    self.phases.append(self.plan.phase)
                for node in NODES:
                    if node not in self.dead:
                        self.tell(node)

    def tell(self, node: str) -> None:
        """What a node tells now."""
        plan, folder = self.plan, f"{PREFIX}/{FOLDER}/"
        told = {
            name.removeprefix(folder): Told(part, kept.created)
            for name, kept in self.fake.files.items()
            if name.startswith(folder)
            and not name.endswith(PLAN)
            and (part := parse_part(kept.value)).plan == plan.id
        }
        part = Part(plan.id, Phase.PREPARE, problem=self.problems.get(node, ""))
        if node in told and not part.problem:
            may = claims(plan, node, told)
            part = msgspec.structs.replace(part, phase=may.phase, receives=may.receives, sends=may.sends)
        if node not in told or told[node].part != part:
            action = "compareAndSwap" if node in told else "set"
            self.fake.put(folder + node, encode_part(part), action=action)


@pytest.fixture(params=APIS)
def site(request: pytest.FixtureRequest, run: Run, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(request.param, run)
    monkeypatch.setattr(migrate, "_ask", made.ask)
    return made


def migrated(site: Site, *words: str) -> Ended:
    return site.run("network", "migrate", *words)


def test_a_migration_goes_from_phase_to_phase(site: Site) -> None:
    ended = migrated(site, NEW, "--canary", f"node1,{NODES[2]}", "-o", "json")
    assert ended.status == 0, ended.err
    assert (site.plan.phase, site.config) == (Phase.DONE, NEW)
    assert site.phases == [Phase.PREPARE, Phase.RECEIVE, Phase.CANARY, Phase.SEND, Phase.FINISH]
    assert site.plan.canaries == NODES[1:]
    assert [each["role"] for each in ended.document["nodes"]] == [None, "canary", "canary"]
    assert "netstorectl: canary: the canaries send by the new config\n" in ended.err
    ended = migrated(site, NEW)
    assert (ended.status, "means the same" in ended.err) == (1, True)


def test_a_dry_run_changes_nothing(site: Site) -> None:
    ended = migrated(site, "--dry-run", NEW, "-o", "plain")
    assert (ended.status, len(ended.rows)) == (0, 3)
    assert f"{PREFIX}/{FOLDER}/{PLAN}" not in site.fake.files


def test_a_node_that_is_not_ready_stops_it_with_its_name_and_it_goes_on_later(site: Site) -> None:
    site.problems[NODES[1]] = "no VXLAN devices here"
    site.dead.add(NODES[2])
    ended = migrated(site, NEW, "--wait", "5")
    assert ended.status == 1
    assert (
        f"{NODES[1]}: no VXLAN devices here; {NODES[2]}: it holds a lease and has told nothing" in ended.err
    )
    assert "--without" in ended.err
    assert (site.plan.phase, site.config) == (Phase.PREPARE, OLD)
    other = '{"Network":"10.23.0.0/16","Backend":{"Type":"vxlan","VNI":2}}'
    assert "another migration is under way" in migrated(site, other).err
    site.problems.clear()
    ended = migrated(site, NEW, "--without", "node2")
    assert ended.status == 0, ended.err
    assert (site.plan.phase, site.plan.without, site.config) == (Phase.DONE, (NODES[2],), NEW)


def test_an_abort_leads_back(site: Site) -> None:
    site.dead.add(NODES[2])
    assert "no migration is under way" in migrated(site, "abort").err
    assert migrated(site, NEW, "--wait", "5").status == 1
    assert migrated(site, "abort", "--wait", "5").status == 0
    assert (site.plan.phase, site.config) == (Phase.ABORTED, OLD)
    site.dead.clear()
    assert migrated(site, NEW).status == 0


def test_what_is_written_already_is_not_aborted(site: Site) -> None:
    site.dead = {NODES[2]}
    migrated(site, NEW, "--wait", "5")
    plan = msgspec.structs.replace(site.plan, phase=Phase.FINISH)
    site.fake.put(f"{PREFIX}/{FOLDER}/{PLAN}", encode_plan(plan))
    assert "migrate back" in migrated(site, "abort").err


def test_a_config_that_somebody_changed_meanwhile_ends_it_in_words(site: Site) -> None:
    site.dead.add(NODES[2])
    migrated(site, NEW, "--wait", "5")
    site.dead.clear()
    site.fake.put(f"{PREFIX}/config", OLD.replace("10.23", "10.24"))
    ended = migrated(site, NEW)
    assert (ended.status, "somebody has changed the network config" in ended.err) == (1, True)
    assert migrated(site, "abort").status == 0


def test_a_store_without_a_leader_is_waited_for(site: Site) -> None:
    site.dead.add(NODES[2])
    migrated(site, NEW, "--wait", "5")
    site.dead.clear()
    looks = 0
    real = migrate._look

    async def failing(stores: migrate.Stores) -> migrate.Seen:
        nonlocal looks
        looks += 1
        if looks in (3, 4, 5, 8):
            raise Unreachable([("http://store", "no leader")], outcome_known=looks != 5)
        return await real(stores)

    migrate._look = failing
    try:
        assert migrated(site, NEW).status == 0
    finally:
        migrate._look = real
    assert looks > 8
    assert site.plan.phase is Phase.DONE


def test_nodes_that_do_not_follow_plans_are_named_before_it_begins(site: Site) -> None:
    site.fake.remove(f"{PREFIX}/{REPORTS}/{NODES[1]}")
    ended = migrated(site, NEW)
    assert (ended.status, f"{NODES[1]}: no report of a netstore-agent" in ended.err) == (1, True)
    assert f"{PREFIX}/{FOLDER}/{PLAN}" not in site.fake.files
    assert migrated(site, NEW, "--without", NODES[1]).status == 0


def timed(site: Site) -> None:
    """Give every lease an end."""
    for name in site.fake.files:
        if "/subnets/" in name:
            site.fake.time(name, 1e9)


def test_a_range_that_cannot_be_gone_to_is_refused(site: Site) -> None:
    other = OLD.replace("10.23", "10.24")
    assert "10.23.1.0-24, 10.23.2.0-24, 10.23.3.0-24: reserved" in migrated(site, other).err
    timed(site)
    for document, words in (
        (OLD.replace("10.23.0.0", "192.168.0.0"), "contains the node 192.168.77.11"),
        ('{"Network":"10.24.0.0/22","SubnetMax":"10.24.2.0","Backend":{"Type":"host-gw"}}', "2 are free"),
    ):
        ended = migrated(site, document)
        assert (ended.status, words in ended.err) == (1, True), ended.err
    assert migrated(site, "--dry-run", other).status == 0
    smaller = '{"Network":"10.23.0.0/22","SubnetLen":24,"SubnetMin":"10.23.1.0","Backend":{"Type":"host-gw"}}'
    assert migrated(site, "--dry-run", smaller).status == 0, "the nodes stay in their subnets"


def test_subnets_of_another_length_avoid_all_that_are_held(site: Site) -> None:
    timed(site)
    halves = OLD.replace('"Backend"', '"SubnetLen":25,"Backend"')
    assert migrated(site, "--dry-run", halves).status == 0
    full = OLD.replace('"Backend"', '"SubnetLen":18,"Backend"')
    ended = migrated(site, full.replace('"SubnetLen"', '"SubnetMax":"10.23.128.0","SubnetLen"'))
    assert (ended.status, "3 nodes need a subnet each" in ended.err) == (1, True), ended.err
    value = site.fake.files[f"{PREFIX}/subnets/10.23.2.0-24"].value
    site.fake.put(f"{PREFIX}/subnets/10.23.3.128-25", value)
    timed(site)
    ended = migrated(site, halves)
    words = "10.23.3.0/24 of 192.168.77.13 overlaps 10.23.3.128/25 of 192.168.77.12"
    assert (ended.status, words in ended.err) == (1, True), ended.err


def test_the_ipv4_range_of_a_dual_stack_network_changes_and_its_ipv6_range_does_not(site: Site) -> None:
    dual = OLD.replace('"Backend"', '"EnableIPv6":true,"IPv6Network":"fd23::/56","Backend"')
    site.fake.put(f"{PREFIX}/config", dual)
    for number in (1, 2, 3):
        kept = site.fake.files.pop(f"{PREFIX}/subnets/10.23.{number}.0-24")
        site.fake.put(f"{PREFIX}/subnets/10.23.{number}.0-24&fd23:0:0:{number:x}::-64", kept.value)
    timed(site)
    halves = dual.replace('"EnableIPv6"', '"SubnetLen":25,"EnableIPv6"')
    assert migrated(site, "--dry-run", halves).status == 0
    bounds = '"IPv6SubnetMin":"fd23:0:0:1::","IPv6SubnetMax":"fd23:0:0:4::","Backend"'
    site.fake.put(f"{PREFIX}/config", dual.replace('"Backend"', bounds))
    ended = migrated(site, "--dry-run", halves.replace('"Backend"', bounds))
    words = "IPv6Network: 3 nodes need a subnet each beside those that they hold, and 1 are free"
    assert (ended.status, words in ended.err) == (1, True), ended.err
    ended = migrated(site, halves)
    assert (ended.status, "a migration leaves its range as it is" in ended.err) == (1, True), ended.err


def test_a_lease_that_is_left_from_a_former_subnet_is_waited_for(site: Site) -> None:
    value = site.fake.files[f"{PREFIX}/subnets/10.23.2.0-24"].value
    site.fake.put(f"{PREFIX}/subnets/10.23.77.0-24", value)
    site.fake.time(f"{PREFIX}/subnets/10.23.77.0-24", 1e6)
    ended = migrated(site, NEW)
    held = f"{NODES[1]} holds 10.23.2.0/24 (until it is released) and 10.23.77.0/24 (until 20"
    assert (ended.status, held in ended.err) == (1, True), ended.err
    assert "if there are pods with addresses of another" in ended.err, "nobody knows whether there are any"
    assert f"{PREFIX}/{FOLDER}/{PLAN}" not in site.fake.files
    assert migrated(site, NEW, "--without", NODES[1], "--dry-run").status == 0
    site.fake.remove(f"{PREFIX}/subnets/10.23.77.0-24")
    assert migrated(site, NEW).status == 0


def test_going_on_takes_the_same_document_in_another_spelling_and_no_other_canaries(site: Site) -> None:
    site.dead.add(NODES[2])
    assert migrated(site, NEW, "--wait", "5", "--canary", "node0").status == 1
    site.dead.clear()
    spaced = NEW.replace(",", ", ") + "\n"
    ended = migrated(site, spaced, "--canary", "node1")
    assert (ended.status, f"--canary: chosen when the migration began ({NODES[0]})" in ended.err) == (1, True)
    ended = migrated(site, spaced, "--canary", "node0")
    assert ended.status == 0, ended.err
    assert (site.plan.phase, site.config, site.plan.canaries) == (Phase.DONE, NEW, NODES[:1])


def test_a_migration_that_somebody_else_aborts_is_a_failure(site: Site) -> None:
    real = site.tell

    def tell(node: str) -> None:
        plan = site.plan
        if plan.phase is Phase.RECEIVE:
            plan = msgspec.structs.replace(plan, phase=Phase.REVERT)
            site.fake.put(f"{PREFIX}/{FOLDER}/{PLAN}", encode_plan(plan), action="compareAndSwap")
        real(node)

    site.tell = tell  # type: ignore[method-assign]  # the abort comes between two nodes
    ended = migrated(site, NEW)
    assert (ended.status, "somebody else has ended the migration; it is aborted" in ended.err) == (1, True)
    assert (site.plan.phase, site.config) == (Phase.ABORTED, OLD)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([NEW, "--canary", "192.168.77.99"], 1, "--canary 192.168.77.99: no such node holds a lease"),
        ([NEW, "--canary", "node1", "--without", "node1"], 1, "it is left out"),
        ([OLD], 1, "nothing to migrate"),
        ([OLD.replace("host-gw", "alloc")], 1, "alloc cannot be in the kernel beside another"),
        (['{"Network":"10.23.0.0/16"'], 1, "not JSON"),
        (["/nowhere/network.json"], 1, "No such file"),
        ([NEW, "--wait", "-1"], 2, "not a number of seconds"),
    ],
)
def test_what_is_refused(site: Site, words: list[str], status: int, text: str) -> None:
    ended = migrated(site, *words)
    assert (ended.status, text in ended.err) == (status, True), ended.err
    assert f"{PREFIX}/{FOLDER}/{PLAN}" not in site.fake.files


def test_the_status_tells_what_each_node_has_told(site: Site) -> None:
    ended = migrated(site, "status", "-o", "json")
    assert (ended.status, ended.document) == (0, {"plan": None, "nodes": []})
    site.problems[NODES[0]] = "strict reverse path filter"
    migrated(site, NEW, "--wait", "5")
    ended = migrated(site, "status", "-o", "json")
    assert ended.document["plan"]["phase"] == "prepare"
    assert json.loads(ended.document["plan"]["new"])["Backend"] == {"Type": "vxlan"}
    first, second, _ = ended.document["nodes"]
    assert (first["node"], first["problem"], first["receives"]) == (
        "node0",
        "strict reverse path filter",
        False,
    )
    assert (second["problem"], second["receives"], second["sends"]) == (None, True, False)
