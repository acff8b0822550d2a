"""The choice of a subnet, and the state of a lease under everything a store and other nodes can do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netstore.agent.leasestate import (
    MIN_REWRITES,
    NOT_ALLOWED,
    QUIET_PERIOD,
    ChooseSubnet,
    Confirm,
    Create,
    Discard,
    LeaseState,
    NetworkFull,
    Overwrite,
    ReadBack,
    StoredLease,
    Wait,
    choose_subnet,
    older_claim,
)
from netstore.client.subnetstore import Entry
from netstore.network.addresses import Subnet, parse_cidr, parse_ip, show_ip
from netstore.network.config import parse_network
from netstore.network.ipv6 import Subnet6, parse_cidr6
from netstore.network.lease import NodeSubnets, SubnetLease, encode_lease
from tests.agent.entropy import LowestEntropy

if TYPE_CHECKING:
    from netstore.network.config import Network

NETWORK = parse_network(b'{"Network":"10.23.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}')
ME, OTHER = parse_ip("192.168.77.11"), parse_ip("192.168.77.12")
VALUE = encode_lease(ME, "host-gw")


def net(text: str) -> Subnet:
    return Subnet.around(*parse_cidr(text))


def pair(text: str, text6: str | None = None) -> NodeSubnets:
    return NodeSubnets(net(text), None if text6 is None else net6(text6))


def net6(text: str) -> Subnet6:
    return Subnet6.around(*parse_cidr6(text))


def entry(text: str, ip: int = OTHER, index: int = 7, *, permanent: bool = False) -> StoredLease:
    return StoredLease(SubnetLease(net(text), ip, "host-gw"), index, permanent, 5)


LOW, MIDDLE, HIGH = "10.23.0.64/26", "10.23.0.128/26", "10.23.0.192/26"


@pytest.mark.parametrize(
    ("entries", "remembered", "expected"),
    [
        ([], None, Create(pair(LOW))),
        ([entry(LOW)], None, Create(pair(MIDDLE))),
        ([], MIDDLE, Create(pair(MIDDLE))),
        ([entry(MIDDLE)], MIDDLE, Create(pair(LOW))),  # never a subnet that another node holds
        ([entry("10.23.0.0/24")], MIDDLE, NetworkFull(NETWORK.network, 1)),
        ([], "10.99.0.0/26", Create(pair(LOW))),
        ([], "10.23.0.128/25", Create(pair(LOW))),
        (
            [entry(HIGH, ME)],
            LOW,
            Overwrite(pair(HIGH), 7, permanent=False, created=5),
        ),  # a lease with the own PublicIP is preferred to the remembered subnet
        ([entry(HIGH, ME, permanent=True)], None, Overwrite(pair(HIGH), 7, permanent=True, created=5)),
        ([entry(HIGH, ME), entry(LOW, ME)], None, Overwrite(pair(LOW), 7, permanent=False, created=5)),
        ([entry(LOW, ME), entry(HIGH, ME)], HIGH, Overwrite(pair(HIGH), 7, permanent=False, created=5)),
        ([entry("10.23.0.128/25", ME)], None, Discard(pair("10.23.0.128/25"), 7, NOT_ALLOWED)),
        (
            [entry("10.99.0.0/26", ME), entry(LOW, ME)],
            None,
            Overwrite(pair(LOW), 7, permanent=False, created=5),
        ),
        ([entry(LOW), entry(MIDDLE), entry(HIGH)], None, NetworkFull(NETWORK.network, 3)),
        ([entry(LOW), entry(MIDDLE), entry("10.23.0.196/30")], None, NetworkFull(NETWORK.network, 3)),
    ],
)
def test_the_order_in_which_a_subnet_is_chosen(
    entries: list[StoredLease], remembered: str | None, expected: object
) -> None:
    given_order = choose_subnet(
        entries, ME, NETWORK, pair(remembered) if remembered else None, LowestEntropy()
    )
    assert given_order == expected
    assert (
        choose_subnet(entries[::-1], ME, NETWORK, pair(remembered) if remembered else None, LowestEntropy())
        == expected
    )


def test_a_lease_of_the_former_network_config_is_left_as_it_is() -> None:
    former = parse_network(b'{"Network":"10.99.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
    old = entry("10.99.3.0/24", ME)
    assert isinstance(choose_subnet([old], ME, NETWORK, None, LowestEntropy()), Discard)
    action = choose_subnet([old], ME, NETWORK, pair("10.99.3.0/24"), LowestEntropy(), former=former)
    assert action == Create(pair(LOW))
    both = [old, entry(HIGH, ME)]
    action = choose_subnet(both, ME, NETWORK, None, LowestEntropy(), former=former)
    assert action == Overwrite(pair(HIGH), 7, permanent=False, created=5)
    odd = [old, entry("10.98.3.0/24", ME)]
    action = choose_subnet(odd, ME, NETWORK, None, LowestEntropy(), former=former)
    assert isinstance(action, Discard)
    assert action.subnets == pair("10.98.3.0/24")


@given(
    st.lists(
        st.builds(
            entry,
            st.sampled_from(
                [LOW, MIDDLE, HIGH, "10.23.0.0/26", "10.23.0.128/25", "10.23.0.200/30", "10.99.0.0/24"]
            ),
            st.sampled_from([ME, OTHER]),
            st.integers(1, 9),
            permanent=st.booleans(),
        ),
        max_size=4,
        unique_by=lambda one: one.lease.subnet,
    ),
    st.sampled_from([None, LOW, MIDDLE, "10.23.0.128/25"]),
)
def test_the_chosen_action_never_affects_another_nodes_lease(
    entries: list[StoredLease], remembered: str | None
) -> None:
    action = choose_subnet(entries, ME, NETWORK, pair(remembered) if remembered else None, LowestEntropy())
    others = [one.lease.subnet for one in entries if one.lease.public_ip != ME]
    if isinstance(action, Create):
        assert NETWORK.fits(action.subnets.subnet)
        assert not any(action.subnets.subnet.overlaps(one.lease.subnet) for one in entries)
    elif isinstance(action, Overwrite | Discard):
        assert action.subnets.subnet not in others
        match = next(one for one in entries if one.lease.subnets == action.subnets)
        assert action.index == match.index
    else:
        assert others


# The state of a lease


def state(ttl: int = 100, margin: float = 40.0) -> LeaseState:
    return LeaseState(ME, VALUE, ttl, margin, LowestEntropy())


def seen(value: str, index: int, ttl: int | None, created: int = 5) -> Entry:
    return Entry(pair(LOW).lease_name, value, index, ttl, created)


def held(index: int = 5, *, permanent: bool = False) -> LeaseState:
    made = state()
    made.granted(pair(LOW), index, value=made.value, permanent=permanent, sent=1000.0, created=5)
    return made


MINE = SubnetLease(net(LOW), ME, "host-gw")
THEIRS = SubnetLease(net(LOW), OTHER, "host-gw")


def test_it_waits_until_the_renew_margin_and_then_renews() -> None:
    one = held()
    assert one.next(1000.0) == Wait(1060.0)
    assert one.next(1060.0) == Overwrite(pair(LOW), 5, permanent=False, created=5)
    assert not one.may_have_expired(1098.0)
    assert one.may_have_expired(1099.0), "a hundredth of the TTL is reserved for clock drift"


def test_the_margin_is_at_most_half_the_ttl() -> None:
    one = LeaseState(ME, VALUE, 4, 3600.0, LowestEntropy())
    one.granted(pair(LOW), 5, value=one.value, permanent=False, sent=0.0, created=5)
    assert one.next(0.0) == Wait(2.0)


def test_a_reservation_is_not_renewed_and_does_not_expire() -> None:
    one = held(permanent=True)
    assert one.next(10.0**9) == Wait(float("inf"))
    assert not one.may_have_expired(10.0**9)
    one.set_value(ME, encode_lease(ME, "vxlan"), 2000.0)
    assert one.next(2000.0) == Overwrite(pair(LOW), 5, permanent=True, created=5)


def test_a_deleted_lease_is_created_again() -> None:
    one = held()
    one.missing(6, 1010.0)
    assert not one.held
    assert one.next(1010.0) == Create(pair(LOW))


def test_observations_with_an_older_index_are_ignored() -> None:
    one = held(index=5)
    one.missing(4, 1010.0)
    one.observed(THEIRS, seen("x", 4, 100), 1010.0)
    assert one.held
    assert one.next(1010.0) == Wait(1060.0)


def test_a_lease_taken_by_another_node_is_given_up() -> None:
    one = held()
    one.observed(THEIRS, seen("x", 6, 100), 1010.0)
    assert (one.held, one.taken_by) == (False, OTHER)
    assert one.next(1010.0) == ChooseSubnet()


@pytest.mark.parametrize("lease", [None, SubnetLease(net(LOW), ME, "vxlan")])
def test_an_invalid_value_or_another_type_in_the_own_key_is_overwritten(lease: SubnetLease | None) -> None:
    one = held()
    one.observed(lease, seen("something else", 6, 100), 1010.0)
    assert one.next(1010.0) == Overwrite(pair(LOW), 6, permanent=False, created=5)


def test_a_lease_rewritten_with_a_short_ttl_is_renewed_at_once() -> None:
    one = held()
    one.observed(MINE, seen(VALUE, 6, 20), 1010.0)
    assert not one.may_have_expired(1028.0)
    assert one.may_have_expired(1029.0)
    assert one.next(1010.0) == ReadBack(pair(LOW))
    one.read_back(MINE, seen(VALUE, 6, 19), 1010.5)
    assert one.next(1010.5) == Overwrite(pair(LOW), 6, permanent=False, created=5)


def test_a_longer_time_than_this_node_writes_is_not_believed() -> None:
    """What is allowed for drift is a part of its own TTL."""
    one = held()
    one.observed(MINE, seen(VALUE, 6, 864_000), 1010.0)
    one.read_back(MINE, seen(VALUE, 6, 864_000), 1010.5)
    assert not one.may_have_expired(1109.4)
    assert one.may_have_expired(1109.5)


def test_another_content_with_a_short_ttl_ends_the_lease_when_it_cannot_be_written_again() -> None:
    one = held()
    one.observed(SubnetLease(net(LOW), ME, "vxlan"), seen("theirs", 6, 20), 1010.0)
    one.write_failed(1010.0)
    one.read_back(SubnetLease(net(LOW), ME, "vxlan"), seen("theirs", 6, 15), 1011.0)
    assert one.may_have_expired(1025.0)


def test_what_the_watcher_knows_already_tells_no_time_and_ends_no_pause() -> None:
    one = held()
    one.write_failed(1060.0)
    for ttl in (100, 0):
        one.observed(MINE, seen(VALUE, 5, ttl), 1060.2)
        assert one.next(1060.2) == Wait(1060.5)
        assert one.next(1060.5) == ReadBack(pair(LOW))
        assert one.may_have_expired(1099.0)
    one.read_back(MINE, seen(VALUE, 5, 39), 1060.5)
    assert one.next(1060.5) == Overwrite(pair(LOW), 5, permanent=False, created=5)


def test_after_events_of_its_own_writes_the_lease_is_read_back_once() -> None:
    one = held()
    one.write_failed(1060.0)
    for index in range(6, 20):
        one.observed(MINE, seen(VALUE, index, 100), 5000.0)
        assert one.may_have_expired(1099.0), "an event may be read long after it happened"
    assert one.next(5000.0) == ReadBack(pair(LOW))
    one.read_back(MINE, seen(VALUE, 25, 70), 5000.0)
    assert one.next(5000.0) == Wait(5030.0)
    assert not one.may_have_expired(5068.0)
    for index in range(20, 26):
        one.observed(MINE, seen(VALUE, index, 100), 5001.0)
    assert one.next(5001.0) == Wait(5030.0), "these were read back already"


def test_a_key_that_somebody_writes_all_the_time_is_read_seldom() -> None:
    one, reads = held(), 0
    for number in range(1000):
        now = 1010.0 + number / 100
        one.observed(MINE, seen(VALUE, 6 + number, 100), now)
        if one.next(now) == ReadBack(pair(LOW)):
            reads += 1
            one.read_back(MINE, seen(VALUE, 6 + number, 99), now)
    assert 20 <= reads <= 21, "two each second"
    assert not one.may_have_expired(1110.0)


def test_a_read_of_an_earlier_state_is_repeated_after_a_delay() -> None:
    one = held(index=500)
    one.comparison_failed(1010.0)
    one.read_back(MINE, seen(VALUE, 3, 99), 1010.0)
    assert one.next(1010.0) == Wait(1010.5)
    one.missing(4, 1010.5)
    one.read_in_vain(1010.5)
    assert one.next(1010.5) == Wait(1011.5)
    assert one.next(1011.5) == ReadBack(pair(LOW))


def test_a_reservation_that_got_a_ttl_is_not_relied_on_before_it_is_read_back() -> None:
    one = held(permanent=True)
    one.observed(MINE, seen(VALUE, 6, 100), 1010.0)
    assert one.may_have_expired(1010.0)
    assert one.next(1010.0) == ReadBack(pair(LOW))
    one.read_back(MINE, seen(VALUE, 6, 99), 1010.0)
    assert not one.may_have_expired(1100.0)


def test_what_the_watcher_knew_before_the_key_was_found_missing_is_no_lease() -> None:
    one = held()
    one.missing(8, 1100.0)
    one.observed(MINE, seen(VALUE, 5, 100), 1100.0)
    assert not one.is_written
    assert one.next(1100.0) == Create(pair(LOW))


def test_a_lease_that_became_a_reservation_stays_one() -> None:
    one = held()
    one.observed(MINE, seen(VALUE, 6, None), 1010.0)
    assert one.next(10.0**9) == Wait(float("inf"))


def test_a_failed_comparison_leads_to_a_read() -> None:
    one = held()
    one.comparison_failed(1060.0)
    assert one.next(1060.0) == ReadBack(pair(LOW))
    one.read_back(MINE, seen(VALUE, 9, 100), 1061.0)
    assert one.next(1061.0) == Wait(1121.0)


def test_retry_delays_grow_up_to_a_maximum() -> None:
    one = held()
    now, pauses = 1060.0, []
    for _ in range(8):
        one.write_failed(now)
        rest = one.next(now)
        assert isinstance(rest, Wait)
        pauses.append(rest.until - now)
        now = rest.until
        assert one.next(now) == ReadBack(pair(LOW))
    assert pauses == [0.5, 1, 2, 4, pytest.approx(40 / 6), *[pytest.approx(40 / 6)] * 3]


def test_a_new_address_is_written_and_the_former_one_still_counts_until_then() -> None:
    one = held()
    new = parse_ip("192.168.77.50")
    one.set_value(new, encode_lease(new, "host-gw"), 1010.0)
    assert one.next(1010.0) == Overwrite(pair(LOW), 5, permanent=False, created=5)
    one.write_failed(1010.0)
    one.read_back(MINE, seen(VALUE, 5, 90), 1020.0)
    assert one.held
    assert one.next(1020.0) == Overwrite(pair(LOW), 5, permanent=False, created=5)
    one.granted(pair(LOW), 8, value=one.value, permanent=False, sent=1020.0, created=5)
    one.observed(MINE, seen(VALUE, 9, 90), 1021.0)
    assert one.taken_by == ME, "the former address now counts as another node's"


def test_what_is_set_while_a_write_is_under_way_is_written_after_its_answer() -> None:
    one = LeaseState(ME, VALUE, 100, 40.0, LowestEntropy())
    new = parse_ip("192.168.77.50")
    one.set_value(new, encode_lease(new, "vxlan"), 1000.5)
    one.granted(pair(LOW), 5, value=VALUE, permanent=False, sent=1000.0)
    assert one.next(1001.0) == Overwrite(pair(LOW), 5, permanent=False, created=5)
    assert one.own_ips == {ME, new}, "the store has the former address"
    one.observed(MINE, seen(VALUE, 5, 90), 1001.0)
    assert one.next(1001.0) == Overwrite(pair(LOW), 5, permanent=False, created=5)
    one.granted(pair(LOW), 6, value=one.value, permanent=False, sent=1001.0, created=5)
    assert one.own_ips == {new}


def test_after_the_store_was_replaced_indexes_start_again() -> None:
    one = held(index=500)
    one.store_replaced()
    one.missing(3, 1010.0)
    assert one.next(1010.0) == Create(pair(LOW))


@dataclass
class Cell:
    """The key in the model of the store."""

    value: str
    index: int
    expires: float | None
    created: int


class Life(RuleBasedStateMachine):
    """A lease state with a model of a store with one subnet; writes and events get lost, others write the
    key.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.index = 10
        self.cell: Cell | None = None
        self.stolen = False
        self.plan = LeaseState(ME, VALUE, 100, 40.0, LowestEntropy())

    def step(self, *, reaches: bool = True, answered: bool = True) -> None:
        """Carry out the next action; it may not reach the store, or its answer may be lost."""
        action = self.plan.next(self.now)
        if isinstance(action, Wait):
            return
        if isinstance(action, ChooseSubnet):
            if self.cell is not None and OTHERS in self.cell.value:
                return
            action = (
                Create(pair(LOW))
                if self.cell is None
                else Overwrite(pair(LOW), self.cell.index, self.cell.expires is None, self.cell.created)
            )
        if isinstance(action, Confirm):
            assert not self.plan.held
            if self.cell is not None and self.cell.created == action.created:
                self.plan.confirmed()
            return
        assert isinstance(action, Create | Overwrite | ReadBack)
        outcome = self.carry_out(action) if reaches else "lost"
        if not answered or outcome == "lost":
            self.plan.write_failed(self.now)
        elif outcome in {"compare", "exists"}:
            self.plan.comparison_failed(self.now)
        elif outcome == "missing":
            self.plan.missing(self.index, self.now)
        elif outcome == "looked":
            self.look(is_read=True)
        else:
            assert self.cell is not None
            self.plan.granted(
                pair(LOW),
                self.cell.index,
                value=self.plan.value,
                permanent=self.cell.expires is None,
                sent=self.now,
                created=action.created if isinstance(action, Overwrite) else None,
            )

    def carry_out(self, action: Create | Overwrite | ReadBack) -> str:
        if isinstance(action, ReadBack):
            return "looked" if self.cell is not None else "missing"
        if isinstance(action, Create):
            if self.cell is not None:
                return "exists"
            permanent, created = False, self.index + 1
        else:
            if self.cell is None:
                return "missing"
            if self.cell.index != action.index:
                return "compare"
            assert OTHERS not in self.cell.value, "another node's lease was overwritten"
            permanent = action.permanent
            assert permanent == (self.cell.expires is None), "a reservation lost or gained its TTL"
            created = self.cell.created
        self.index += 1
        self.cell = Cell(VALUE, self.index, None if permanent else self.now + 100, created)
        return "done"

    def look(self, *, is_read: bool = False) -> None:
        """Report what the watcher or a read would see now."""
        if self.cell is None:
            self.plan.missing(self.index, self.now)
            return
        lease = SubnetLease(net(LOW), OTHER if OTHERS in self.cell.value else ME, "host-gw")
        ttl = None if self.cell.expires is None else int(self.cell.expires - self.now)
        found = None if self.cell.value == "garbage" else lease
        told = self.plan.read_back if is_read else self.plan.observed
        told(found, seen(self.cell.value, self.cell.index, ttl, self.cell.created), self.now)

    @rule()
    def act(self) -> None:
        self.step()

    @rule()
    def act_unanswered(self) -> None:
        self.step(answered=False)

    @rule()
    def act_lost(self) -> None:
        self.step(reaches=False)

    @rule(seconds=st.sampled_from([1.0, 30.0, 70.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.cell is not None and self.cell.expires is not None and self.cell.expires <= self.now:
            self.index += 1
            self.cell = None

    @rule()
    def observe(self) -> None:
        self.look()

    @precondition(lambda self: self.cell is not None)
    @rule()
    def somebody_deletes(self) -> None:
        self.index += 1
        self.cell = None

    @rule(value=st.sampled_from(["other", "garbage", "mine", "reservation"]))
    def somebody_writes(self, value: str) -> None:
        self.index += 1
        text = {"other": encode_lease(OTHER, "host-gw"), "garbage": "garbage"}.get(value, VALUE)
        self.cell = Cell(text, self.index, None if value == "reservation" else self.now + 50, self.index)

    @rule()
    def the_store_is_rebuilt(self) -> None:
        self.index, self.cell = 3, None
        self.plan.store_replaced()
        self.look()

    @invariant()
    def undisturbed_it_becomes_consistent(self) -> None:
        """With events and answers, a few steps lead to a lease that is held exactly as the store has it."""
        plan, cell, now, index = vars(self.plan).copy(), self.cell, self.now, self.index
        former = set(self.plan._former_ips)
        self.look()
        for _ in range(14):
            self.step()
            self.look()
            self.now += 8.0
        if self.cell is None or OTHERS in self.cell.value:
            assert not self.plan.held
        else:
            assert self.plan.held
            assert (self.plan.index, self.cell.value) == (self.cell.index, VALUE)
            assert self.plan.permanent == (self.cell.expires is None)
        vars(self.plan).update(plan)
        self.plan._former_ips = former
        self.cell, self.now, self.index = cell, now, index


OTHERS = '"192.168.77.12"'


class Times(RuleBasedStateMachine):
    """A lease that this node alone writes, in a store that ends it exactly when its time is over. Requests
    and answers take time and get lost; the watcher hears of each write late, and keeps what it heard.
    """

    shows_ttl = True
    """As in v2: events tell the TTL of the moment they happened at."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.index = 10
        self.cell: Cell | None = None
        self.events: list[Entry | int] = []
        """What the watcher has not heard yet: entries, and the indexes of ends."""
        self.known: Entry | None = None
        self.heard = self.index
        self.plan = LeaseState(ME, VALUE, 100, 40.0, LowestEntropy())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.cell is not None and self.cell.expires is not None and self.cell.expires <= self.now:
            self.index += 1
            self.cell = None
            self.events.append(self.index)

    def write(self, action: Create | Overwrite) -> str:
        if isinstance(action, Create):
            if self.cell is not None:
                return "differs"
        elif self.cell is None:
            return "missing"
        elif self.cell.index != action.index:
            return "differs"
        self.index += 1
        created = self.index if self.cell is None else self.cell.created
        self.cell = Cell(VALUE, self.index, self.now + 100, created)
        self.events.append(seen(VALUE, self.index, 100 if self.shows_ttl else 0, created))
        return "written"

    @rule(
        there=st.sampled_from([0.0, 0.3, 20.0]),
        back=st.sampled_from([0.0, 0.3, 20.0]),
        is_lost=st.sampled_from(["", "", "request", "answer"]),
        hears=st.booleans(),
    )
    def act(self, there: float, back: float, is_lost: str, *, hears: bool) -> None:
        action, sent = self.plan.next(self.now), self.now
        if isinstance(action, Wait):
            return
        if isinstance(action, Confirm):
            self.look()
            if self.plan.next(self.now) == action and self.heard >= action.created:
                self.plan.confirmed()
            return
        if isinstance(action, ChooseSubnet):
            action = Create(pair(LOW))
        assert isinstance(action, Create | Overwrite | ReadBack)
        self.plan.is_writing = not isinstance(action, ReadBack)
        self.pass_time(there)
        outcome, found, at = "lost", self.cell, self.now
        if is_lost != "request":
            outcome = "read" if isinstance(action, ReadBack) else self.write(action)
        index = self.index
        self.pass_time(back)
        if hears:
            self.hear(9)
        self.plan.is_writing = False
        if is_lost:
            self.plan.write_failed(self.now)
        elif outcome == "missing" or (outcome == "read" and found is None):
            self.plan.missing(index, sent)
        elif outcome == "differs":
            self.plan.comparison_failed(sent)
        elif outcome == "read":
            assert found is not None
            assert found.expires is not None
            ttl = int(found.expires - at)
            self.plan.read_back(MINE, seen(VALUE, found.index, ttl, found.created), sent)
        else:
            created = action.created if isinstance(action, Overwrite) else None
            self.plan.granted(pair(LOW), index, value=VALUE, permanent=False, sent=sent, created=created)

    def look(self) -> None:
        """As `LeaseHolder` does, whatever made the watcher speak."""
        if self.known is None:
            self.plan.missing(self.heard, self.now)
        else:
            self.plan.observed(MINE, self.known, self.now)

    @rule(number=st.sampled_from([0, 1, 9]))
    def hear(self, number: int) -> None:
        """The watcher hears of some changes; of none when it speaks of another node's lease."""
        for each in self.events[:number]:
            self.known = None if isinstance(each, int) else each
            self.heard = each if isinstance(each, int) else each.modified
            self.look()
        del self.events[:number]
        self.look()

    @rule(seconds=st.sampled_from([0.4, 7.0, 30.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @invariant()
    def a_lease_that_is_relied_on_lives(self) -> None:
        assert self.plan.may_have_expired(self.now) or self.cell is not None, self.plan

    @invariant()
    def the_store_ends_no_lease_before_it_is_expected(self) -> None:
        if self.plan.held and self.cell is not None and self.cell.expires is not None:
            assert self.plan.lives_until <= self.cell.expires, self.plan


class TimesV3(Times):
    """The same, where events do not tell a time."""

    shows_ttl = False


TestTimes, TestTimesV3 = Times.TestCase, TimesV3.TestCase

TestLife = Life.TestCase


def test_losing_the_race_for_the_former_subnet_leads_to_another_choice() -> None:
    one = held()
    one.missing(6, 1010.0)
    one.comparison_failed(1010.0)
    assert one.next(1010.0) == ChooseSubnet()


def test_a_new_subnet_avoids_the_networks_of_the_host() -> None:
    everything_below = Subnet(NETWORK.network.base, NETWORK.subnet_len - 1)
    first = choose_subnet([], ME, NETWORK, None, LowestEntropy())
    assert isinstance(first, Create)
    avoided = choose_subnet(
        [], ME, NETWORK, None, LowestEntropy(), avoid=[first.subnets.subnet, everything_below]
    )
    assert isinstance(avoided, Create)
    assert not avoided.subnets.subnet.overlaps(first.subnets.subnet)
    assert (
        choose_subnet([], ME, NETWORK, first.subnets, LowestEntropy(), avoid=[first.subnets.subnet]) == first
    ), "the host's network is the bridge of its own pods"


def test_an_own_write_that_is_seen_before_its_answer_does_not_end_the_lease() -> None:
    state = LeaseState(ME, "before", 1000, 100, LowestEntropy())
    state.granted(pair(LOW), 5, value=state.value, permanent=False, sent=0.0, created=5)
    state.set_value(ME, VALUE, 10.0)
    state.observed(entry(LOW, ME).lease, seen(VALUE, 6, 0), 10.0)
    assert not state.may_have_expired(10.0)
    assert state.may_have_expired(1000.0)
    assert state.next(10.0) == Overwrite(pair(LOW), 6, permanent=False, created=5), "to know its time"
    state.granted(pair(LOW), 6, value=state.value, permanent=False, sent=10.0, created=5)
    assert not state.may_have_expired(990.0)


def test_a_lease_that_was_not_held_is_not_trusted_while_its_time_is_unknown() -> None:
    state = LeaseState(ME, VALUE, 1000, 100, LowestEntropy())
    state.granted(pair(LOW), 5, value=state.value, permanent=False, sent=0.0, created=5)
    state.missing(6, 10.0)
    state.observed(entry(LOW, ME).lease, seen(VALUE, 7, 0), 10.0)
    assert state.may_have_expired(10.0)


# Names of nodes


def named(subnet: str, ip: int, name: str) -> StoredLease:
    one = entry(subnet, ip)
    return msgspec.structs.replace(one, lease=msgspec.structs.replace(one.lease, node_name=name))


@pytest.mark.parametrize(
    ("lease", "is_mine"),
    [
        (named(LOW, OTHER, "mine"), True),
        (named(LOW, ME, "mine"), True),
        (named(LOW, ME, "another"), False),
        (named(LOW, ME, ""), True),
        (named(LOW, OTHER, ""), False),
    ],
)
def test_whose_a_lease_is(lease: StoredLease, is_mine: bool) -> None:
    """Where both have a name it decides, else the address."""
    chosen = choose_subnet([lease], ME, NETWORK, None, LowestEntropy(), own_name="mine")
    kept = Overwrite(pair(LOW), lease.index, permanent=False, created=lease.created)
    assert chosen == (kept if is_mine else Create(pair(MIDDLE)))
    older = older_claim(pair(LOW), {ME}, lease.created + 1, [lease], own_name="mine")
    assert older == (None if is_mine else lease)
    state = LeaseState(ME, VALUE, 1000, 100, LowestEntropy(), own_name="mine")
    state.granted(pair(LOW), 1, value=state.value, permanent=False, sent=0.0, created=1)
    state.observed(lease.lease, seen("other", lease.index, 900), 10.0)
    assert state.is_written == is_mine


# Dual-stack networks

DUAL = parse_network(
    b'{"Network":"10.23.0.0/24","SubnetLen":26,"EnableIPv6":true,"IPv6Network":"fd23::/62",'
    b'"Backend":{"Type":"host-gw"}}'
)
LOW6, MIDDLE6, HIGH6 = "fd23:0:0:1::/64", "fd23:0:0:2::/64", "fd23:0:0:3::/64"


def dual(
    text: str, text6: str | None, ip: int = OTHER, created: int = 5, *, permanent: bool = False
) -> StoredLease:
    lease = SubnetLease(net(text), ip, "host-gw", None, None if text6 is None else net6(text6))
    return StoredLease(lease, 7, permanent, created)


@pytest.mark.parametrize(
    ("entries", "remembered", "expected"),
    [
        ([], None, Create(pair(LOW, LOW6))),
        ([dual(LOW, LOW6)], None, Create(pair(MIDDLE, MIDDLE6))),
        ([dual(LOW, MIDDLE6)], None, Create(pair(MIDDLE, LOW6))),  # the usual one is taken
        ([dual(HIGH, None)], None, Create(pair(LOW, LOW6))),
        ([], (MIDDLE, HIGH6), Create(pair(MIDDLE, HIGH6))),
        ([dual(LOW, HIGH6)], (MIDDLE, HIGH6), Create(pair(MIDDLE, MIDDLE6))),
        ([dual(MIDDLE, LOW6)], (MIDDLE, HIGH6), Create(pair(LOW, HIGH6))),
        ([], (MIDDLE, "fd99::/64"), Create(pair(MIDDLE, MIDDLE6))),
        ([], (MIDDLE, None), Create(pair(MIDDLE, MIDDLE6))),
        ([dual(HIGH, LOW6, ME)], (LOW, HIGH6), Overwrite(pair(HIGH, LOW6), 7, permanent=False, created=5)),
        # The network has become a dual-stack network
        ([dual(HIGH, None, ME)], None, Create(pair(HIGH, HIGH6))),
        ([dual(HIGH, None, ME, permanent=True)], None, Create(pair(HIGH, HIGH6), permanent=True)),
        ([dual(HIGH, None, ME), dual(LOW, HIGH6)], None, Create(pair(HIGH, LOW6))),
        ([dual(HIGH, None, ME)], (HIGH, LOW6), Create(pair(HIGH, LOW6))),
        # An IPv6 subnet that the network no longer has
        ([dual(HIGH, "fd99::/64", ME)], None, Create(pair(HIGH, HIGH6))),
        # Another lease has one of the subnets too: the older one counts
        ([dual(HIGH, HIGH6, ME, 5), dual(HIGH, LOW6, OTHER, 4)], None, Discard),
        (
            [dual(HIGH, HIGH6, ME, 5), dual(HIGH, LOW6, OTHER, 6)],
            None,
            Overwrite(pair(HIGH, HIGH6), 7, permanent=False, created=5),
        ),
        ([dual(HIGH, HIGH6, ME, 5), dual(LOW, HIGH6, OTHER, 4)], None, Create(pair(HIGH, LOW6))),
        (
            [dual(HIGH, HIGH6, ME, 5), dual(LOW, HIGH6, OTHER, 6)],
            None,
            Overwrite(pair(HIGH, HIGH6), 7, permanent=False, created=5),
        ),
        # No subnet is free in one family
        (
            [dual(LOW, LOW6), dual("10.23.0.0/26", MIDDLE6), dual("10.99.0.0/26", HIGH6)],
            None,
            NetworkFull(net6("fd23::/62"), 3),
        ),
    ],
)
def test_the_order_in_which_the_subnets_of_a_dual_stack_lease_are_chosen(
    entries: list[StoredLease], remembered: tuple[str, str | None] | None, expected: object
) -> None:
    former = None if remembered is None else pair(*remembered)
    for ordered in (entries, entries[::-1]):
        found = choose_subnet(ordered, ME, DUAL, former, LowestEntropy())
        if expected is Discard:
            assert isinstance(found, Discard)
            assert found.subnets == pair(HIGH, HIGH6)
            assert found.reason == "the lease of 192.168.77.12 is older"
        else:
            assert found == expected


@pytest.mark.parametrize("permanent", [False, True])
def test_a_network_that_is_no_longer_dual_stack_leaves_the_ipv4_subnet(permanent: bool) -> None:
    entries = [dual(HIGH, HIGH6, ME, permanent=permanent)]
    assert choose_subnet(entries, ME, NETWORK, pair(HIGH, HIGH6), LowestEntropy()) == Create(
        pair(HIGH), permanent
    )


def test_the_networks_of_the_host_are_avoided_in_both_families() -> None:
    avoid: list[Subnet | Subnet6] = [net(LOW), net6(MIDDLE6)]
    assert choose_subnet([], ME, DUAL, None, LowestEntropy(), avoid=avoid) == Create(pair(MIDDLE, LOW6))


def test_a_lease_is_held_when_no_older_one_has_its_subnets() -> None:
    one = state()
    one.granted(pair(LOW, LOW6), 5, value=one.value, permanent=False, sent=1000.0)
    assert (one.held, one.is_written, one.may_have_expired(1000.0)) == (False, True, True)
    assert one.next(1000.0) == Confirm(pair(LOW, LOW6), 5)
    one.confirmed()
    assert (one.held, one.may_have_expired(1000.0)) == (True, False)
    assert one.next(1000.0) == Wait(1060.0)


def test_a_lease_that_is_not_confirmed_in_time_is_renewed_and_still_not_held() -> None:
    one = state()
    one.granted(pair(LOW, LOW6), 5, value=one.value, permanent=False, sent=1000.0)
    assert one.next(1060.0) == Overwrite(pair(LOW, LOW6), 5, permanent=False, created=5)
    one.granted(pair(LOW, LOW6), 9, value=one.value, permanent=False, sent=1060.0, created=5)
    assert not one.held
    assert one.next(1060.0) == Confirm(pair(LOW, LOW6), 5)
    one.contested(OTHER)
    assert (one.taken_by, one.next(1060.0)) == (OTHER, ChooseSubnet())


def test_a_key_that_was_created_anew_is_confirmed_anew() -> None:
    one = held()
    one.observed(MINE, seen(VALUE, 8, 100, created=8), 1010.0)
    assert not one.held
    assert one.next(1010.0) == ReadBack(pair(LOW))
    one.read_back(MINE, seen(VALUE, 8, 99, created=8), 1010.0)
    assert not one.held
    assert one.next(1010.0) == Confirm(pair(LOW), 8)


CLAIMANTS = [
    dual(LOW, LOW6, OTHER, 4),
    dual(MIDDLE, HIGH6, OTHER, 6),
    dual("10.23.0.64/27", None, OTHER, 1),
    dual("10.99.0.0/26", "fd23::/63", OTHER, 1),
]


@pytest.mark.parametrize(
    ("subnets", "created", "found"),
    [
        (pair(MIDDLE, MIDDLE6), 7, 1),
        (pair(MIDDLE, MIDDLE6), 6, None),
        (pair(LOW, MIDDLE6), 5, 2),
        (pair(HIGH, LOW6), 5, 3),
        (pair(HIGH, HIGH6), 5, None),
        (pair(HIGH, MIDDLE6), 7, None),
        (pair(LOW), 2, 2),
        (pair(LOW), 1, None),
    ],
)
def test_an_older_claim_is_a_lease_that_overlaps_one_of_the_subnets(
    subnets: NodeSubnets, created: int, found: int | None
) -> None:
    expected = None if found is None else CLAIMANTS[found]
    assert older_claim(subnets, {ME}, created, CLAIMANTS) == expected
    assert older_claim(subnets, {ME, OTHER}, created, CLAIMANTS) is None


SITE, SITE6 = (
    parse_network(
        b'{"Network":"10.23.0.0/24","SubnetLen":27,"EnableIPv6":%s,"IPv6Network":"fd23::/61",'
        b'"Backend":{"Type":"host-gw"}}' % flag
    )
    for flag in (b"false", b"true")
)


class DrawnEntropy:
    """The number that the test drew last (`seams.Entropy`)."""

    number = 0

    def below(self, bound: int) -> int:
        return self.number % bound


@dataclass(frozen=True)
class Stored:
    """A lease in the model of the store."""

    ip: int
    index: int
    created: int
    expires: float | None


class Claimant:
    """A node with its own view of the store, which lags behind; it may be started again at any time."""

    def __init__(self, ip: int) -> None:
        self.ip = ip
        self.entropy = DrawnEntropy()
        self.network = SITE
        self.former: Network | None = None
        self.remembered: NodeSubnets | None = None
        self.view: dict[NodeSubnets, Stored] = {}
        self.seen_up_to = 0
        self.start()

    def start(self) -> None:
        self.plan = LeaseState(self.ip, encode_lease(self.ip, "host-gw"), 100, 40.0, self.entropy)

    def leases(self) -> list[StoredLease]:
        return [
            StoredLease(
                SubnetLease(key.subnet, each.ip, "host-gw", None, key.subnet6),
                each.index,
                each.expires is None,
                each.created,
            )
            for key, each in self.view.items()
        ]

    def look(self, now: float, *, is_read: bool = False) -> None:
        subnets = self.plan.subnets
        if subnets is None:
            return
        there = self.view.get(subnets)
        if there is None:
            self.plan.missing(self.seen_up_to, now)
            return
        lease = SubnetLease(subnets.subnet, there.ip, "host-gw", None, subnets.subnet6)
        ttl = None if there.expires is None else int(there.expires - now)
        value = encode_lease(there.ip, "host-gw")
        told = self.plan.read_back if is_read else self.plan.observed
        told(lease, Entry("", value, there.index, ttl, there.created), now)


class Claims(RuleBasedStateMachine):
    """Three nodes, each with a single or a dual-stack network config, that choose, write, confirm, change
    the name of their lease and start again, in any order, with views of any age.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.index = 1
        self.store: dict[NodeSubnets, Stored] = {}
        self.nodes = [Claimant(ME + number) for number in range(3)]

    nodes_drawn = st.integers(0, 2)

    def refresh(self, node: Claimant, *, is_read: bool = False) -> None:
        node.view, node.seen_up_to = dict(self.store), self.index
        node.look(self.now, is_read=is_read)

    def write(self, node: Claimant, action: Create | Overwrite | Discard) -> str:
        there = self.store.get(action.subnets)
        if isinstance(action, Create):
            if there is not None:
                return "differs"
        elif there is None:
            return "missing"
        elif there.index != action.index:
            return "differs"
        else:
            assert there.ip == node.ip, "another node's lease was written"
        self.index += 1
        if isinstance(action, Discard):
            del self.store[action.subnets]
            return "removed"
        if isinstance(action, Overwrite):
            assert there is not None
            assert action.permanent == (there.expires is None), "a reservation lost or gained its TTL"
        created = self.index if there is None else there.created
        expires = None if action.permanent else self.now + 100
        self.store[action.subnets] = Stored(node.ip, self.index, created, expires)
        return "written"

    def step(self, node: Claimant, *, answered: bool = True) -> None:
        plan, action = node.plan, node.plan.next(self.now)
        if isinstance(action, Wait):
            return
        if isinstance(action, Confirm):
            if node.seen_up_to < action.created:
                return
            node.look(self.now)
            if plan.next(self.now) != action:
                return
            older = older_claim(action.subnets, {node.ip}, action.created, node.leases())
            if older is None:
                plan.confirmed()
                node.remembered = action.subnets
            else:
                plan.contested(older.lease.public_ip)
            return
        if isinstance(action, ReadBack):
            self.refresh(node, is_read=True)
            return
        if isinstance(action, ChooseSubnet):
            chosen = choose_subnet(
                node.leases(), node.ip, node.network, node.remembered, node.entropy, former=node.former
            )
            if isinstance(chosen, NetworkFull):
                return
            action = chosen
        outcome = self.write(node, action)
        if not answered:
            plan.write_failed(self.now)
        elif outcome == "missing":
            plan.missing(self.index, self.now)
        elif outcome == "differs":
            plan.comparison_failed(self.now)
        elif outcome == "written" and isinstance(action, Create | Overwrite):
            there = self.store[action.subnets]
            created = action.created if isinstance(action, Overwrite) else None
            plan.granted(
                action.subnets,
                there.index,
                value=plan.value,
                permanent=action.permanent,
                sent=self.now,
                created=created,
            )
            if plan.held:
                node.remembered = action.subnets

    def remove_other_names(self, node: Claimant) -> None:
        held = node.plan.subnets
        if held is None or not node.plan.held:
            return
        for key, each in node.view.items():
            if each.ip == node.ip and key.subnet == held.subnet and key.subnet6 != held.subnet6:
                self.write(node, Discard(key, each.index, ""))

    @rule(number=nodes_drawn, entropy=st.integers(0, 6))
    def act(self, number: int, entropy: int) -> None:
        self.nodes[number].entropy.number = entropy
        self.step(self.nodes[number])

    @rule(number=nodes_drawn)
    def act_unanswered(self, number: int) -> None:
        self.step(self.nodes[number], answered=False)

    @rule(number=nodes_drawn)
    def see(self, number: int) -> None:
        self.refresh(self.nodes[number])

    @rule(number=nodes_drawn)
    def tidy(self, number: int) -> None:
        self.remove_other_names(self.nodes[number])

    @rule(number=nodes_drawn, network=st.sampled_from([SITE, SITE6]), forgets=st.booleans())
    def start_again(self, number: int, network: Network, *, forgets: bool) -> None:
        node = self.nodes[number]
        node.network = network
        if forgets:
            node.remembered = None
        node.start()
        self.refresh(node)

    @rule(number=nodes_drawn, place=st.integers(1, 7))
    def reserve(self, number: int, place: int) -> None:
        """An operator reserves a subnet for a node that has no reservation, without looking."""
        subnets = NodeSubnets(Subnet(SITE.network.base + place * 32, 27))
        has_one = any(each.ip == ME + number and each.expires is None for each in self.store.values())
        if subnets not in self.store and not has_one:
            self.index += 1
            self.store[subnets] = Stored(ME + number, self.index, self.index, None)

    @rule(seconds=st.sampled_from([1.0, 30.0, 70.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for key in [key for key, each in self.store.items() if each.expires and each.expires <= self.now]:
            self.index += 1
            del self.store[key]

    @invariant()
    def no_two_nodes_use_one_subnet(self) -> None:
        using = [
            (node, subnets)
            for node in self.nodes
            if (subnets := node.plan.subnets) is not None
            and node.plan.held
            and not node.plan.may_have_expired(self.now)
            and subnets in self.store
            and self.store[subnets].ip == node.ip
        ]
        for (one, first), (other, second) in combinations(using, 2):
            assert first.subnet != second.subnet, (one.plan, other.plan)
            assert first.subnet6 is None or first.subnet6 != second.subnet6, (one.plan, other.plan)

    def teardown(self) -> None:
        """Undisturbed, each node gets a lease in the form of its network config, which has one name."""
        for _ in range(20):
            for node in self.nodes:
                self.refresh(node)
                self.step(node)
                self.refresh(node)
                self.remove_other_names(node)
            self.now += 8.0
        for node in self.nodes:
            held = node.plan.subnets
            assert node.plan.held
            assert held is not None
            assert (held.subnet6 is None) == (node.network.ipv6 is None)
            names = [
                key for key, each in self.store.items() if each.ip == node.ip and key.subnet == held.subnet
            ]
            assert names == [held]
        self.no_two_nodes_use_one_subnet()


TestClaims = Claims.TestCase

WHOLE, HALF, DOUBLE = (
    parse_network(b'{"Network":"10.23.0.0/23","SubnetLen":%d,"Backend":{"Type":"host-gw"}}' % length)
    for length in (27, 28, 26)
)


class Lengths(Claims):
    """Three nodes that go to subnets of another length in the same range, each when it likes, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.created_at = [0] * len(self.nodes)
        for node in self.nodes:
            node.network, node.former = WHOLE, HALF

    @initialize(other=st.sampled_from([HALF, DOUBLE]))
    def plan(self, other: Network) -> None:
        for node in self.nodes:
            node.former = other

    @rule(number=Claims.nodes_drawn)
    def go(self, number: int) -> None:
        """A node goes to the other length, or back."""
        node = self.nodes[number]
        assert node.former is not None
        node.network, node.former = node.former, node.network

    @rule(number=Claims.nodes_drawn, entropy=st.integers(0, 3), times=st.integers(1, 3))
    def act(self, number: int, entropy: int, times: int) -> None:
        """A node acts, with what it knew before and then with what it sees."""
        node = self.nodes[number]
        node.entropy.number = entropy
        for _ in range(times):
            self.step(node)
            self.refresh(node)

    def step(self, node: Claimant, *, answered: bool = True) -> None:
        """Leave a subnet of the former length as `LeaseHolder` does."""
        held, number = node.plan.subnets, self.nodes.index(node)
        if held is None or not node.plan.held or node.network.fits(held.subnet):
            super().step(node, answered=answered)
            return
        if node.seen_up_to < self.created_at[number]:
            return
        action = choose_subnet(node.leases(), node.ip, node.network, None, node.entropy, former=node.former)
        if isinstance(action, NetworkFull) or self.write(node, action) != "written":
            return
        if isinstance(action, Create):
            self.created_at[number] = self.index
        elif isinstance(action, Overwrite):
            index = self.index
            if (there := self.store.get(held)) is not None and there.ip == node.ip:
                self.write(node, Overwrite(held, there.index, there.expires is None, there.created))
            node.plan.granted(
                action.subnets,
                index,
                value=node.plan.value,
                permanent=action.permanent,
                sent=self.now,
                created=action.created,
            )
            node.plan.confirmed()
            node.remembered = action.subnets

    @rule(number=Claims.nodes_drawn, forgets=st.booleans())
    def start_again(self, number: int, *, forgets: bool) -> None:
        node = self.nodes[number]
        if forgets:
            node.remembered = None
        node.start()
        self.refresh(node)

    def reserve(self) -> None:
        """Nobody does: a migration does not begin with reservations."""

    def tidy(self) -> None:
        """There is one form of names."""

    @invariant()
    def what_nodes_have_is_apart(self) -> None:
        """What they use, and what they used before and have leases of."""
        using = [
            (node.ip, subnets.subnet)
            for node in self.nodes
            if (subnets := node.plan.subnets) is not None
            and node.plan.held
            and not node.plan.may_have_expired(self.now)
        ]
        for ip, subnet in using:
            for key, each in self.store.items():
                if each.ip != ip and key.subnet.overlaps(subnet):
                    holder = next(node for node in self.nodes if node.ip == each.ip)
                    assert not holder.plan.held or holder.plan.subnets != key, (ip, subnet, each)
                    assert each.created > self.store[NodeSubnets(subnet)].created, (ip, subnet, each)

    def teardown(self) -> None:
        super().teardown()
        for node in self.nodes:
            assert node.plan.subnets is not None
            assert node.network.fits(node.plan.subnets.subnet)
        self.what_nodes_have_is_apart()


TestLengths = Lengths.TestCase


@pytest.mark.parametrize(
    ("mine", "theirs"), [("10.23.0.32/27", "10.23.0.48/28"), ("10.23.0.48/28", "10.23.0.32/27")]
)
def test_an_older_lease_of_another_length_is_a_claim(mine: str, theirs: str) -> None:
    other = StoredLease(SubnetLease(net(theirs), OTHER), 5, False, created=5)
    assert older_claim(pair(mine), {ME}, 6, [other]) == other
    assert older_claim(pair(mine), {ME}, 4, [other]) is None
    assert older_claim(pair("10.23.1.0/28"), {ME}, 6, [other]) is None
    for network, former in ((WHOLE, HALF), (HALF, WHOLE), (WHOLE, None), (HALF, None)):
        own = StoredLease(SubnetLease(net(mine), ME), 6, False, created=6)
        chosen = choose_subnet([own, other], ME, network, None, LowestEntropy(), former=former)
        assert chosen == Discard(pair(mine), 6, f"the lease of {show_ip(OTHER)} is older")


def test_another_lease_of_this_node_is_confirmed_before_it_is_held() -> None:
    one = held()
    one.granted(pair(HIGH), 9, value=one.value, permanent=True, sent=1010.0, created=8)
    assert not one.held
    assert one.next(1010.0) == Confirm(pair(HIGH), 8)
    one.confirmed()
    assert one.held


def test_rewrites_by_another_agent_are_answered_ever_later() -> None:
    one, now, index, delays = held(), 1010.0, 6, []
    theirs = SubnetLease(net(LOW), ME, "vxlan")
    for count in range(1, 10):
        one.observed(theirs, seen("theirs", index, 100), now)
        assert (one.rewritten_until(now) is not None) == (count >= MIN_REWRITES)
        step = one.next(now)
        delays.append(step.until - now if isinstance(step, Wait) else 0.0)
        now += delays[-1]
        assert one.next(now) == Overwrite(pair(LOW), index, permanent=False, created=5)
        one.granted(pair(LOW), index + 1, value=one.value, permanent=False, sent=now, created=5)
        index += 2
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert one.foreign_value == "theirs"
    assert one.rewritten_until(now) == now - delays[-1] + QUIET_PERIOD
    now += QUIET_PERIOD
    assert one.rewritten_until(now) is None
    one.observed(theirs, seen("theirs", index, 100), now)
    assert isinstance(one.next(now), Overwrite), "a single rewrite is answered at once"


def test_its_own_writes_are_no_rewrites_by_another_agent() -> None:
    one = held()
    for index in range(6, 20):
        one.is_writing = True
        one.observed(MINE, seen(VALUE, index, 0), 1010.0)  # the event of the write comes before its answer
        one.is_writing = False
        one.write_failed(1010.0)
        one.observed(MINE, seen(VALUE, index + 1, 0), 1010.0)
    one.set_value(ME, encode_lease(ME, "vxlan"), 1010.0)
    for index in range(30, 40):
        one.observed(MINE, seen(VALUE, index, 100), 1010.0)
    assert isinstance(one.next(1010.0), Overwrite)
    assert one.rewritten_until(1010.0) is None
