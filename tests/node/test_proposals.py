"""In which order what is written is proposed."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.admission import PARTS, WeighedAdmission
from netstore.errors import stopped, timed_out
from netstore.node import proposals
from netstore.node.fairqueue import TURN, TURN_BYTES
from netstore.node.member import OWN
from netstore.node.proposals import MAX_WAITING, MAX_WAITING_BYTES, Proposals, Slot
from netstore.state.envelope import command_of
from netstore.types import Nanos, Term
from tests.support.local_member import HandClock


def commands(slots: list[Slot]) -> list[bytes]:
    return [command_of(slot.payload) for slot in slots]


def wall_of(payload: bytes) -> int:
    return int.from_bytes(payload[12:20], "little")


def queue(*what: tuple[bytes, bytes]) -> Proposals:
    """Proposals of these principals."""
    made = Proposals(1, 10.0)
    for principal, command in what:
        made.add(command, lambda _: None, principal)
    return made


def test_a_client_that_writes_without_a_pause_delays_only_itself() -> None:
    made = queue(*((b"flood", b"f%d" % number) for number in range(1000)), (b"other", b"o"))
    first = commands(made.take(100))
    assert first.index(b"o") == TURN
    assert len(first) == 100
    assert made.queued


def test_a_client_that_writes_much_at_a_time_delays_only_itself() -> None:
    """By bytes as by count: nothing is taken that has to be put back, before everybody else."""
    large = bytes(TURN_BYTES // 2)
    made = queue(*[(b"flood", large)] * 60, (b"other", b"o"), (b"", b"own"))
    taken = commands(made.take(512, 8 * TURN_BYTES))
    assert (taken[0], taken.index(b"o")) == (b"own", 3)
    assert sum(map(len, taken)) <= 8 * TURN_BYTES + len(large)
    made.add(b"again", lambda _: None, b"other")
    made.add(b"own again", lambda _: None, OWN)
    taken = commands(made.take(512, 8 * TURN_BYTES))
    assert taken[0] == b"own again"
    assert taken.index(b"again") <= 3


def test_one_payload_is_taken_however_large() -> None:
    made = queue((b"ann", bytes(5000)), (b"ann", b"1"), (b"bob", b"2"))
    made.put_back(made.take(1, 10))
    assert [len(made.take(9, 10)) for _ in range(4)] == [1, 1, 1, 0]


def test_the_addresses_of_one_ipv6_network_have_one_line() -> None:
    many = ((b"2001:db8::%x" % number, b"f%d" % number) for number in range(200))
    made = queue(*many, (b"2001:db8:0:1::1", b"o"))
    assert commands(made.take(100)).index(b"o") == TURN
    made.fail_all(timed_out())
    assert (made.size, made._shares) == (0, None)


def test_the_members_own_go_first_and_what_was_taken_in_vain_goes_before_what_came_later() -> None:
    made = queue((b"a", b"1"), (b"", b"own"), (b"a", b"2"))
    taken = made.take(2)
    assert commands(taken) == [b"own", b"1"]
    made.put_back(taken)
    made.add(b"end", lambda _: None, OWN)
    assert commands(made.take(9)) == [b"own", b"end", b"1", b"2"]
    assert not made.queued


def test_slots_put_back_keep_their_place_among_lost_ones() -> None:
    """However much of either there is."""
    made = queue(*((b"ann", b"%d" % number) for number in range(900)))
    made.sent(Term(1), made.take(700))
    made.put_back(made.take(100))
    made.requeue_lost(Term(2))
    for most in (512, 100):
        made.put_back(made.take(most))
    assert commands(made.take(512) + made.take(512)) == [b"%d" % number for number in range(900)]
    assert not made.queued


@pytest.mark.parametrize("origin", [1, (1 << 64) - 3])
def test_slots_lost_at_different_times_are_in_their_order_again(origin: int) -> None:
    """Whichever leader each was given to, and however ids are counted."""
    made = Proposals(origin, 10.0)
    for number in range(6):
        for principal in (b"ann", b"bob"):
            made.add(b"%b-%d" % (principal, number), lambda _: None, principal)
    first, second = made.take(6), made.take(6)
    made.sent(Term(1), [*first[:2], *second[:3]])
    made.put_back([*first[2:], *second[3:]])
    made.requeue_lost(Term(2))
    made.sent(Term(2), taken := made.take(5))
    made.complete(taken[0].request, None)
    made.put_back(made.take(4))
    made.requeue_lost(Term(3))
    again = commands(made.take(99))
    assert len(again) == 11
    for principal in (b"ann", b"bob"):
        own = [command for command in again if command.startswith(principal)]
        assert own == sorted(own)


def test_a_request_waits_until_it_is_handed_on_or_completed() -> None:
    made = Proposals(1, 10.0)
    slots = [made.add(command, lambda _: None, b"ann") for command in (b"1", b"2")]

    def waiting() -> list[bool]:
        return [slot is not None and slot.waits for slot in slots]

    made.put_back(made.take(2))
    assert waiting() == [True, True]
    made.sent(Term(3), first := made.take(1))
    assert waiting() == [False, True]
    made.requeue_lost(Term(4))
    assert waiting() == [True, True], "nobody can apply it any more before it is proposed again"
    made.refuse(first, timed_out())
    assert waiting() == [False, True]


def test_lost_slots_delay_no_other_client() -> None:
    large, small = bytes(5_000), bytes(10)
    made = queue(*[(b"large", large)] * 4)
    made.sent(Term(1), made.take(9))
    made.requeue_lost(Term(2))
    for _ in range(9):
        made.add(small, lambda _: None, b"small")
    assert [slot.owner for slot in made.take(99, 1_000, fitting=True)] == ["small"] * 9
    assert [slot.owner for slot in made.take(99)] == ["large"] * 4


@given(st.lists(st.sampled_from([b"", b"a", b"b", b"c"]), max_size=200), st.integers(1, 50))
def test_nothing_is_lost_and_each_principal_keeps_its_order(what: list[bytes], most: int) -> None:
    numbered = [(principal, b"%b-%d" % (principal, number)) for number, principal in enumerate(what)]
    made = queue(*numbered)
    taken: list[bytes] = []
    while made.queued:
        batch = commands(made.take(most))
        assert 0 < len(batch) <= most
        taken += batch
    assert sorted(taken) == sorted(command for _, command in numbered)
    for principal in (b"", b"a", b"b", b"c"):
        own = [command for command in taken if command.startswith(principal + b"-")]
        assert own == [command for each, command in numbered if each == principal]


def test_slots_that_timed_out_are_not_proposed() -> None:
    made = queue((b"a", b"1"), (b"", b"own"))
    made.now = 11.0
    made.expire(timed_out, 1000)
    assert not made.queued


def test_only_what_was_handed_to_raft_is_given_up() -> None:
    made = queue(*((b"ann", b"%d" % number) for number in range(9)))
    made.sent(Term(1), made.take(3))
    made.requeue_lost(Term(2))
    made.sent(Term(2), made.take(2))
    assert made.give_up_sent(timed_out(), 1)
    made.give_up_sent(timed_out(), 9)
    assert commands(made.take(9)) == [b"%d" % number for number in range(2, 9)]


def test_a_slot_that_timed_out_is_taken_from_no_queue() -> None:
    made = queue((b"ann", b"old"), (b"", b"older"))
    made.now = 9.0
    made.add(b"young", lambda _: None, b"bob")
    made.sent(Term(1), made.take(2))
    made.put_back(made.take(9))
    made.requeue_lost(Term(2))
    made.put_back(sorted(made.take(9), key=lambda slot: -slot.request))
    made.now = 11.0
    assert made.expire(timed_out, 1000) == 2
    assert commands(made.take(9)) == [b"young"]
    assert (len(made), made.queued) == (1, False)


def test_one_principal_leaves_half_of_the_places_to_the_others_and_the_rest_to_the_member() -> None:
    made = queue(*((b"flood", b"x") for _ in range(MAX_WAITING)))
    assert len(made) == MAX_WAITING // 2
    for principal, most in ((b"other", MAX_WAITING // PARTS), (b"", MAX_WAITING)):
        before = len(made)
        for _ in range(most + 1):
            made.add(b"y", lambda _: None, principal)
        assert len(made) == min(before + most, MAX_WAITING)
    made.fail_all(timed_out())
    made.add(b"x", lambda _: None, b"flood")
    assert len(made) == 1


def _note(refused: list[bytes], principal: bytes, _: object) -> None:
    refused.append(principal)


def test_one_principal_leaves_half_of_the_bytes_to_the_others() -> None:
    made = Proposals(1, 10.0)
    refused: list[bytes] = []
    large = bytes(1 << 20)
    for principal in (b"flood", b"other"):
        for _ in range(MAX_WAITING_BYTES >> 20):
            made.add(large, partial(_note, refused, principal), principal)
    assert len(made) == (MAX_WAITING_BYTES >> 20) * (PARTS + 2) // (2 * PARTS) - 1
    assert set(refused) == {b"flood", b"other"}
    made.fail_all(timed_out())
    assert (made.size, made._shares) == (0, None)


def test_shares_that_are_counted_late_are_those_that_were_counted_all_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("MAX_WAITING", 40),
        ("_SHARED", 20),
        ("MAX_WAITING_BYTES", 400),
        ("_SHARED_BYTES", 200),
    ):
        monkeypatch.setattr(proposals, name, value)
    made, draw = Proposals(1, 10.0), Random(7)  # noqa: S311 - repeatable
    always, counted = WeighedAdmission(40, 400), 0
    waiting: list[Slot] = []
    for _ in range(20_000):
        owner = draw.choice(("ann", "bob", "eve", ""))
        command = bytes(draw.choice((3, 7, 15, 40)))
        slot = made.add(command, lambda _: None, owner.encode())
        is_room = len(waiting) < 40 and always.enter(owner, len(command) + 1, 1 if owner else 0)
        assert (slot is not None) == is_room
        if slot is not None:
            waiting.append(slot)
        while waiting and draw.random() < (0.45 if always.taken < 30 else 0.9):
            gone = waiting.pop(draw.randrange(len(waiting)))
            made.complete(gone.request, None)
            always.leave(gone.owner, gone.size, 1 if gone.owner else 0)
        assert made.size == always.size
        counted += made._shares is not None
    assert 1_000 < counted < 19_000, "both ways were taken"


def test_a_leader_refuses_only_what_it_was_given_in_its_term() -> None:
    """Another one may have done since what it was given then; and what a state copy may hold is not known."""
    made = queue(*((b"ann", b"%d" % number) for number in range(5)))
    slots = made.take(5)
    one, two, three, four, five = (slot.request for slot in slots)
    made.sent(Term(1), slots[:3])
    made.sent(Term(2), slots[3:4])
    assert made.refused(Term(1), [one, 77, four, five]) == slots[:1]
    made.requeue_lost(Term(2))
    assert [slot.request for slot in made.take(9)] == [two, three], "what is refused is not sent again"
    made.sent(Term(2), slots[1:3])
    assert made.refused(Term(1), [two]) == []
    made.snapshot_installed()
    assert made.refused(Term(2), [two, three, four]) == []


def test_a_stopped_member_refuses_every_request_and_opens_no_slot() -> None:
    proposals = Proposals(1, 10.0)
    proposals.is_stopped = True
    told: list[object] = []
    assert proposals.open(b"change", told.append, OWN) is None
    proposals.add(b"put", told.append, b"ann")
    assert told == [stopped(), stopped()]
    assert not proposals
    assert not proposals.queued


def test_a_request_to_a_quiet_member_has_the_time_at_which_it_came() -> None:
    """No turn has set the time for a while."""
    clock = HandClock(Nanos(5_000_000_000))
    made = Proposals(1, 10.0, clock)
    made.now, made.wall = 4.0, Nanos(4_000_000_000)
    made.add(b"first", lambda _: None, b"ann")
    clock.now = Nanos(6_000_000_000)
    made.add(b"while one waits", lambda _: None, b"ann")
    slots = made.take(2)
    assert [wall_of(slot.payload) for slot in slots] == [5_000_000_000] * 2
    assert [slot.late_at for slot in slots] == [15.0] * 2
    made.fail_all(timed_out())
    made.add(b"later", lambda _: None, b"ann")
    (slot,) = made.take(2)
    assert (wall_of(slot.payload), slot.late_at) == (6_000_000_000, 16.0)
