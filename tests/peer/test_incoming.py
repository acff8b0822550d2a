"""Streams that others open, fed by hand: any bytes, in any pieces, before and after a proof."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from netstore.codec import crc32c
from netstore.disk.datadir import MemberIdentity
from netstore.limits import Budget
from netstore.peer import incoming as module
from netstore.peer import wire as wires
from netstore.peer.handshake import Secret
from netstore.peer.incoming import ENTRIES_A_MESSAGE, TAKEN_BYTES, TAKEN_MESSAGES, Guest, Guests
from netstore.peer.wire import (
    MAX_GREETING_BYTES,
    PING,
    Application,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Roster,
    StateNote,
    Verdict,
    Welcome,
    decode_roster,
    encode_batch,
    encode_document,
    frame,
    read_answer,
    read_frame,
)
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.messages import Append, Forward, Heartbeat, decode_in_pieces
from netstore.state.member import MemberInfo
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.raft_forms import damaged, extreme_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.net.tls import Credentials
    from netstore.raft.messages import Message

CLUSTER, ME, OTHER = ClusterId(0xC1), NodeId(0xA), NodeId(0xB)
SECRET = Secret("a token")
MEMBER = MemberInfo(ME, "me", ("http://c:1",), ("http://p:1",), learner=False, promote=False)
ROSTER = Roster(CLUSTER, NodeId(0), (MEMBER,))


class Wire:
    """A link of which only the near end exists."""

    def __init__(self) -> None:
        self.party: Guest
        self.open = True
        self.unsent = 0
        self.sent = b""
        self.reason = ""
        self.left: Callable[[], None] | None = None

    def write(self, data: bytes) -> None:
        self.sent += data

    def later(self, call: Callable[[], None]) -> None:
        assert self.left is None
        self.left = call

    def go_on(self) -> bool:
        """The next round, in which more is read only if this is False."""
        call, self.left = self.left, None
        if call is not None:
            call()
        return call is not None

    def cut(self, reason: str) -> None:
        if self.open:
            self.open, self.reason, self.left = False, reason, None
            self.party.gone(reason)


class Lodge:
    """A member that is called, and remembers what it was told."""

    def __init__(self) -> None:
        self.identity = MemberIdentity(CLUSTER, ME, "me")
        self.reactor: Any = None
        self.credentials: Credentials | None = None
        self.clock: Any = self
        self.got: list[Message] = []
        self.read = 0
        self.notes: list[StateNote] = []
        self.asked: list[Application | None] = []
        self.lines: list[object] = []
        self.now = 0.0
        self.guests = Guests(self, SECRET, Budget(1 << 20))

    def monotonic(self) -> float:
        return self.now

    def listed(self) -> set[NodeId]:
        return {ME, OTHER}

    def removed(self) -> set[NodeId]:
        return {NodeId(0xDEAD)}

    def copy_comes(self, _link: object, _sender: NodeId) -> None:
        return None

    def came(self, sender: NodeId) -> None:
        assert sender

    def deliver(self, messages: Sequence[Message], size: int) -> None:
        self.read += size
        self.got += messages

    def apply(self, application: Application | None, answer: Callable[[Roster], None]) -> None:
        self.asked.append(application)
        if application is None:
            answer(ROSTER)

    def noted(self, sender: NodeId, note: StateNote) -> None:
        assert sender
        self.notes.append(note)

    def note(self, about: object, event: str, **fields: object) -> None:
        self.lines.append((about, event, fields))

    def call(self, address: str = "10.0.0.1") -> Wire:
        """Somebody connects."""
        wire = Wire()
        guest = Guest(self.guests, address, certified=False)
        guest.link = wire  # type: ignore[assignment] # a link by what is used of it
        wire.party = guest
        self.guests.strangers[guest] = None
        return wire


def prove(wire: Wire, hello: Hello) -> None:
    """Greet as who knows the token."""
    said = structs.replace(hello, offer=Offer.TOKEN).encode()
    wire.party.received(said)
    found = read_answer(wire.sent)
    assert found is not None
    assert isinstance(found[0], Challenge)
    wire.sent = b""
    wire.party.received(Proof(SECRET.caller(said, found[0].encode())).encode())


def held(guests: Guests) -> int:
    return sum(len(guest._read) + guest._frames.held for guest in guests.strangers)


HELLOS = st.builds(
    Hello,
    st.sampled_from(Purpose),
    st.sampled_from([CLUSTER, ClusterId(0), ClusterId(1)]),
    st.sampled_from([OTHER, ME, NodeId(0), NodeId(0xDEAD), NodeId(2**64 - 1)]),
    st.sampled_from([ME, NodeId(0), OTHER]),
    st.text(max_size=20),
    st.just(bytes(32)),
    st.sampled_from(Offer),
)
QUESTIONS = st.sampled_from([None, Application("new", ("http://p:1",))]).map(
    lambda application: frame(encode_document(application))
)
GREETINGS = (
    HELLOS.map(Hello.encode)
    | QUESTIONS
    | st.binary(min_size=32, max_size=32).map(lambda proof: Proof(proof).encode())
)


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(damaged(GREETINGS) | GREETINGS | st.binary(max_size=3000), max_size=6),
    cuts=st.lists(st.integers(1, 2000), max_size=6),
)
def test_nobody_gets_further_by_any_bytes_than_to_a_challenge_or_the_list_of_members(
    pieces: list[bytes], cuts: list[int]
) -> None:
    lodge = Lodge()
    wire = lodge.call()
    data = b"".join(pieces)
    while data and wire.open:
        size = cuts.pop() if cuts else len(data)
        wire.party.received(data[:size])
        data = data[size:]
        assert held(lodge.guests) <= max(MAX_GREETING_BYTES + 15, module.MAX_QUESTION_BYTES + 8)
    assert not lodge.guests.members
    assert (lodge.got, lodge.notes) == ([], [])
    assert lodge.asked in ([], [None])
    assert len(wire.sent) <= 2 * MAX_GREETING_BYTES
    wire.cut("over")
    assert (lodge.guests.budget.used, len(lodge.guests.strangers)) == (0, 0)


FRAMES = (
    st.lists(extreme_messages(senders=(OTHER,), to=ME), min_size=1, max_size=4).map(encode_batch)
    | st.just(PING)
    | st.just(StateNote(Index(5), bytes(16)).encode())
    | st.just(frame(encode_document(None)))
    | st.binary(max_size=60).map(frame)
)


@settings(max_examples=300, deadline=None)
@given(
    purpose=st.sampled_from([Purpose.MESSAGES, Purpose.ROSTER]),
    pieces=st.lists(FRAMES | damaged(FRAMES), max_size=8),
    cuts=st.lists(st.integers(1, 90), max_size=12),
)
def test_a_member_that_sends_any_bytes_is_heard_or_hung_up_on(
    purpose: Purpose, pieces: list[bytes], cuts: list[int]
) -> None:
    lodge = Lodge()
    wire = lodge.call()
    prove(wire, Hello(purpose, CLUSTER, OTHER, ME, "test"))
    assert list(lodge.guests.members) == [wire.party]
    data = b"".join(pieces)
    while data and wire.open:
        size = cuts.pop() if cuts else len(data)
        wire.party.received(data[:size])
        data = data[size:]
        assert lodge.guests.budget.used == (wire.party._frames.held if wire.open else 0)
    assert all(message.sender == OTHER for message in lodge.got)
    wire.cut("over")
    assert (lodge.guests.budget.used, len(lodge.guests.members)) == (0, 0)


def test_who_was_removed_hears_so_with_a_proof_and_nobody_else_does() -> None:
    lodge = Lodge()
    removed = Hello(Purpose.MESSAGES, CLUSTER, NodeId(0xDEAD), ME, "test")
    wire = lodge.call()
    prove(wire, removed)
    found = read_answer(wire.sent)
    assert found is not None
    assert isinstance(found[0], Welcome)
    assert found[0].verdict == Verdict.REMOVED
    assert found[0].proof != bytes(32)
    wire = lodge.call()
    wire.party.received(structs.replace(removed, offer=Offer.TOKEN).encode())
    found = read_answer(wire.sent)
    assert found is not None
    assert isinstance(found[0], Challenge), "who has proved nothing is told nothing"


def test_a_frame_larger_than_the_share_comes_through_alone() -> None:
    lodge = Lodge()
    first, second = lodge.call(), lodge.call("10.0.0.2")
    prove(first, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    prove(second, Hello(Purpose.MESSAGES, CLUSTER, NodeId(0xC), ME, "test"))
    large = frame(bytes(3 << 20))
    first.party.received(large[: 2 << 20])
    assert first.open
    second.party.received(large[: module.UNREAD_BYTES])
    assert second.open, "a little is always held"
    second.party.received(large[module.UNREAD_BYTES : 1 << 20])
    assert "too many bytes of frames" in second.reason
    assert first.open


def test_the_late_are_hung_up_on_by_how_far_they_came() -> None:
    lodge = Lodge()
    silent, greeted, proved = lodge.call(), lodge.call(), lodge.call()
    greeted.party.received(Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test", offer=Offer.TOKEN).encode())
    prove(proved, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    lodge.now = module.PROVE_SECONDS - 0.1
    proved.party.received(PING)
    lodge.guests.look()
    assert silent.open
    assert greeted.open
    lodge.now = module.PROVE_SECONDS + 0.1
    lodge.guests.look()
    assert (silent.open, greeted.open, proved.open) == (False, False, True)
    lodge.now += module.SILENCE_SECONDS + 0.1
    lodge.guests.look()
    assert not proved.open


def test_room_is_made_by_the_silent_then_the_oldest_where_most_are() -> None:
    lodge = Lodge()
    crowd = [lodge.call("10.0.0.9") for _ in range(module.MAX_STRANGERS_AT_ONE)]
    for wire in (crowd[0], crowd[2]):
        wire.party.received(b"nst")
    for lost in (1, 3):
        lodge.guests.make_room("10.0.0.9")
        assert [crowd.index(wire) for wire in crowd if not wire.open][-1] == lost
        crowd.append(lodge.call("10.0.0.9"))
    lodge.guests.make_room("10.0.0.8")
    assert len(lodge.guests.strangers) == module.MAX_STRANGERS_AT_ONE, "there is room for others"
    for number in range(module.MAX_STRANGERS - module.MAX_STRANGERS_AT_ONE):
        lodge.guests.make_room(f"10.0.1.{number}")
        lodge.call(f"10.0.1.{number}")
    assert len(lodge.guests.strangers) == module.MAX_STRANGERS
    lodge.guests.make_room("10.0.2.1")
    assert not crowd[4].open, "who has most pays for a newcomer elsewhere"
    for wire in crowd:
        if wire.open:
            wire.party.received(b"nst"[: 3 - len(wire.party._read)] or b"p")
    lodge.call("10.0.2.1")
    lodge.guests.make_room("10.0.2.2")
    assert not crowd[0].open, "where all have spoken the oldest goes"


def test_an_address_is_no_reason_to_push_out_who_proved_itself() -> None:
    lodge = Lodge()
    member = lodge.call("10.0.0.9")
    prove(member, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    for _ in range(3 * module.MAX_STRANGERS):
        lodge.guests.make_room("10.0.0.9")
        lodge.call("10.0.0.9")
    assert member.open
    assert len(lodge.guests.strangers) == module.MAX_STRANGERS_AT_ONE


def test_where_nobody_crowds_the_silent_go_before_who_spoke() -> None:
    """Whoever has a network of IPv6 addresses for each of its streams pushes out no honest caller."""
    lodge = Lodge()
    greeted, asking = lodge.call("2001:db8:0:1::1"), lodge.call("2001:db8:0:1::2")
    greeted.party.received(Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test", offer=Offer.TOKEN).encode())
    asking.party.received(b"nst")
    for number in range(3 * module.MAX_STRANGERS):
        address = f"2001:db8:1:{number:x}::1"
        lodge.guests.make_room(address)
        wire = lodge.call(address)
    assert (greeted.open, asking.open) == (True, True)
    assert len(lodge.guests.strangers) == module.MAX_STRANGERS
    for number in range(2 * module.MAX_STRANGERS):
        address = f"2001:db8:2:{number:x}::1"
        lodge.guests.make_room(address)
        wire = lodge.call(address)
        wire.party.received(b"nst")
    assert (greeted.open, asking.open) == (True, False), "the oldest of those goes that came least far"


def test_addresses_of_one_network_are_one_crowd() -> None:
    lodge = Lodge()
    for number in range(2 * module.MAX_STRANGERS):
        lodge.guests.make_room(f"2001:db8::{number:x}")
        lodge.call(f"2001:db8::{number:x}")
    assert len(lodge.guests.strangers) == module.MAX_STRANGERS_AT_ONE


def test_who_speaks_the_first_version_is_refused_so_that_it_can_read_it() -> None:
    """What it sent and how it read the answer is in the history: `net.peerwire` before proofs."""
    lodge = Lodge()
    wire = lodge.call()
    first = struct.pack("<BHHQQQ", 1, 1, 1, CLUSTER, OTHER, ME) + b"netstored 0.0.9"
    wire.party.received(struct.pack("<8sBHI", b"nstpeer\n", 1, len(first), crc32c(first)) + first)
    body = wire.sent[15:]
    assert struct.unpack_from("<BHQQ", body) == (Verdict.OTHER_VERSION, 1, CLUSTER, ME)
    assert body[19:] == b"speaks versions 1 to 1 of the peer protocol, this member 2 to 3"
    assert (wire.reason, lodge.got) == ("refused", [])


def test_who_does_not_know_the_token_gets_nothing_made_of_it() -> None:
    lodge = Lodge()
    wire = lodge.call()
    wire.party.received(Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test", offer=Offer.TOKEN).encode())
    found = read_answer(wire.sent)
    assert found is not None
    wire.sent = b""
    wire.party.received(Proof(bytes(32)).encode())
    welcome, _ = told(wire)
    assert (welcome.verdict, welcome.proof) == (Verdict.NOT_PROVED, bytes(32))


def test_a_roster_stream_has_one_question() -> None:
    lodge = Lodge()
    question = frame(encode_document(None))
    wire = lodge.call()
    prove(wire, ASKING)
    wire.unsent = 7  # what the kernel does not take
    wire.party.received(question)
    assert lodge.guests.budget.used == 7, "an answer that is owed is counted"
    wire.party.received(question)
    assert "more than one thing" in wire.reason
    assert lodge.guests.budget.used == 0
    assert lodge.asked == [None]
    wire = lodge.call()
    prove(wire, ASKING)
    wire.party.received(question * 1000)
    assert "more than one thing" in wire.reason
    assert lodge.asked == [None]


def test_few_may_ask_at_once() -> None:
    lodge = Lodge()
    asking = Hello(Purpose.ROSTER, ClusterId(0), NodeId(0), NodeId(0), "test")
    wires = [lodge.call() for _ in range(module.MAX_ASKING)]
    for wire in wires:
        prove(wire, asking)
    late = lodge.call()
    prove(late, asking)
    assert all(wire.open for wire in wires)
    assert (late.open, late.reason) == (False, "refused")


ASKING = Hello(Purpose.ROSTER, ClusterId(0), NodeId(0), NodeId(0), "x")


def told(wire: Wire) -> tuple[Welcome, Roster | None]:
    """What a caller without a proof was answered."""
    found = read_answer(wire.sent)
    assert found is not None
    welcome, length = found
    assert isinstance(welcome, Welcome)
    assert welcome.proof == bytes(32), "it proves nothing to who proves nothing"
    payload = read_frame(wire.sent, 1 << 20, length)
    return welcome, None if payload is None else decode_roster(payload[0])


def test_who_offers_no_proof_is_told_who_is_in_the_cluster_and_hung_up_on() -> None:
    lodge = Lodge()
    for cut in (1000, 1, 15, len(ASKING.encode()), len(ASKING.encode()) + 3):
        wire = lodge.call()
        data = ASKING.encode() + frame(encode_document(None))
        wire.party.received(data[:cut])
        if cut < len(data):
            wire.party.received(data[cut:])
        welcome, roster = told(wire)
        assert (welcome.verdict, roster) == (Verdict.ACCEPTED, ROSTER)
        assert (wire.open, wire.reason) == (False, "answered")
    assert not lodge.lines, "it is no news"


def test_who_offers_no_proof_and_wants_to_join_is_told_what_it_needs() -> None:
    lodge = Lodge()
    wire = lodge.call()
    wish = Application("evil", ("http://127.0.0.1:9",), OTHER)
    wire.party.received(ASKING.encode() + frame(encode_document(wish)))
    welcome, roster = told(wire)
    assert (welcome.verdict, roster) == (
        Verdict.ACCEPTED,
        structs.replace(ROSTER, refusal=module.JOINING_NEEDS),
    )
    assert "netstorectl member token" in module.JOINING_NEEDS
    assert lodge.asked == [None], "nobody hears of the wish"
    assert len(lodge.lines) == 1
    assert not wire.open


def test_who_offers_no_proof_is_refused_everything_else_at_once() -> None:
    lodge = Lodge()
    for purpose in (Purpose.MESSAGES, Purpose.IMAGE):
        for more in (b"", PING, bytes(2000)):
            wire = lodge.call()
            wire.party.received(Hello(purpose, CLUSTER, OTHER, ME, "x").encode() + more)
            welcome, _ = told(wire)
            assert (welcome.verdict, wire.open) == (Verdict.NOT_PROVED, False)
            assert "offers no proof" in welcome.text
    assert not lodge.guests.members
    assert len(lodge.lines) == 6


def test_a_certificate_is_a_proof_for_who_offers_no_other() -> None:
    lodge = Lodge()
    wire = lodge.call()
    wire.party._certified = True
    wire.party.received(ASKING.encode() + frame(encode_document(None)))
    assert list(lodge.guests.members) == [wire.party]
    assert told(wire) == (Welcome(Verdict.ACCEPTED, CLUSTER, ME), ROSTER)


def test_a_stranger_asks_one_thing_and_does_not_stay_for_it() -> None:
    lodge = Lodge()
    question = frame(encode_document(None))
    for more in (question + question, question + b"x", frame(bytes(module.MAX_QUESTION_BYTES + 1))):
        wire = lodge.call()
        wire.party.received(ASKING.encode() + more)
        assert (wire.open, told(wire)[1]) == (False, None)
    slow = lodge.call()
    slow.unsent = 1  # what the kernel does not take
    slow.party.received(ASKING.encode() + question)
    assert slow.open
    slow.party.received(question)
    assert "more than one thing" in slow.reason
    slow = lodge.call()
    slow.unsent = 1
    slow.party.received(ASKING.encode() + question)
    slow.party.flushed()
    assert slow.reason == "answered"
    waiting = lodge.call()
    waiting.party.received(ASKING.encode())
    lodge.now = module.PROVE_SECONDS + 0.1
    lodge.guests.look()
    assert not waiting.open


def test_answers_to_strangers_are_rationed_and_few_are_owed() -> None:
    lodge = Lodge()
    data = ASKING.encode() + frame(encode_document(None))
    owed = [lodge.call() for _ in range(module.MAX_ASKING)]
    for wire in owed:
        wire.party.received(ASKING.encode())
        wire.unsent = 1
        wire.party.received(frame(encode_document(None)))
        assert wire.open
    late = lodge.call()
    late.party.received(data)
    assert (told(late)[0].verdict, late.open) == (Verdict.BUSY, False)
    for wire in owed:
        wire.cut("over")
    for _ in range(module.ANSWERS_BURST - module.MAX_ASKING):
        wire = lodge.call()
        wire.party.received(data)
        assert told(wire)[0].verdict == Verdict.ACCEPTED
    late = lodge.call()
    late.party.received(data)
    assert told(late)[0].verdict == Verdict.BUSY
    lodge.now += 1.0
    again = lodge.call()
    again.party.received(data)
    assert told(again)[1] == ROSTER


def test_a_listener_that_cannot_be_watched_rests_on() -> None:
    """In the task that keeps all streams: what it raised would end the member."""
    lodge = Lodge()
    faults = [OSError(errno.ENOSPC, "No space left on device")] * 2
    watched: list[int] = []

    class Kernel:
        def attend(self, fd: int, *_: object) -> None:
            if faults:
                raise faults.pop()
            watched.append(fd)

    lodge.reactor = Kernel()
    with socket.socket() as sock:
        lodge.guests._listeners[sock] = lambda _: None
        lodge.guests._resting.append(sock)
        for left in (1, 0):
            lodge.guests.look()
            assert (len(faults), lodge.guests._resting) == (left, [sock])
        assert lodge.lines
        lodge.guests.look()
        assert (watched, lodge.guests._resting) == ([sock.fileno()], [])


def test_much_that_was_read_at_once_is_taken_in_pieces_and_in_order() -> None:
    lodge = Lodge()
    wire = lodge.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    beats = [Heartbeat(OTHER, ME, Term(1), Index(number), 0) for number in range(1000)]
    data = b"".join(encode_batch([beat]) for beat in beats)
    wire.party.received(data)
    assert lodge.read == len(data)
    taken = [len(lodge.got)]
    while wire.go_on():
        taken.append(len(lodge.got))
    assert taken == [TAKEN_MESSAGES // 2, TAKEN_MESSAGES, 3 * TAKEN_MESSAGES // 2, 1000]
    assert lodge.got == beats
    assert lodge.read == len(data)


def test_large_frames_that_were_read_at_once_are_taken_in_pieces() -> None:
    lodge = Lodge()
    wire = lodge.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    entry = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(TAKEN_BYTES // 2))
    append = encode_batch([Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), (entry,))])
    wire.party.received(append * 5)
    taken = [len(lodge.got)]
    while wire.go_on():
        taken.append(len(lodge.got))
    assert taken == [2, 4, 5]


@pytest.mark.parametrize("what", ["messages in one frame", "forwarded requests", "small entries", "pings"])
def test_no_turn_takes_more_apart_than_its_bound(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is a member may write frames that this program would not."""
    lodge = Lodge()
    wire = lodge.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    made: list[Message] = []
    if what == "pings":
        data = PING * 5000
    elif what == "forwarded requests":
        payloads = [number.to_bytes(2) for number in range(5000)]
        data = encode_batch([Forward(OTHER, ME, Term(1), EntryKind.NORMAL, payloads)])
    elif what == "small entries":
        entries = [Entry(Index(place), Term(1), EntryKind.NORMAL, b"") for place in range(1, 20_001)]
        data = encode_batch([Append(OTHER, ME, Term(1), Index(0), Term(0), Index(0), entries)])
    else:
        monkeypatch.setattr(wires, "FRAME_MESSAGES", 5000)
        beats = [Heartbeat(OTHER, ME, Term(1), Index(number), 0) for number in range(5000)]
        data = encode_batch(beats)

    def parts(message: Message) -> float:
        if isinstance(message, Append):
            return len(message.entries) / ENTRIES_A_MESSAGE
        return len(message.payloads) if isinstance(message, Forward) else 1

    def counted(*arguments: Any) -> Iterator[Message]:
        for message in decode_in_pieces(*arguments):
            made.append(message)
            yield message

    monkeypatch.setattr(wires, "decode_in_pieces", counted)
    wire.sent = b""
    wire.unsent = 0
    wire.party.received(data)
    lodge.now += 100
    turns = 0
    while True:
        turns += 1
        size = sum(parts(each) for each in made)
        assert size + len(wire.sent) // len(PING) <= turns * TAKEN_MESSAGES
        if wire.left is not None:
            assert lodge.guests.budget.used > 0, "what was read and not taken is charged"
        if not wire.go_on():
            break
        assert wire.party.deadline > lodge.now, "who is still being heard is not silent"
    assert turns >= 5000 // TAKEN_MESSAGES
    assert lodge.guests.budget.used == 0
    if what == "pings":
        assert wire.sent == data
    elif what == "forwarded requests":
        forwards = [each for each in lodge.got if isinstance(each, Forward)]
        assert [payload for each in forwards for payload in each.payloads] == payloads
    elif what == "small entries":
        appends = [each for each in lodge.got if isinstance(each, Append)]
        assert [entry for each in appends for entry in each.entries] == entries
    else:
        assert lodge.got == beats


def test_what_makes_no_sense_ends_the_stream_also_in_a_later_piece() -> None:
    lodge = Lodge()
    wire = lodge.call()
    prove(wire, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    beat = encode_batch([Heartbeat(OTHER, ME, Term(1), Index(1), 0)])
    wire.party.received(beat * TAKEN_MESSAGES + frame(b"nonsense") + beat)
    was_open = wire.open
    while wire.go_on():
        pass
    assert (was_open, wire.open) == (True, False)
    assert len(lodge.got) < TAKEN_MESSAGES + 1
    assert lodge.guests.budget.used == 0
