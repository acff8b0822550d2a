"""Large forms: what is read in pieces is what is read in one, with others answered meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.v2 import form, formreader
from netstore.api.v2.form import (
    FORM_LIMIT_BYTES,
    MAX_PAIRS,
    PIECE_BYTES,
    Parameters,
    parameters_in_pieces,
    parameters_of,
)
from netstore.errors import Fault, too_many
from netstore.net.exchange import Request
from tests.support.http import Wire
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1024 * 1024
FORM = b"application/x-www-form-urlencoded"
LARGE = b"value=" + b"%41%ff+%e2" * (MB // 10)
VALUE = b"A\xff \xe2" * (MB // 10)


def asked(
    member: LocalMember, body: bytes, query: bytes = b"", method: bytes = b"PUT", principal: str = "here"
) -> RecordedExchange:
    """A request that is not worked on by itself."""
    request = Request(method, b"/v2/keys/a", query, body, FORM)
    exchange = RecordedExchange(request, principal=principal)
    member.router.handle(exchange)
    return exchange


def nothing_is_held(member: LocalMember) -> bool:
    return not len(member.jobs) and not member.keys._form_readers._places.taken


# The same outcome


def whole(request: Request) -> Parameters | Fault:
    try:
        return parameters_of(request)
    except Fault as fault:
        return fault


def pieced(request: Request) -> tuple[Parameters | Fault, list[int]]:
    """What comes of a request that is read in pieces, and the work of these."""
    works = []
    pieces = parameters_in_pieces(request)
    try:
        while True:
            works.append(next(pieces))
    except StopIteration as end:
        outcome: Parameters | Fault = end.value
    except Fault as fault:
        outcome = fault
    return outcome, works


NAMES = (b"value", b"ttl", b"prevValue", b"prevIndex", b"dir", b"recursive", b"noValueOnSuccess", b"n" * 20)
TEXTS = st.lists(
    st.one_of(
        st.integers(0, 255).map(lambda byte: b"%%%02x" % byte),
        st.integers(0, 255).map(lambda byte: b"%%%02X" % byte),
        st.sampled_from((b"+", b"a", b"=", b"true", b"0", b"7", b"\xff", b"\xe2\x82\xac", b"\r\n", b"%2B")),
        st.binary(max_size=3).map(lambda data: data.translate(None, b"%;&")),
    ),
    max_size=12,
).map(b"".join)
BROKEN = st.sampled_from((b"%", b"%4", b"%g1", b"%1g", b"%%41", b"%=", b"%+a", b"%&", b"%4&", b"%%%", b";"))
PARTS = st.one_of(*(TEXTS,) * 6, BROKEN)
PAIRS = st.tuples(
    st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).map(lambda name: b"%76" + name[1:]), PARTS),
    st.sampled_from((b"=", b"=", b"=", b"==", b"")),
    st.lists(PARTS, max_size=3).map(b"".join),
).map(b"".join)
FORMS = st.lists(PAIRS, max_size=6).map(b"&".join)
QUERIES = st.one_of(st.just(b""), st.just(b""), FORMS)


def test_the_longest_name_is_read_in_pieces_too() -> None:
    body = b"value=" + b"%41" * form.PIECE_BYTES + b"&noValueOnSuccess=true"
    outcome, works = pieced(Request(b"PUT", b"/v2/keys/a", b"", body, FORM))
    assert isinstance(outcome, Parameters)
    assert outcome.no_value
    assert len(works) > 1


@given(FORMS, QUERIES, st.integers(2, 9), st.sampled_from((b"PUT", b"POST", b"DELETE")))
def test_what_is_read_in_pieces_is_what_is_read_in_one(
    body: bytes, query: bytes, size: int, method: bytes
) -> None:
    request = Request(method, b"/v2/keys/a", query, body, FORM)
    wanted = whole(request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "PIECE_BYTES", size)
        outcome, works = pieced(request)
    assert outcome == wanted
    assert max(works, default=0) <= max(form.PAIR_WORK, size + 2)


@pytest.mark.parametrize("content_type", [None, b"text/plain", b"a b", FORM + b";", b"application/json"])
def test_a_body_of_another_kind_is_treated_alike(content_type: bytes | None) -> None:
    request = Request(b"PUT", b"/v2/keys/a", b"ttl=1", LARGE, content_type)
    assert pieced(request)[0] == whole(request)


@pytest.mark.parametrize(
    "body",
    [
        LARGE,
        LARGE[: PIECE_BYTES - 1] + b"%zz",
        LARGE + b"%4",
        LARGE + b"&ttl=5&dir=false",
        b"prevValue=" + LARGE[6:] + b"&value=x",
        b"value=1&prevExist=" + b"true" * MB,
        b"ttl=" + b"0" * MB + b"77",
        b"ttl=" + b"0" * MB + b"x7",
        b"ttl=" + b"0" * MB + b"1" * 21,
        b"value=" + b"+" * MB,
        b"&" * (MAX_PAIRS - 1) + LARGE,
        b"&" * MAX_PAIRS + LARGE + b";",
        LARGE + b"&a;b&%zz",
        b"n" * MB + b"=1&value=1",
        b"&".join(b"n%d=" % number + b"%41" * 1000 for number in range(MAX_PAIRS)),
        b"value=" + b"x" * (FORM_LIMIT_BYTES - 6),
        b"value=" + b"x" * (FORM_LIMIT_BYTES - 5),
    ],
)
def test_a_large_form_means_the_same(body: bytes) -> None:
    request = Request(b"PUT", b"/v2/keys/a", b"", body, FORM)
    outcome, works = pieced(request)
    assert outcome == whole(request)
    assert max(works, default=0) <= PIECE_BYTES + 2


# Others meanwhile


def test_a_large_form_is_read_in_steps_and_others_are_answered_meanwhile() -> None:
    member = LocalMember()
    exchange = asked(member, LARGE)
    steps = 0
    while member.keys._form_readers._places.taken:
        assert exchange.status == 0
        assert asked(member, b"value=1", b"", b"DELETE").done
        before = exchange.charged
        member.jobs.run(1)
        assert exchange.charged <= before + 3 * PIECE_BYTES * formreader.WORK_SECONDS
        steps += 1
    assert steps >= len(LARGE) // (2 * PIECE_BYTES)
    assert exchange.charged >= len(LARGE) * formreader.WORK_SECONDS
    assert exchange.status == 201
    node = file_at(member.machine.tree, b"/a")
    assert node is not None
    assert node.value == VALUE


@pytest.mark.parametrize(
    "body", [b"value=" + b"%41" * (PIECE_BYTES // 3 - 2), b"value=" + b"x" * MB], ids=["small", "plain"]
)
def test_what_is_little_work_is_read_at_once(body: bytes) -> None:
    member = LocalMember()
    exchange = asked(member, body)
    assert (exchange.status, exchange.charged) == (201, 0)
    assert nothing_is_held(member)


@pytest.mark.parametrize("method", [b"PUT", b"POST"])
def test_what_is_wrong_with_a_large_form_is_told(method: bytes) -> None:
    member = LocalMember()
    exchange = asked(member, LARGE + b"%zz", method=method)
    assert not exchange.done
    while member.jobs.ready:
        member.jobs.run(1)
    assert exchange.status == 400
    assert b'"cause":"invalid URL escape \\"%zz\\""' in exchange.body
    assert nothing_is_held(member)


def test_a_form_whose_client_is_gone_is_not_read_on() -> None:
    member = LocalMember()
    exchange = asked(member, LARGE)
    member.jobs.run(3)
    index = member.commit_index
    exchange.hang_up()
    assert nothing_is_held(member)
    assert not member.jobs.ready
    assert (exchange.status, member.commit_index) == (0, index)


def _bytes_are_held(member: LocalMember, _: pytest.MonkeyPatch) -> None:
    member.keys._form_readers._places.most = MB


def _jobs_are_refused(member: LocalMember, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(member.jobs, "start", lambda *_: too_many())


@pytest.mark.parametrize("bound", [_bytes_are_held, _jobs_are_refused])
def test_beyond_the_bound_a_large_form_is_refused(
    bound: Callable[[LocalMember, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    member = LocalMember()
    first = asked(member, LARGE)
    with monkeypatch.context() as patch:
        bound(member, patch)
        second = asked(member, LARGE)
        assert second.status == 500
        assert b"too many requests" in second.body
    while member.jobs.ready:
        member.jobs.run(1)
        first.take()
    assert first.done
    assert nothing_is_held(member)


def test_an_answer_that_cannot_be_made_cuts_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    member = LocalMember()
    monkeypatch.setattr(member, "propose", lambda *_: 1 / 0)
    monkeypatch.setattr(member.jobs._log, "error", lambda *_, **__: None)
    exchange = asked(member, LARGE)
    while member.jobs.ready:
        member.jobs.run(1)
    assert (exchange.status, exchange.done) == (0, True)
    assert nothing_is_held(member)


# Its place on the connection


def put(body: bytes) -> bytes:
    head = b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (FORM, len(body)) + body


def connection_with(member: LocalMember, *bodies: bytes) -> Wire:
    """A connection on which these forms were put one behind the other."""
    wire = Wire()
    wire.server.handle = member.router.handle
    wire.feed(b"".join(map(put, bodies)))
    return wire


def test_what_follows_a_large_form_does_not_overtake_it() -> None:
    member = LocalMember()
    wire = connection_with(member, LARGE[: 6 + MB // 20 * 10], b"value=last")
    while member.jobs.ready:
        assert file_at(member.machine.tree, b"/a") is None or not member.keys._form_readers._places.taken
        member.jobs.run(1)
        wire.connection.resume()
    assert wire.output.sent.count(b"HTTP/1.1 20") == 2
    node = file_at(member.machine.tree, b"/a")
    assert node is not None
    assert node.value == b"last"
    assert wire.output.charged > 0
    assert not wire.connection.deferred


def test_who_has_sent_its_last_is_answered_and_who_is_lost_is_not() -> None:
    member = LocalMember()
    ended = connection_with(member, LARGE)
    lost = connection_with(member, LARGE)
    ended.connection.eof()
    lost.connection.gone()
    assert len(member.jobs) == 1
    while member.jobs.ready:
        member.jobs.run(1)
    assert ended.output.sent.startswith(b"HTTP/1.1 201")
    assert lost.output.sent == b""
