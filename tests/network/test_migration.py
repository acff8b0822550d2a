"""The rules of a migration: every order of looks, writes, deaths and restarts, in a small simulation.

In it a store keeps the plan and the nodes' parts, in the order of its index. Each node sees its changes one
after the other, as late as it likes, does what the rules say to its kernel, and tells what it did. A kernel
stays as it is while its agent is dead. The command looks, and writes later what followed from that; it dies
as well. After each step, whatever every living kernel sends must be received where it goes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgspec
import pytest

from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_cidr
from netstore.network.config import parse_network
from netstore.network.lease import SubnetLease
from netstore.network.migration import (
    PLAN,
    Advance,
    Change,
    Claims,
    Over,
    Part,
    Phase,
    Plan,
    Step,
    Told,
    Waiting,
    WriteConfig,
    change_of,
    claims,
    encode_part,
    encode_plan,
    left_behind,
    next_step,
    overlapping,
    parse_part,
    parse_plan,
    reaches_new,
    unable,
)

OLD: Final = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}'
NEW: Final = '{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}'


def plan(phase: Phase = Phase.PREPARE, **more: Any) -> Plan:
    return Plan("one", phase, Change.BACKEND, OLD, NEW, **more)


read_plan = lru_cache(maxsize=None)(parse_plan)
read_part = lru_cache(maxsize=None)(parse_part)


@dataclass
class Written:
    value: str
    created: int
    modified: int


@dataclass
class Store:
    """Entries, and the changes that led to them: index, name, what is there now."""

    entries: dict[str, Written] = field(default_factory=dict)
    changes: list[tuple[int, str, Written]] = field(default_factory=list)
    config: str = OLD
    finish_at: int | None = None
    """The index at which the plan came into `finish`."""
    leases: set[str] = field(default_factory=set)

    @property
    def index(self) -> int:
        return len(self.changes)

    def write(self, name: str, value: str, modified: int) -> bool:
        """Write what was last changed at `modified`; 0: it must not exist."""
        there = self.entries.get(name)
        if (0 if there is None else there.modified) != modified:
            return False
        index = self.index + 1
        if name == PLAN and read_plan(value).phase is Phase.FINISH:
            self.finish_at = index
        written = Written(value, index if there is None else there.created, index)
        self.entries[name] = written
        self.changes.append((index, name, written))
        return True


@dataclass
class Kernel:
    """What one node's kernel receives and sends. `new_from` has the indexes at which the parts were created
    of those whose packets by the new config are accepted; None: everybody's.
    """

    old: bool = True
    new: bool = False
    new_from: set[int] | None = field(default_factory=set)
    by_new: dict[str, int] = field(default_factory=dict)
    """The peers to which it sends by the new config, with the index of the own part."""
    all_new: bool = False


@dataclass
class Node:
    """One agent and its kernel."""

    name: str
    store: Store
    alive: bool = True
    has_pods: bool = True
    """Its kernel was set up since it booted."""
    at: int = 0
    view: dict[str, Written] = field(default_factory=dict)
    base: str = "old"
    kernel: Kernel = field(default_factory=Kernel)
    done: tuple[Plan, Claims] | None = None
    """What may be told of what was done last."""

    def start(self) -> None:
        """Read everything, as an agent that starts."""
        self.alive, self.done = True, None
        self.view, self.at = dict(self.store.entries), self.store.index
        is_active = (plan := self.plan) is not None and not plan.phase.is_over
        self.base = "old" if is_active or self.store.config == OLD else "new"

    @property
    def plan(self) -> Plan | None:
        found = self.view.get(PLAN)
        return None if found is None else read_plan(found.value)

    @property
    def told(self) -> dict[str, Told]:
        return {
            name: Told(read_part(each.value), each.created)
            for name, each in self.view.items()
            if name != PLAN
        }

    def see(self) -> None:
        if self.at < self.store.index:
            index, name, written = self.store.changes[self.at]
            self.view[name], self.at = written, index

    def act(self) -> None:
        """Make the kernel as the rules say."""
        plan, told = self.plan, self.told
        if plan is None:
            return
        if not plan.phase.is_over and not self.has_pods and self.name not in told:
            return  # an agent that starts waits until it sees its own part
        self.has_pods = True
        if plan.phase is Phase.DONE:
            self.base = "new"
        if plan.phase.is_over:
            is_new = self.base == "new"
            self.kernel = Kernel(
                old=not is_new, new=is_new, new_from=None if is_new else set(), all_new=is_new
            )
            self.done = None
            return
        created = told[self.name].created if self.name in told else 0
        peers = (set(told) | self.store.leases) - {self.name}
        self.kernel = Kernel(
            new=True,
            new_from={each.created for each in told.values()},
            by_new={peer: created for peer in peers if reaches_new(plan, self.name, peer, told)},
            all_new=plan.phase is Phase.FINISH,
        )
        if created:
            self.done = plan, claims(plan, self.name, told)

    def tell(self) -> None:
        plan = self.plan
        if plan is None or plan.phase.is_over:
            return
        there = self.view.get(self.name)
        if there is None:
            self.store.write(self.name, encode_part(Part(plan.id, Phase.PREPARE)), 0)
        elif self.done is not None:
            of, claimed = self.done
            part = Part(of.id, claimed.phase, receives=claimed.receives, sends=claimed.sends)
            if part != read_part(there.value):
                self.store.write(self.name, encode_part(part), there.modified)


class Command:
    """Whoever moves the plan on."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pending: tuple[Plan, int, Step] | None = None

    def look(self) -> None:
        entries = self.store.entries
        plan = read_plan(entries[PLAN].value)
        told = {
            name: Told(read_part(each.value), each.created) for name, each in entries.items() if name != PLAN
        }
        self.pending = (
            plan,
            entries[PLAN].modified,
            next_step(plan, told, set(self.store.leases), self.store.config),
        )

    def write(self) -> None:
        if self.pending is None:
            return
        (plan, modified, step), self.pending = self.pending, None
        if isinstance(step, WriteConfig):
            self.store.config = NEW
        if isinstance(step, Advance):
            after = msgspec.structs.replace(plan, phase=step.phase)
            self.store.write(PLAN, encode_plan(after), modified)

    def change(self, **more: Any) -> None:
        """Change the plan at once, as the operator's choice."""
        there = self.store.entries[PLAN]
        after = msgspec.structs.replace(read_plan(there.value), **more)
        self.store.write(PLAN, encode_plan(after), there.modified)


class Site:
    """Some nodes, one store, one command, and chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - chance that can be repeated
        self.store = Store()
        self.nodes = {name: Node(name, self.store) for name in "abcd"[: self.random.randint(2, 4)]}
        self.store.leases = set(self.nodes)
        self.command = Command(self.store)
        canaries = tuple(name for name in self.nodes if self.random.random() < 0.3)
        self.store.write(PLAN, encode_plan(plan(canaries=canaries)), 0)

    @property
    def plan(self) -> Plan:
        return read_plan(self.store.entries[PLAN].value)

    def check(self) -> None:
        out = self.plan.without
        up = [node for node in self.nodes.values() if node.has_pods and node.name not in out]
        for sender in up:
            for receiver in up:
                if sender is receiver:
                    continue
                created = sender.kernel.by_new.get(receiver.name)
                if created is None and not sender.kernel.all_new:
                    assert receiver.kernel.old, f"{sender.name} sends old, {receiver.name} receives new only"
                    continue
                assert receiver.kernel.new, f"{sender.name} sends new, {receiver.name} receives old only"
                accepted, finish = receiver.kernel.new_from, self.store.finish_at
                if created is not None and finish is not None and created > finish:
                    continue  # it came into the new network, whose nodes get to know it as at any time
                assert accepted is None or created is None or created in accepted, (
                    f"{receiver.name} does not know {sender.name}"
                )

    def step(self) -> None:
        """Something happens."""
        chance = self.random.random()
        node = self.random.choice(list(self.nodes.values()))
        if chance < 0.80:
            if node.alive:
                self.random.choice((node.see, node.see, node.see, node.act, node.act, node.tell))()
        elif chance < 0.94:
            self.random.choice((self.command.look, self.command.look, self.command.write))()
        elif chance < 0.945:
            self.command = Command(self.store)
        elif chance < 0.96:
            node.alive = False
        elif chance < 0.99:
            node.start()
        elif chance < 0.992:  # the machine of this node starts anew
            node.kernel, node.has_pods = Kernel(), False
            node.start()
        elif chance < 0.995 and len(self.nodes) < 6:
            self.join(f"new{len(self.nodes)}")
        elif chance < 0.996 and not node.alive:
            self.command.change(without=(*self.plan.without, node.name))
        elif chance > 0.999 and self.plan.phase.can_revert:
            self.command.change(phase=Phase.REVERT)

    def join(self, name: str) -> None:
        node = Node(name, self.store, has_pods=False)
        node.start()
        if self.plan.phase.is_over:
            node.has_pods = True
            node.act()
        self.nodes[name] = node
        self.store.leases.add(name)

    def settle(self) -> None:
        """Everybody lives, and goes on."""
        for node in self.nodes.values():
            node.start()
        for _ in range(60):
            self.command.look()
            self.command.write()
            for node in self.nodes.values():
                while node.at < self.store.index:
                    node.see()
                node.act()
                self.check()
                node.tell()
                self.check()
            if self.plan.phase.is_over and all(node.at == self.store.index for node in self.nodes.values()):
                return


def played(seed: int, steps: int = 700) -> Site:
    site = Site(seed)
    for _ in range(steps):
        site.step()
        site.check()
    return site


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_whatever_happens_every_path_is_received(first: int) -> None:
    ends = set()
    for seed in range(first, first + 20):
        site = played(seed)
        site.settle()
        ends.add(site.plan.phase)
        assert site.plan.phase.is_over
        is_new = site.plan.phase is Phase.DONE
        assert site.store.config == (NEW if is_new else OLD)
        for node in site.nodes.values():
            if node.name not in site.plan.without:
                assert (node.kernel.old, node.kernel.new) == (not is_new, is_new), node
    assert ends == {Phase.DONE, Phase.ABORTED}


def told(created: int = 1, **more: Any) -> Told:
    return Told(Part("one", more.pop("phase", Phase.PREPARE), **more), created)


def test_a_plan_goes_from_phase_to_phase() -> None:
    both = {"a": told(3), "b": told(4)}
    assert next_step(plan(), both, ["a", "b"], OLD) == Advance(Phase.RECEIVE)
    receiving = {"a": told(3, receives=4), "b": told(4, receives=5)}
    assert next_step(plan(Phase.RECEIVE), receiving, ["a"], OLD) == Advance(Phase.SEND)
    assert next_step(plan(Phase.RECEIVE, canaries=("a",)), receiving, ["a"], OLD) == Advance(Phase.CANARY)
    one = receiving | {"a": told(3, receives=6, sends=6)}
    assert next_step(plan(Phase.CANARY, canaries=("a",)), one, ["a"], OLD) == Advance(Phase.SEND)
    assert isinstance(next_step(plan(Phase.SEND), one, ["a"], OLD), Waiting)
    sending = {"a": told(3, receives=6, sends=6), "b": told(4, receives=6, sends=6)}
    assert next_step(plan(Phase.SEND), sending, ["a"], OLD) == Advance(Phase.FINISH)
    assert next_step(plan(Phase.FINISH), sending, ["a"], OLD) == WriteConfig()
    assert isinstance(next_step(plan(Phase.FINISH), sending, ["a"], NEW), Waiting)
    finished = {name: told(3, phase=Phase.FINISH) for name in "ab"}
    assert next_step(plan(Phase.FINISH), finished, ["a"], NEW) == Advance(Phase.DONE)
    assert next_step(plan(Phase.DONE), finished, ["a"], OLD) == Over()
    reverted = {name: told(3, phase=Phase.REVERT) for name in "ab"}
    assert next_step(plan(Phase.REVERT), reverted, ["a", "c"], OLD) == Advance(Phase.ABORTED)


def test_who_is_waited_for_is_named_with_the_reason() -> None:
    parts = {"a": told(3), "b": told(4, problem="rp_filter is 1"), "c": told(2)}
    step = next_step(plan(Phase.RECEIVE, without=("c",)), parts, ["a", "b", "c", "d"], OLD)
    assert isinstance(step, Waiting)
    assert list(step.nodes) == ["a", "b", "d"]
    assert "receives" in step.nodes["a"]
    assert step.nodes["b"] == "rp_filter is 1"
    assert "lease" in step.nodes["d"]


def test_a_node_that_came_later_is_waited_for_by_all() -> None:
    parts = {"a": told(3, receives=6, sends=6), "b": told(7, receives=8, sends=8)}
    step = next_step(plan(Phase.SEND), parts, ["a", "b"], OLD)
    assert isinstance(step, Waiting)
    assert list(step.nodes) == ["a"]


def test_documents_are_read_as_they_were_written() -> None:
    one = plan(Phase.CANARY, canaries=("192.0.2.1",), without=("192.0.2.2",))
    assert parse_plan(encode_plan(one)) == one
    part = Part("one", Phase.SEND, '{"VNI":1}', receives=4, problem="x" * 600)
    back = parse_part(encode_part(part))
    assert (back.backend_data, back.receives, len(back.problem)) == ('{"VNI":1}', 4, 500)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"id":1}', "x" * 200_000, "[" * 100_000])
def test_what_is_no_document_is_told_in_words(text: str | None) -> None:
    for parse in (parse_plan, parse_part):
        with pytest.raises(NetstoreError, match=r"not a plan|not one that|not the part"):
            parse(text)


def test_a_plan_is_bounded() -> None:
    many = tuple(f"192.0.2.{number}" for number in range(2000))
    with pytest.raises(NetstoreError, match="--canary: 2000 nodes"):
        encode_plan(plan(canaries=many))
    with pytest.raises(NetstoreError, match="bytes"):
        encode_plan(msgspec.structs.replace(plan(), new="x" * 200_000))
    with pytest.raises(NetstoreError, match="more than"):
        parse_plan(msgspec.json.encode(plan(without=many)).decode())


def network(backend: str, rest: str = '"Network":"10.1.0.0/16"') -> Any:
    return parse_network(f'{{{rest},"Backend":{backend}}}'.encode())


def test_what_a_migration_changes() -> None:
    gateway, vxlan = network('{"Type":"host-gw"}'), network('{"Type":"vxlan"}')
    assert change_of(gateway, vxlan) is Change.BACKEND
    assert change_of(vxlan, network('{"Type":"vxlan","MTU":1400}')) is Change.BACKEND
    assert change_of(vxlan, network('{"Type":"vxlan","VNI":2,"Port":4789}')) is Change.BACKEND
    other = network('{"Type":"host-gw"}', '"Network":"10.2.0.0/16"')
    assert change_of(gateway, other) is Change.RANGE


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('{"Type":"vxlan"}', '{"Type":"vxlan"}', "the same"),
        ('{"Type":"vxlan"}', '{"vni":null,"Type":"VXLAN"}', "the same"),
        ('{"Type":"vxlan"}', '{"Type":"extension"}', "extension cannot be"),
        ('{"Type":"alloc"}', '{"Type":"vxlan"}', "alloc cannot be"),
        ('{"Type":"vxlan"}', '{"Type":"vxlan","Port":4789}', "Backend.Port"),
        ('{"Type":"vxlan"}', '{"Type":"vxlan","VtepMAC":"0e:2a"}', "Backend.VtepMAC"),
        ('{"Type":"wireguard"}', '{"Type":"wireguard","ListenPort":7}', "from there to wireguard"),
        ('{"Type":"wireguard"}', '{"Type":"wireguard","MTU":1300}', "from there to wireguard"),
    ],
)
def test_what_cannot_change_while_nodes_run_is_refused(old: str, new: str, words: str) -> None:
    with pytest.raises(NetstoreError, match=words):
        change_of(network(old), network(new))


def test_a_migration_changes_one_thing() -> None:
    old = network('{"Type":"vxlan"}')
    with pytest.raises(NetstoreError, match="change one, then the other"):
        change_of(old, network('{"Type":"host-gw"}', '"Network":"10.2.0.0/16"'))
    dual = '"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"'
    with pytest.raises(NetstoreError, match="IPv6Network"):
        change_of(old, network('{"Type":"vxlan"}', dual))


RANGE: Final = '{"Type":"host-gw"}', '"Network":"10.1.0.0/16","SubnetLen":24'


@pytest.mark.parametrize(
    "rest",
    [
        '"Network":"10.2.0.0/16","SubnetLen":25',
        '"Network":"10.1.0.0/16","SubnetLen":25',
        '"Network":"10.0.0.0/15","SubnetLen":23',
        '"Network":"10.1.128.0/17","SubnetLen":26',
        '"Network":"10.0.0.0/15","SubnetLen":24',
        '"Network":"10.1.0.0/16","SubnetLen":24,"SubnetMin":"10.1.9.0"',
    ],
)
def test_the_range_and_the_length_of_subnets_can_change(rest: str) -> None:
    assert change_of(network(*RANGE), network(RANGE[0], rest)) is Change.RANGE


def test_a_node_without_a_lease_has_nothing_to_write_or_to_change() -> None:
    """As one that is drained: it follows the plan, and stays without a subnet."""
    told_by = {"a": told(3, phase=Phase.FINISH), "b": told(4, phase=Phase.SEND)}
    assert next_step(plan(Phase.FINISH), told_by, ["a"], NEW) == Advance(Phase.DONE)
    assert isinstance(next_step(plan(Phase.FINISH), told_by, ["a", "b"], NEW), Waiting)
    parts = {"a": told(3, receives=4, sends=4), "b": told(4, receives=4)}
    renumbering = msgspec.structs.replace(plan(Phase.SEND), change=Change.RANGE)
    assert next_step(renumbering, parts, ["a"], OLD) == Advance(Phase.FINISH)
    assert isinstance(next_step(renumbering, parts, ["a", "b"], OLD), Waiting)
    assert isinstance(next_step(plan(Phase.SEND), parts, ["a"], OLD), Waiting)  # it has routes to the others


@pytest.mark.parametrize(
    ("phase", "way"), [(Phase.SEND, "`network migrate abort`"), (Phase.FINISH, "no way back")]
)
def test_a_config_that_was_changed_meanwhile_is_told_with_a_way_that_there_is(phase: Phase, way: str) -> None:
    with pytest.raises(NetstoreError, match=way) as raised:
        next_step(plan(phase), {}, [], OLD.replace("10.1", "10.9"))
    assert ("abort" in str(raised.value)) is phase.can_revert


def lease(subnet: str, node: int, name: str = "") -> SubnetLease:
    return SubnetLease(Subnet(*parse_cidr(subnet)), node, "host-gw", node_name=name)


def test_leases_that_would_not_be_served_afterwards_are_found() -> None:
    old, vxlan = network(*RANGE), network('{"Type":"vxlan"}', RANGE[1])
    one, two = lease("10.1.5.0/24", 1), lease("10.1.6.0/24", 2)
    assert left_behind([one, two], old, vxlan) == {}
    second, outside = lease("10.1.7.0/24", 2), lease("10.9.5.0/24", 1)
    assert left_behind([one, two, second], old, vxlan) == {"0.0.0.2": [two, second]}
    assert left_behind([one, outside, two], old, vxlan) == {"0.0.0.1": [one, outside]}
    assert left_behind([outside, two], old, vxlan) == {"0.0.0.1": [outside]}
    named = [lease("10.1.5.0/24", 1, "n"), lease("10.1.7.0/24", 3, "n"), lease("10.1.8.0/24", 3)]
    assert left_behind([*named, two], old, vxlan) == {"n": named}


def test_a_range_is_left_with_the_leases_of_both_ranges() -> None:
    """So a node can go back from the range to which it went, and what it has there is served."""
    old, back, third = (
        network(RANGE[0], f'"Network":"10.{number}.0.0/16","SubnetLen":24') for number in (2, 1, 3)
    )
    leases = [lease("10.1.5.0/24", 1), lease("10.2.5.0/24", 1), lease("10.2.6.0/24", 1)]
    assert left_behind(leases, old, back) == {}
    assert left_behind(leases, old, third) == {"0.0.0.1": leases}


def test_leases_that_overlap_are_found() -> None:
    one, half, apart = lease("10.1.5.0/24", 1), lease("10.1.5.128/25", 2), lease("10.1.6.0/24", 3)
    assert overlapping([apart, half, one]) == (one, half)
    assert overlapping([apart, one]) is None
    assert overlapping([apart, half]) is None


def test_nodes_that_do_not_follow_plans_are_named() -> None:
    assert unable(["c", "a", "b", "c"], {"a"}, ["b"]) == ["c"]
