"""Large values: the same bytes as in one piece, shown in pieces between which others are answered."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.v2 import delivery, keys, render
from netstore.api.v2 import form as forms
from netstore.api.v2.render import PIECE_BYTES, Renderer, Rendering, json_string, string_parts
from netstore.errors import Fault, too_many
from netstore.net.exchange import Request
from netstore.state.v2 import tree
from netstore.types import ClusterId, EtcdIndex, Event, Nanos, NodeView
from tests.net.http2.test_exchange import Site
from tests.support.http import Wire
from tests.support.local_member import START, LocalMember, RecordedExchange
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MB = 1024 * 1024
RANDOM = Random(1).randbytes(MB)  # noqa: S311 - no secret
LONGEST_PIECE = 6 * PIECE_BYTES + 100
"""Bytes that a piece comes to at most: every byte is six."""

BYTES = st.one_of(
    st.binary(),
    st.lists(
        st.sampled_from((b"a", b"\xe2", b"\x82", b"\xac", b"\xf0\x9f\x98\x80", b"<", b"\b", b"?", b"~"))
    ).map(b"".join),
    st.text().map(str.encode),
)
SIZES = st.integers(4, 9)


@cache
def form(value: bytes) -> bytes:
    return b"value=" + quote_from_bytes(value).encode()


def put(member: LocalMember, path: str, value: bytes, query: str = "") -> RecordedExchange:
    return asked(member, path, query, method=b"PUT", body=form(value))


def asked(
    member: LocalMember,
    path: str,
    query: str = "",
    *,
    method: bytes = b"GET",
    body: bytes = b"",
    principal: str = "here",
) -> RecordedExchange:
    """A request whose answer is not worked on by itself."""
    kind = b"application/x-www-form-urlencoded"
    request = Request(method, b"/v2/keys" + path.encode(), query.encode(), body, kind)
    exchange = RecordedExchange(request, principal=principal)
    member.router.handle(exchange)
    return exchange


def finish(member: LocalMember, *exchanges: RecordedExchange) -> int:
    """Do all there is to do while clients read; in how many steps."""
    steps = 0
    while member.jobs.ready:
        member.jobs.run(1)
        steps += 1
        for exchange in exchanges:
            exchange.take()
    return steps


def shown(value: bytes) -> bytes:
    return b'"value":' + json_string(value)


@pytest.fixture(autouse=True, scope="module")
def _forms_are_read_at_once() -> Iterator[None]:
    """What is counted here are the steps of answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "PIECE_BYTES", forms.FORM_LIMIT_BYTES)
        yield


@pytest.fixture
def member() -> LocalMember:
    """Has a large value at `/large` and a small one at `/small`."""
    made = LocalMember()
    put(made, "/small", b"1")
    answer = put(made, "/large", RANDOM)
    finish(made, answer)
    assert answer.done
    return made


# The same bytes


@given(BYTES, SIZES)
def test_pieces_of_a_string_are_the_string(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "PIECE_BYTES", size)
        parts = [part for part, _ in string_parts(data)]
    assert b"".join(parts) == json_string(data)
    assert len(parts) <= len(data) // (size - 3) + 1


@given(BYTES, SIZES, BYTES)
def test_pieces_of_an_event_are_the_event(value: bytes, size: int, name: bytes) -> None:
    renderer = Renderer(ClusterId(1), lambda _: 5.0)
    one, two = EtcdIndex(1), EtcdIndex(2)
    node = NodeView(b"/d/" + name, one, two, value, expires=Nanos(START + 5 * 10**9))
    below = NodeView(b"/d", one, two, dir=True, nodes=(node, NodeView(b"/d/b", one, two, value)))
    top = NodeView(b"/", EtcdIndex(0), EtcdIndex(0), dir=True, nodes=(below, below))
    for event in (Event("set", two, node, node), Event("get", two, top), Event("create", two, node)):
        whole = renderer.event(event)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(render, "PIECE_BYTES", size)
            rendering = Rendering(renderer.event_parts(event))
            made = [rendering.more(1)]
            while not rendering.over:
                made.append(rendering.more(1))
        assert b"".join(made) == whole


@given(BYTES.filter(bool), SIZES)
def test_pieces_of_a_refusal_are_the_refusal(cause: bytes, size: int) -> None:
    fault = Fault(101, cause, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "PIECE_BYTES", size)
        parts = [part for part, _ in Renderer.fault_parts(fault)]
    assert b"".join(parts) == Renderer.fault(fault)


# Answers


@pytest.mark.parametrize(
    "value", [RANDOM, b"\xff" * MB, b"\b" * MB, b"<" * MB], ids=["random", "ff", "bs", "lt"]
)
def test_an_answer_comes_whole_and_others_are_answered_meanwhile(value: bytes) -> None:
    member = LocalMember()
    put(member, "/small", b"1")
    answer = put(member, "/large", value)
    assert (answer.status, answer.done) == (201, False)
    steps = 0
    while not answer.done:
        member.jobs.run(1)
        answer.take()
        steps += 1
        assert asked(member, "/small").done
    assert steps >= 25
    assert max(map(len, answer.pieces)) <= 8 * LONGEST_PIECE
    assert len(member.jobs) == 0
    whole = Renderer(ClusterId(1), lambda _: 5.0).event(_event(member, "set"))
    assert answer.text == whole


def _event(member: LocalMember, action: str) -> Event:
    node = file_at(member.machine.tree, b"/large")
    assert node is not None
    return Event(action, member.machine.tree.index, node)


@pytest.mark.parametrize(
    ("method", "query", "status", "values"),
    [
        (b"GET", "", 200, 1),
        (b"GET", "quorum=true", 200, 1),
        (b"PUT", "", 200, 2),
        (b"PUT", "prevExist=true", 200, 2),
        (b"PUT", "prevIndex=5", 200, 2),
        (b"POST", "", 201, 1),
        (b"DELETE", "", 200, 1),
        (b"DELETE", "prevIndex=5", 200, 1),
    ],
)
def test_every_kind_of_answer_comes_in_pieces(
    member: LocalMember, method: bytes, query: str, status: int, values: int
) -> None:
    body = form(RANDOM) if method in {b"PUT", b"POST"} else b""
    answer = asked(member, "/large", query, method=method, body=body) if method != b"POST" else None
    if answer is None:
        answer = asked(member, "/queue", query, method=method, body=body)
    assert (answer.status, answer.done) == (status, False)
    assert finish(member, answer) >= 25 * values
    assert answer.done
    assert answer.text.count(shown(RANDOM)) == values


def test_a_refusal_that_names_two_values_comes_in_pieces(member: LocalMember) -> None:
    other = RANDOM[::-1]
    body = b"value=1&prevValue=" + quote_from_bytes(other).encode()
    answer = asked(member, "/large", method=b"PUT", body=body)
    assert (answer.status, answer.done) == (412, False)
    assert finish(member, answer) >= 50
    cause = b'"cause":' + json_string(b"[%b != %b]" % (other, RANDOM))
    assert cause in answer.text
    assert json.loads(answer.text)["errorCode"] == 101


@pytest.mark.parametrize(
    "value", [b"x" * (3 * MB // 2), "\u0436".encode() * (5 * MB // 8)], ids=["ascii", "text"]
)
def test_plain_text_is_answered_at_once(value: bytes) -> None:
    member = LocalMember()
    answer = put(member, "/large", value)
    assert (answer.done, answer.pieces) == (True, [])
    assert shown(value) in answer.body


def test_a_head_is_answered_without_a_body(member: LocalMember) -> None:
    answer = asked(member, "/large", method=b"HEAD")
    finish(member)
    assert (answer.status, answer.text, answer.done) == (200, b"", True)
    _nothing_is_held(member)


@pytest.mark.parametrize("path", ["/large", "/d"])
def test_a_head_behind_what_is_not_read_waits_for_nobody(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    put(member, "/d/a", b"1")
    monkeypatch.setattr(delivery, "BACKLOG_BYTES", -1)
    monkeypatch.setattr(tree, "SMALL_BYTES", 0)
    answer = asked(member, path, method=b"HEAD")
    finish(member)
    assert (answer.status, answer.done) == (200, True)
    _nothing_is_held(member)
    assert member.keys._listings._places.taken == 0


@pytest.mark.parametrize("path", ["/large", "/d"])
def test_a_head_in_a_line_of_requests_waits_for_nobody(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """With exchanges of a connection whose client reads nothing."""
    put(member, "/d/a", b"1")
    monkeypatch.setattr(tree, "SMALL_BYTES", 0)
    wire = Wire(hold=True)
    wire.feed(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
    wire.feed(b"HEAD /v2/keys%b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
    first, head = wire.exchanges
    first.begin(200, b"", endless=False)
    wire.output.backlog = delivery.BACKLOG_BYTES + 1
    member.router.handle(head)
    finish(member)
    assert head.complete
    _nothing_is_held(member)
    assert member.keys._listings._places.taken == 0
    first.end()
    assert wire.output.sent.count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.parametrize("path", ["/large", "/d"])
def test_a_head_beside_what_is_not_read_waits_for_nobody(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """With exchanges of HTTP/2."""
    put(member, "/d/a", b"1")
    monkeypatch.setattr(delivery, "BACKLOG_BYTES", -1)
    monkeypatch.setattr(tree, "SMALL_BYTES", 0)
    site = Site()
    number = site.ask("HEAD", f"/v2/keys{path}")
    (head,) = site.exchanges
    member.router.handle(head)
    finish(member)
    site.judge.settle()
    assert site.judge.ended == {number}
    _nothing_is_held(member)
    assert member.keys._listings._places.taken == 0


def test_what_is_shown_counts_for_the_turn(member: LocalMember) -> None:
    """Most answers are made in the turn that applied what they tell of."""
    for value in (b"\xff" * 1_000, b"\xff" * 34_000):
        put(member, "/heavy", value)
        before = member.machine.applying.worked
        asked(member, "/heavy", "quorum=true")
        assert member.machine.applying.worked - before > 4 * len(value) // 100


def test_what_a_refusal_shows_counts_for_the_turn(member: LocalMember) -> None:
    for value in (b"\xff" * 10_000, b"\xff" * 34_000):
        put(member, "/heavy", value)
        before = member.machine.applying.worked
        refused = asked(member, "/heavy", method=b"PUT", body=b"value=1&prevValue=x")
        finish(member, refused)
        assert refused.status == 412
        assert member.machine.applying.worked - before > 4 * len(value) // 100


def test_plain_text_counts_for_little(member: LocalMember) -> None:
    value = b"a" * 8_000
    put(member, "/plain", value)
    before = member.machine.applying.worked
    asked(member, "/plain", "quorum=true")
    assert member.machine.applying.worked - before < 50, "microseconds"


def test_values_in_lists_are_shown_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    member = LocalMember()
    for name in "abcdef":
        finish(member, put(member, f"/d/{name}", RANDOM[: MB // 8]))
    whole = asked(member, "/d")
    assert not whole.done, "below what a walk is for"
    monkeypatch.setattr(tree, "SMALL_BYTES", 0)
    walked = asked(member, "/d")
    steps = finish(member, whole, walked)
    assert steps >= 40
    assert whole.text == Renderer(ClusterId(1), lambda _: 5.0).event(_listed(member))
    assert walked.text.startswith(b'{"action":"get","node":{"key":"/d","dir":true,"nodes":[{"key":"/d/')
    assert walked.text.count(shown(RANDOM[: MB // 8])) == 6
    assert max(map(len, walked.pieces)) <= 4 * LONGEST_PIECE
    _nothing_is_held(member)


def _listed(member: LocalMember) -> Event:
    found = member.machine.tree.get(b"/d")
    assert isinstance(found, Event)
    return found


# Who goes, who does not read, and too many


def _nothing_is_held(member: LocalMember) -> None:
    assert len(member.jobs) == 0
    assert member.keys._large._places.taken == 0
    assert not member.keys._large._paused


def test_a_client_that_hangs_up_frees_its_place(member: LocalMember) -> None:
    reading, paused = asked(member, "/large"), asked(member, "/large")
    finish(member, reading)
    assert reading.done
    assert not paused.done
    assert len(member.keys._large._paused) == 1
    paused.hang_up()
    _nothing_is_held(member)
    working = asked(member, "/large")
    member.jobs.run(3)
    working.hang_up()
    _nothing_is_held(member)


def test_no_more_is_made_than_the_client_takes(member: LocalMember) -> None:
    answer = asked(member, "/large")
    most = 0
    while not answer.done:
        finish(member)
        most = max(most, answer.backlog)
        answer.take()
    assert most <= delivery.BACKLOG_BYTES + 8 * LONGEST_PIECE
    assert shown(RANDOM) in answer.text


def test_an_answer_waits_for_those_before_it_on_its_connection(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "BACKLOG_BYTES", -1)
        answer = asked(member, "/large")
        finish(member)
        assert answer.pieces == []
    answer.take()
    finish(member, answer)
    assert answer.done
    assert shown(RANDOM) in answer.text


def test_who_takes_too_little_for_too_long_is_cut_for_others(member: LocalMember) -> None:
    slow = asked(member, "/large")
    finish(member)
    member.clock.now = Nanos(member.clock.now + delivery.LONGEST_PAUSE * 10**9)
    finish(member, asked(member, "/large"))
    assert not slow.open


def _bytes_are_held(member: LocalMember, patch: pytest.MonkeyPatch) -> None:
    member.keys._large._places.most = 2 * MB


def _jobs_are_refused(member: LocalMember, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(member.jobs, "start", lambda *_: too_many())


@pytest.mark.parametrize("bound", [_bytes_are_held, _jobs_are_refused])
def test_beyond_the_bound_reads_are_refused_and_what_was_done_is_not_called_so(
    member: LocalMember,
    bound: Callable[[LocalMember, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = asked(member, "/large")
    with monkeypatch.context() as patch:
        bound(member, patch)
        read = asked(member, "/large")
        watch = asked(member, "/large", "wait=true&waitIndex=5")
        written = put(member, "/large", RANDOM)
        refused = asked(member, "/large", method=b"PUT", body=b"value=1&prevValue=" + form(RANDOM[1:])[6:])
        assert [each.status for each in (read, watch, written, refused)] == [500] * 4
        assert all(b"too many requests" in each.text for each in (read, watch, refused))
        assert b"the answer could not be made" in written.text
    finish(member, waiting)
    assert waiting.done
    _nothing_is_held(member)


# Watches


@pytest.mark.parametrize("stream", [False, True])
def test_an_event_out_of_the_window_comes_in_pieces(member: LocalMember, stream: bool) -> None:
    watch = asked(member, "/large", f"wait=true&waitIndex=1&stream={str(stream).lower()}")
    assert not watch.pieces
    assert finish(member, watch) >= 25
    assert watch.text.endswith(b"}\n")
    assert shown(RANDOM) in watch.text
    assert (watch.done, watch.open) == (not stream, stream)
    _nothing_is_held(member)


def test_watchers_get_a_large_event_whole_and_in_order(member: LocalMember) -> None:
    streams = [asked(member, path, "wait=true&stream=true&recursive=true") for path in ("/large", "/")]
    once = asked(member, "/large", "wait=true")
    written = put(member, "/large", RANDOM)
    put(member, "/large/", b"2")
    put(member, "/small", b"3")
    steps = 0
    while not once.pieces:
        member.hub.step()
        steps += 1
        assert asked(member, "/small").done
    assert steps >= 50
    while member.hub.has_work:
        member.hub.step()
    finish(member, written)
    assert once.text == written.text
    assert once.done
    for stream in streams:
        assert all(one is other for one, other in zip(stream.pieces, once.pieces, strict=False))
    lines = [stream.text.splitlines(keepends=True) for stream in streams]
    assert [told[0] for told in lines] == [written.text] * 2
    assert [json.loads(line)["node"]["value"] for line in lines[0][1:]] == ["2"]
    assert [json.loads(line)["node"]["value"] for line in lines[1][1:]] == ["2", "3"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the size of each piece of an event when that is made."""
    sizes: list[int] = []
    event_parts = Renderer.event_parts

    def counted(renderer: Renderer, event: Event, *, past: bool = False) -> Iterator[render.Part]:
        for part, work in event_parts(renderer, event, past=past):
            sizes.append(len(part))
            yield part, work

    monkeypatch.setattr(Renderer, "event_parts", counted)
    return sizes


@pytest.mark.parametrize("first", ["answer", "watchers", "both"])
@pytest.mark.parametrize("value", [b"x" * MB, RANDOM], ids=["plain", "random"])
def test_an_event_is_made_once_for_its_answer_and_its_watchers(
    member: LocalMember, made: list[int], value: bytes, first: str
) -> None:
    watch = asked(member, "/other", "wait=true")
    written = put(member, "/other", value)
    if first == "answer":
        finish(member, written)
    while member.hub.has_work:
        member.hub.step()
        if first == "both":
            member.jobs.run(1)
            written.take()
    finish(member, written)
    assert watch.done
    assert watch.text == written.text
    assert sum(made) == len(written.text)
    assert member.keys._lines._lines == []


@pytest.mark.parametrize("where", ["answer", "watchers"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_a_line_that_fails_at_one_is_whole_for_the_other_or_cut(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch, where: str, is_begun: bool
) -> None:
    """Whether the watchers' part of the work has begun or not."""
    watch = asked(member, "/other", "wait=true")
    broken: list[bool] = []
    event_parts = Renderer.event_parts

    def breaking(renderer: Renderer, event: Event, *, past: bool = False) -> Iterator[render.Part]:
        for part in event_parts(renderer, event, past=past):
            if broken and broken.pop():
                raise MemoryError
            yield part

    monkeypatch.setattr(Renderer, "event_parts", breaking)
    written = put(member, "/other", RANDOM)
    history = member.machine.history
    (event,) = history.since(history.last)
    whole = member.keys._render.event(event)
    member.hub.failed = lambda _: None
    if is_begun:
        member.hub.step()
    assert not watch.text.endswith(whole)
    broken.append(True)
    if where == "answer":
        while broken:
            member.jobs.run(1)
    while member.hub.has_work:
        member.hub.step()
    finish(member, written)
    assert not broken
    assert written.cut
    assert watch.text == whole
    assert watch.done
    assert member.keys._lines._lines == []


def test_lines_are_kept_within_a_bound_and_while_they_are_read(
    member: LocalMember, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member.keys._lines, "_most", 5 * MB // 2)
    monkeypatch.setattr(member, "_publish", lambda: None)
    lines = member.keys._lines
    asked(member, "/", "wait=true&recursive=true&stream=true")
    slow = put(member, "/slow", RANDOM)
    plain = [put(member, f"/{number}", b"x" * MB) for number in range(3)]
    assert all(each.done for each in plain)
    assert [line.event.node.key for line in lines._lines] == [b"/slow", b"/2"]
    assert lines._size == sum(line.event.size for line in lines._lines)
    other = put(member, "/other", RANDOM)
    third = put(member, "/third", RANDOM)
    assert [line.event.node.key for line in lines._lines] == [b"/slow", b"/other"]
    finish(member, slow, other, third)
    assert all(shown(RANDOM) in each.text for each in (slow, other, third))
    kept = [line.event.node.key for line in lines._lines]
    assert kept == [b"/slow", b"/other"]
    put(member, "/never", b"x" * (3 * MB))
    assert [line.event.node.key for line in lines._lines] == kept, "nothing makes room for what never fits"
    put(member, "/fits", b"x" * (2 * MB))
    assert [line.event.node.key for line in lines._lines] == [b"/fits"]
    put(member, "/slow", RANDOM)
    assert [line.event.node.key for line in lines._lines] == [b"/slow"]
    put(member, "/beside", b"x" * (2 * MB))
    assert [line.event.node.key for line in lines._lines] == [b"/slow"]
    assert lines._size == lines._lines[0].event.size


def test_lines_that_nobody_is_told_are_not_kept(member: LocalMember, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "_publish", lambda: None)
    watch = asked(member, "/small", "wait=true")
    finish(member, put(member, "/other", RANDOM))
    watch.hang_up()
    assert len(member.keys._lines._lines) == 1
    finish(member, put(member, "/other", RANDOM))
    assert member.keys._lines._lines == []


def test_showing_what_a_watch_missed_counts_for_the_turn(member: LocalMember) -> None:
    before = member.machine.applying.worked
    watch = asked(member, "/large", "wait=true&waitIndex=1")
    assert member.machine.applying.worked - before >= keys.AT_ONCE_WORK // keys.WORK_PER_UNIT
    watch.hang_up()


def test_an_event_that_nobody_waits_for_is_not_shown(member: LocalMember) -> None:
    asked(member, "/small", "wait=true&stream=true")
    watch = asked(member, "/large", "wait=true&stream=true")
    put(member, "/large", RANDOM)
    member.hub.step()
    behind = [member.hub.has_work]
    watch.hang_up()
    member.hub.step()
    behind.append(member.hub.has_work)
    put(member, "/other", RANDOM)
    behind.append(member.hub.has_work)
    assert behind == [True, False, False]


def test_what_is_done_at_once_is_little() -> None:
    """A value of plain text is; one that is escaped is not."""
    assert sum(work for _, work in string_parts(b"x" * MB)) < keys.AT_ONCE_WORK / 4
    for value in (RANDOM, b"\xff" * MB, b"\b" * MB, b"<" * MB, b"\0" * MB):
        assert sum(work for _, work in string_parts(value)) > 8 * keys.AT_ONCE_WORK
