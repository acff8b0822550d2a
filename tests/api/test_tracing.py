"""Slow requests in the log, with where their time went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from netstore import codes
from netstore.api.tracing import LINES_A_SECOND, SPANS_A_SECOND, Tracer
from netstore.errors import Fault
from netstore.node.slowness import SLOW_SECONDS, Spent
from netstore.state.commands import encode
from netstore.state.envelope import seal
from netstore.state.v3.commands import DeleteRange, Put
from netstore.types import Nanos
from tests.support.member import Lines, Solo

if TYPE_CHECKING:
    from netstore.traces import Span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Call:
    """Of `net.grpc.call.GrpcCall` what a tracer looks at."""

    path = b"/etcdserverpb.KV/Put"
    principal = "10.0.0.9"
    answering_since: float | None = None

    def __init__(self, traceparent: bytes | None = None) -> None:
        self._traceparent = traceparent
        self.server: Any = self
        self.rounds: Any = self
        self.now = 20.0

    def metadata(self, name: bytes) -> bytes | None:
        assert name == b"traceparent"
        return self._traceparent


class Kept:
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)


class Traced:
    """A member with a tracer."""

    def __init__(self, solo: Solo | None = None) -> None:
        """Of a leader, unless another one is given."""
        self.solo = solo or Solo().lead()
        self.lines = Lines()
        self.kept = Kept()
        host = self.solo.host
        self.tracer = Tracer(
            host.slowness, self.solo.clock, self.lines, lambda size: bytes([7] * size), self.kept
        )
        host.slow_write = self.tracer.write_ended

    def told(self) -> list[dict[str, Any]]:
        return [fields for event, fields in self.lines.lines if event == "slow_request"]


def test_a_call_in_words_and_as_a_span() -> None:
    traced = Traced()
    slowness = traced.solo.host.slowness
    slowness.spent = Spent(queue=0.01, disk=0.05, quorum=0.1, apply=0.02)
    call: Any = Call(f"00-{TRACE}-{PARENT}-01".encode())
    traced.tracer.call_ended(call, 0.25, codes.OK)
    [line] = traced.told()
    assert line == {
        "request": "etcdserverpb.KV/Put",
        "principal": "10.0.0.9",
        "error": "",
        "milliseconds": 250.0,
        "other_ms": 70.0,
        "queue_ms": 10.0,
        "disk_ms": 50.0,
        "quorum_ms": 100.0,
        "apply_ms": 20.0,
        "send_ms": 0.0,
        "trace": TRACE,
        "left_out": 0,
    }
    [span] = traced.kept.spans
    assert (span.trace_id, span.parent_id, span.span_id) == (TRACE, PARENT, "07" * 8)
    assert round(sum(seconds for _, seconds in span.stages), 6) == span.seconds == 0.25
    assert slowness.spent is None, "it is told once"


def test_sending_in_pieces_is_a_part_of_its_own() -> None:
    traced = Traced()
    call: Any = Call()
    call.answering_since = 19.8
    traced.tracer.call_ended(call, 0.3, codes.OK)
    [line] = traced.told()
    assert (line["send_ms"], line["other_ms"], line["queue_ms"]) == (200.0, 100.0, 0.0)
    assert line["trace"] == "07" * 16


def test_a_trace_that_is_not_sampled_is_not_exported() -> None:
    traced = Traced()
    call: Any = Call(f"00-{TRACE}-{PARENT}-00".encode())
    traced.tracer.call_ended(call, 0.25, codes.OK)
    assert traced.kept.spans == []
    assert traced.told()[0]["trace"] == TRACE


def test_lines_are_bounded_and_those_left_out_are_counted() -> None:
    traced = Traced()
    call: Any = Call()
    for _ in range(LINES_A_SECOND + 5):
        traced.tracer.call_ended(call, 0.2, codes.OK)
    assert len(traced.told()) == LINES_A_SECOND
    traced.solo.clock.now = Nanos(traced.solo.clock.now + 1_500_000_000)
    traced.tracer.call_ended(call, 0.2, codes.OK)
    assert traced.told()[-1]["left_out"] == 5
    assert traced.tracer.slow == LINES_A_SECOND + 6


def test_spans_are_bounded_and_those_not_sampled_do_not_count() -> None:
    traced = Traced()
    unsampled: Any = Call(f"00-{TRACE}-{PARENT}-00".encode())
    call: Any = Call()
    for _ in range(SPANS_A_SECOND):
        traced.tracer.call_ended(unsampled, 0.2, codes.OK)
    for _ in range(SPANS_A_SECOND + 5):
        traced.tracer.call_ended(call, 0.2, codes.OK)
    assert len(traced.kept.spans) == SPANS_A_SECOND
    traced.solo.clock.now = Nanos(traced.solo.clock.now + 1_500_000_000)
    traced.tracer.call_ended(call, 0.2, codes.OK)
    assert len(traced.kept.spans) == SPANS_A_SECOND + 1


def test_a_write_that_waits_for_the_disk_is_told_with_its_parts() -> None:
    traced = Traced()
    solo, host = traced.solo, traced.solo.host
    outcomes: list[object] = []
    host.propose(encode(Put(b"/a", b"1")), outcomes.append, b"10.0.0.9")
    solo.turn()
    began = solo.clock.monotonic()
    solo.clock.now = Nanos(solo.clock.now + int(3e9 * SLOW_SECONDS))
    host.slowness.syncs = [(began, solo.clock.monotonic())]
    solo.settle()
    assert outcomes
    [line] = traced.told()
    assert (line["request"], line["principal"]) == ("Put", "10.0.0.9")
    assert 250 <= line["disk_ms"] <= 350
    assert line["quorum_ms"] < 50
    assert line["milliseconds"] >= line["disk_ms"]
    assert host.slowness.spent is None


def test_a_write_that_is_applied_in_many_turns_is_told_as_applied_slowly() -> None:
    traced = Traced()
    solo, host = traced.solo, traced.solo.host
    for number in range(5_000):
        host.propose(encode(Put(b"/%d" % number)), lambda _: None, b"10.0.0.9")
        solo.settle()
    outcomes: list[object] = []
    host.propose(encode(DeleteRange(b"/", b"0")), outcomes.append, b"10.0.0.9")
    turns = 0
    while not outcomes:
        solo.turn()
        solo.device.sync()
        if host.applier.waiting:
            solo.clock.now = Nanos(solo.clock.now + int(1e9 * SLOW_SECONDS))
            turns += 1
    assert turns > 5
    [line] = traced.told()
    assert line["request"] == "DeleteRange"
    assert line["apply_ms"] > 0.5 * line["milliseconds"]
    assert line["queue_ms"] <= 1000 * SLOW_SECONDS


@pytest.mark.parametrize("is_handed_over", [True, False])
def test_a_write_that_is_given_up_is_told_with_what_it_lacked(is_handed_over: bool) -> None:
    """Nothing is ever applied: no majority takes it, or there is no leader to hand it to."""
    traced = Traced(Solo().lead() if is_handed_over else Solo())
    solo, host = traced.solo, traced.solo.host
    host.slowness.is_alone = lambda: False
    outcomes: list[object] = []
    host.propose(encode(Put(b"/a", b"1")), outcomes.append, b"10.0.0.9")
    solo.turn()
    began = solo.clock.monotonic()
    solo.clock.now = Nanos(solo.clock.now + int((host.proposals.time_limit + 1) * 1e9))
    host.slowness.syncs = [(began, began + 0.5)]
    host.tick()
    assert outcomes
    [line] = traced.told()
    assert (line["request"], line["error"]) == ("Put", "etcdserver: request timed out")
    waited = line["milliseconds"]
    assert waited >= 7000
    if is_handed_over:
        assert line["disk_ms"] == 500
        assert line["quorum_ms"] == pytest.approx(waited - 500, abs=100)
    else:
        assert line["queue_ms"] == waited
    assert (line["other_ms"], line["apply_ms"]) == (0, 0)
    assert traced.tracer.slow == 1
    assert traced.kept.spans[0].error == line["error"]


def test_a_call_that_fails_is_told_with_its_status() -> None:
    traced = Traced()
    call: Any = Call()
    for status, is_server_error in ((codes.UNAVAILABLE, True), (codes.FAILED_PRECONDITION, False)):
        traced.tracer.call_ended(call, 0.2, status)
        name = traced.told()[-1]["error"]
        assert getattr(codes, name) == status
        assert traced.kept.spans[-1].error == (name if is_server_error else "")


def test_a_refusal_of_the_store_is_no_error_of_the_server() -> None:
    traced = Traced()
    payload = seal(encode(Put(b"/a")), 1, 1, Nanos(0), b"x")
    traced.tracer.write_ended(payload, Spent(disk=0.2), Fault(100, b"/a"))
    assert traced.told()[0]["error"] == "Key not found"
    assert traced.kept.spans[0].error == ""


def test_a_read_whose_index_is_not_confirmed_waited_for_the_quorum() -> None:
    traced = Traced()
    solo, host = traced.solo, traced.solo.host
    host.slowness.is_alone = lambda: False
    found: list[Spent | None] = []
    number = host.reads.ask(lambda _: found.append(host.slowness.spent), "10.0.0.9", host.proposals.now)
    assert number is not None
    solo.clock.now = Nanos(solo.clock.now + int(3e9 * SLOW_SECONDS))
    host.proposals.now = solo.clock.monotonic()
    host._fail_read(number)
    [spent] = found
    assert spent is not None
    assert spent.quorum == pytest.approx(3 * SLOW_SECONDS, abs=0.05)


def test_a_write_that_is_fast_is_not_told() -> None:
    traced = Traced()
    traced.solo.host.propose(encode(Put(b"/a", b"1")), lambda _: None, b"10.0.0.9")
    traced.solo.settle()
    assert traced.told() == []
