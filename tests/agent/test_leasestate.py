"""The choice of a subnet, and the state of a lease under everything a store and other nodes can do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netstore.agent.leasestate import (
    ChooseSubnet,
    Create,
    Discard,
    LeaseState,
    NetworkFull,
    Overwrite,
    ReadBack,
    StoredLease,
    Wait,
    choose_subnet,
)
from netstore.network.addresses import Subnet, parse_cidr, parse_ip
from netstore.network.config import parse_network
from netstore.network.lease import SubnetLease, encode_lease
from tests.agent.entropy import LowestEntropy

NETWORK = parse_network(b'{"Network":"10.23.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}')
ME, OTHER = parse_ip("192.168.77.11"), parse_ip("192.168.77.12")
VALUE = encode_lease(ME, "host-gw")


def net(text: str) -> Subnet:
    return Subnet.around(*parse_cidr(text))


def entry(text: str, ip: int = OTHER, index: int = 7, *, permanent: bool = False) -> StoredLease:
    return StoredLease(SubnetLease(net(text), ip, "host-gw"), index, permanent)


LOW, MIDDLE, HIGH = "10.23.0.64/26", "10.23.0.128/26", "10.23.0.192/26"


@pytest.mark.parametrize(
    ("entries", "remembered", "expected"),
    [
        ([], None, Create(net(LOW))),
        ([entry(LOW)], None, Create(net(MIDDLE))),
        ([], MIDDLE, Create(net(MIDDLE))),
        ([entry(MIDDLE)], MIDDLE, Create(net(LOW))),  # never a subnet that another node holds
        ([entry("10.23.0.0/24")], MIDDLE, NetworkFull(1)),
        ([], "10.99.0.0/26", Create(net(LOW))),
        ([], "10.23.0.128/25", Create(net(LOW))),
        (
            [entry(HIGH, ME)],
            LOW,
            Overwrite(net(HIGH), 7, permanent=False),
        ),  # a lease with the own PublicIP is preferred to the remembered subnet
        ([entry(HIGH, ME, permanent=True)], None, Overwrite(net(HIGH), 7, permanent=True)),
        ([entry(HIGH, ME), entry(LOW, ME)], None, Overwrite(net(LOW), 7, permanent=False)),
        ([entry(LOW, ME), entry(HIGH, ME)], HIGH, Overwrite(net(HIGH), 7, permanent=False)),
        ([entry("10.23.0.128/25", ME)], None, Discard(net("10.23.0.128/25"), 7)),
        ([entry("10.99.0.0/26", ME), entry(LOW, ME)], None, Overwrite(net(LOW), 7, permanent=False)),
        ([entry(LOW), entry(MIDDLE), entry(HIGH)], None, NetworkFull(3)),
        ([entry(LOW), entry(MIDDLE), entry("10.23.0.196/30")], None, NetworkFull(3)),
    ],
)
def test_the_order_in_which_a_subnet_is_chosen(
    entries: list[StoredLease], remembered: str | None, expected: object
) -> None:
    given_order = choose_subnet(
        entries, ME, NETWORK, net(remembered) if remembered else None, LowestEntropy()
    )
    assert given_order == expected
    assert (
        choose_subnet(entries[::-1], ME, NETWORK, net(remembered) if remembered else None, LowestEntropy())
        == expected
    )


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
    action = choose_subnet(entries, ME, NETWORK, net(remembered) if remembered else None, LowestEntropy())
    others = [one.lease.subnet for one in entries if one.lease.public_ip != ME]
    if isinstance(action, Create):
        assert NETWORK.fits(action.subnet)
        assert not any(action.subnet.overlaps(one.lease.subnet) for one in entries)
    elif isinstance(action, Overwrite | Discard):
        assert action.subnet not in others
        match = next(one for one in entries if one.lease.subnet == action.subnet)
        assert action.index == match.index
    else:
        assert others


# The state of a lease


def state(ttl: int = 100, margin: float = 40.0) -> LeaseState:
    return LeaseState(ME, VALUE, ttl, margin, LowestEntropy())


def held(index: int = 5, *, permanent: bool = False) -> LeaseState:
    made = state()
    made.granted(net(LOW), index, permanent=permanent, sent=1000.0)
    return made


MINE = SubnetLease(net(LOW), ME, "host-gw")
THEIRS = SubnetLease(net(LOW), OTHER, "host-gw")


def test_it_waits_until_the_renew_margin_and_then_renews() -> None:
    one = held()
    assert one.next(1000.0) == Wait(1060.0)
    assert one.next(1060.0) == Overwrite(net(LOW), 5, permanent=False)
    assert not one.may_have_expired(1098.0)
    assert one.may_have_expired(1099.0), "a hundredth of the TTL is reserved for clock drift"


def test_the_margin_is_at_most_half_the_ttl() -> None:
    one = LeaseState(ME, VALUE, 4, 3600.0, LowestEntropy())
    one.granted(net(LOW), 5, permanent=False, sent=0.0)
    assert one.next(0.0) == Wait(2.0)


def test_a_reservation_is_not_renewed_and_does_not_expire() -> None:
    one = held(permanent=True)
    assert one.next(10.0**9) == Wait(float("inf"))
    assert not one.may_have_expired(10.0**9)
    one.set_value(ME, encode_lease(ME, "vxlan"), 2000.0)
    assert one.next(2000.0) == Overwrite(net(LOW), 5, permanent=True)


def test_a_deleted_lease_is_created_again() -> None:
    one = held()
    one.missing(6, 1010.0)
    assert not one.held
    assert one.next(1010.0) == Create(net(LOW))


def test_observations_with_an_older_index_are_ignored() -> None:
    one = held(index=5)
    one.missing(4, 1010.0)
    one.observed(THEIRS, "x", 4, 100, 1010.0)
    assert one.held
    assert one.next(1010.0) == Wait(1060.0)


def test_a_lease_taken_by_another_node_is_given_up() -> None:
    one = held()
    one.observed(THEIRS, "x", 6, 100, 1010.0)
    assert (one.held, one.taken_by) == (False, OTHER)
    assert one.next(1010.0) == ChooseSubnet()


@pytest.mark.parametrize("lease", [None, SubnetLease(net(LOW), ME, "vxlan")])
def test_an_invalid_value_or_another_type_in_the_own_key_is_overwritten(lease: SubnetLease | None) -> None:
    one = held()
    one.observed(lease, "something else", 6, 100, 1010.0)
    assert one.next(1010.0) == Overwrite(net(LOW), 6, permanent=False)


def test_a_lease_rewritten_with_a_short_ttl_is_renewed_at_once() -> None:
    one = held()
    one.observed(MINE, VALUE, 6, 20, 1010.0)
    assert one.next(1010.0) == Overwrite(net(LOW), 6, permanent=False)


def test_a_lease_that_became_a_reservation_stays_one() -> None:
    one = held()
    one.observed(MINE, VALUE, 6, None, 1010.0)
    assert one.next(10.0**9) == Wait(float("inf"))


def test_a_failed_comparison_leads_to_a_read() -> None:
    one = held()
    one.comparison_failed(1060.0)
    assert one.next(1060.0) == ReadBack(net(LOW))
    one.observed(MINE, VALUE, 9, 100, 1061.0)
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
        assert one.next(now) == ReadBack(net(LOW))
    assert pauses == [0.5, 1, 2, 4, pytest.approx(40 / 6), *[pytest.approx(40 / 6)] * 3]


def test_a_new_address_is_written_and_the_former_one_still_counts_until_then() -> None:
    one = held()
    new = parse_ip("192.168.77.50")
    one.set_value(new, encode_lease(new, "host-gw"), 1010.0)
    assert one.next(1010.0) == Overwrite(net(LOW), 5, permanent=False)
    one.write_failed(1010.0)
    one.observed(MINE, VALUE, 5, 90, 1020.0)
    assert one.held
    assert one.next(1020.0) == Overwrite(net(LOW), 5, permanent=False)
    one.granted(net(LOW), 8, permanent=False, sent=1020.0)
    one.observed(MINE, VALUE, 9, 90, 1021.0)
    assert one.taken_by == ME, "the former address now counts as another node's"


def test_after_the_store_was_replaced_indexes_start_again() -> None:
    one = held(index=500)
    one.store_replaced()
    one.missing(3, 1010.0)
    assert one.next(1010.0) == Create(net(LOW))


@dataclass
class Cell:
    """The key in the model of the store."""

    value: str
    index: int
    expires: float | None


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
                Create(net(LOW))
                if self.cell is None
                else Overwrite(net(LOW), self.cell.index, self.cell.expires is None)
            )
        assert isinstance(action, Create | Overwrite | ReadBack)
        outcome = self.carry_out(action) if reaches else "lost"
        if not answered or outcome == "lost":
            self.plan.write_failed(self.now)
        elif outcome in {"compare", "exists"}:
            self.plan.comparison_failed(self.now)
        elif outcome == "missing":
            self.plan.missing(self.index, self.now)
        elif outcome == "looked":
            self.look()
        else:
            assert self.cell is not None
            self.plan.granted(net(LOW), self.cell.index, permanent=self.cell.expires is None, sent=self.now)

    def carry_out(self, action: Create | Overwrite | ReadBack) -> str:
        if isinstance(action, ReadBack):
            return "looked" if self.cell is not None else "missing"
        if isinstance(action, Create):
            if self.cell is not None:
                return "exists"
            permanent = False
        else:
            if self.cell is None:
                return "missing"
            if self.cell.index != action.index:
                return "compare"
            assert OTHERS not in self.cell.value, "another node's lease was overwritten"
            permanent = action.permanent
            assert permanent == (self.cell.expires is None), "a reservation lost or gained its TTL"
        self.index += 1
        self.cell = Cell(VALUE, self.index, None if permanent else self.now + 100)
        return "done"

    def look(self) -> None:
        """Report what the watcher or a read would see now."""
        if self.cell is None:
            self.plan.missing(self.index, self.now)
            return
        lease = SubnetLease(net(LOW), OTHER if OTHERS in self.cell.value else ME, "host-gw")
        ttl = None if self.cell.expires is None else int(self.cell.expires - self.now)
        found = None if self.cell.value == "garbage" else lease
        self.plan.observed(found, self.cell.value, self.cell.index, ttl, self.now)

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
        self.cell = Cell(text, self.index, None if value == "reservation" else self.now + 50)

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
        for _ in range(6):
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
    avoided = choose_subnet([], ME, NETWORK, None, LowestEntropy(), avoid=[first.subnet, everything_below])
    assert isinstance(avoided, Create)
    assert not avoided.subnet.overlaps(first.subnet)
    assert choose_subnet([], ME, NETWORK, first.subnet, LowestEntropy(), avoid=[first.subnet]) == first, (
        "the host's network is the bridge of its own pods"
    )


def test_an_own_write_that_is_seen_before_its_answer_does_not_end_the_lease() -> None:
    state = LeaseState(ME, "before", 1000, 100, LowestEntropy())
    state.granted(net(LOW), 5, permanent=False, sent=0.0)
    state.set_value(ME, VALUE, 10.0)
    state.observed(entry(LOW, ME).lease, VALUE, 6, 0, 10.0)
    assert not state.may_have_expired(10.0)
    assert state.may_have_expired(1000.0)
    assert state.next(10.0) == Overwrite(net(LOW), 6, permanent=False), "to know its time"
    state.granted(net(LOW), 6, permanent=False, sent=10.0)
    assert not state.may_have_expired(990.0)


def test_a_lease_that_was_not_held_is_not_trusted_while_its_time_is_unknown() -> None:
    state = LeaseState(ME, VALUE, 1000, 100, LowestEntropy())
    state.granted(net(LOW), 5, permanent=False, sent=0.0)
    state.missing(6, 10.0)
    state.observed(entry(LOW, ME).lease, VALUE, 7, 0, 10.0)
    assert state.may_have_expired(10.0)
