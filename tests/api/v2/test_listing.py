"""Large directories: the same bytes as a small one has, made as the client takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.v2 import delivery
from netstore.api.v2.render import NODE_WORK
from netstore.errors import too_many
from netstore.net.exchange import Request
from netstore.state.v2 import tree
from netstore.state.v2.walk import MOST_WALKS
from netstore.types import Nanos
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.log import AnyLevel

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS = st.sampled_from(
    ["/a", "/a/b", "/a/b/c", "/a/_h", "/a/_h/x", "/a/d", "/a/d/e", "/f", "/a/b/g", "/a/z"]
)


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(tree, "SMALL_NODES", -1)
        patch.setattr(delivery, "STEP_WORK", 3 * NODE_WORK)
        yield


def filled(member: LocalMember, many: int = 40, size: int = 10) -> LocalMember:
    for number in range(many):
        member.send("PUT", f"/v2/keys/d/{number:04}?value={'x' * size}")
    return member


def asked(
    member: LocalMember, target: bytes = b"/v2/keys/d", query: bytes = b"", principal: str = "here"
) -> RecordedExchange:
    """A request whose answer is not taken by itself."""
    exchange = RecordedExchange(Request(b"GET", target, query), principal=principal)
    member.router.handle(exchange)
    return exchange


def work(member: LocalMember) -> None:
    """Do all there is to do."""
    while member.jobs.ready:
        member.jobs.run()


@given(st.lists(PATHS, max_size=8), PATHS, st.booleans(), st.sampled_from(["", "&ttl=100"]))
def test_a_large_directory_is_shown_as_a_small_one_is(
    paths: list[str], asked_for: str, recursive: bool, ttl: str
) -> None:
    member = LocalMember()
    for number, path in enumerate(paths):
        member.send("PUT", f"/v2/keys{path}?{'dir=true' if number % 3 == 2 else 'value=1'}{ttl}")
    for target in (f"/v2/keys{asked_for}", "/v2/keys/"):
        for extra in ("", "&quorum=true", "&sorted=true"):
            query = f"?recursive={str(recursive).lower()}{extra}"
            whole = member.send("GET", target + query)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tree, "SMALL_NODES", -1)
                patch.setattr(delivery, "STEP_WORK", 2 * NODE_WORK)
                in_pieces = member.send("GET", target + query)
            assert (in_pieces.status, in_pieces.text) == (whole.status, whole.text)
            assert in_pieces.done
            if whole.status == 200:
                assert in_pieces.headers["X-Etcd-Index"] == whole.headers["X-Etcd-Index"]


@pytest.mark.usefixtures("everything_is_large")
def test_no_more_is_made_than_the_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKLOG_BYTES", 500)
    member = filled(LocalMember(), many=200)
    exchange = asked(member)
    most = 0
    while not exchange.done:
        while member.jobs.ready:
            member.jobs.run()
        most = max(most, exchange.backlog)
        if not exchange.done:
            assert exchange.backlog > 500
            exchange.take()
    assert most < 1_500
    assert exchange.text.count(b'"key":"/d/') == 200
    assert len(member.jobs) == 0


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("paused", [True, False])
def test_a_client_that_goes_away_ends_the_work(paused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKLOG_BYTES", 1 if paused else 1_000_000)
    member = filled(LocalMember())
    exchange = asked(member)
    member.jobs.run(2)
    assert len(member.jobs) == 1
    assert member.jobs.ready != paused
    exchange.hang_up()
    assert len(member.jobs) == 0


@pytest.mark.usefixtures("everything_is_large")
def test_what_was_changed_meanwhile_does_not_show() -> None:
    member = filled(LocalMember())
    exchange = asked(member)
    member.jobs.run(2)
    for number in range(40):
        member.machine.tree.delete(b"/d/%04d" % number, False, False)
    member.machine.tree.delete(b"/d", True, True)
    while member.jobs.ready:
        member.jobs.run()
    assert exchange.text.count(b'"key":"/d/') == 40
    assert exchange.done


@pytest.mark.usefixtures("everything_is_large")
def test_a_head_is_answered_without_a_body() -> None:
    member = filled(LocalMember())
    exchange = member.send("HEAD", "/v2/keys/d")
    assert (exchange.status, exchange.text, exchange.done) == (200, b"", True)
    assert len(member.jobs) == 0


@pytest.mark.usefixtures("everything_is_large")
def test_too_many_at_once_are_refused_and_told_so() -> None:
    """One principal does not get them all, and what it gives back can be had."""
    member = filled(LocalMember(), many=3)
    waiting = [asked(member) for _ in range(MOST_WALKS // 2)]
    refused = asked(member)
    assert (refused.status, b"too many requests" in refused.text) == (500, True)
    waiting.append(asked(member, principal="there"))
    while member.jobs.ready:
        member.jobs.run()
    assert all(exchange.done for exchange in waiting)
    assert asked(member).status == 200


@pytest.mark.usefixtures("everything_is_large")
def test_a_job_that_is_refused_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    member = filled(LocalMember(), many=3)
    with monkeypatch.context() as patch:
        patch.setattr(member.jobs, "start", lambda *_: too_many())
        assert {asked(member).status for _ in range(MOST_WALKS)} == {500}
    assert asked(member).status == 200


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("target", [b"/v2/keys/d", b"/v2/keys/none"])
def test_who_takes_too_little_for_too_long_is_cut_for_others(
    target: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKLOG_BYTES", 1)
    member = filled(LocalMember(), many=9)
    slow, quick = asked(member), asked(member)
    work(member)
    member.clock.now = Nanos(member.clock.now + (delivery.LONGEST_PAUSE - 1) * 10**9)
    quick.take()
    work(member)
    asked(member, target)
    kept = [slow.open, quick.open]
    member.clock.now = Nanos(member.clock.now + 10**9)
    asked(member, target)
    assert [*kept, slow.open, quick.open] == [True, True, False, True]
    assert len(member.keys._listings._paused) == 1


@pytest.mark.usefixtures("everything_is_large")
def test_a_state_that_is_replaced_cuts_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    member = LocalMember()
    for number in range(40):
        member.send("PUT", f"/v2/keys/d/{number:04}/x?value=1")
    monkeypatch.setattr(member.jobs, "_log", _Log())
    exchange = asked(member, query=b"recursive=true")
    member.jobs.run(1)
    member.machine.save()
    member.machine.load()
    while member.jobs.ready:
        member.jobs.run()
    assert not exchange.open
    assert b"}]" not in exchange.text


class _Log(AnyLevel):
    def take(self, event: str, fields: dict[str, object]) -> None:
        assert (event, "limit" in fields) == ("job_given_up", False)
