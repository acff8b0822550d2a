"""From a path to its handler: redirects, web pages, and the bounded table of known paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.gate import Access, Api, Gate, Kind, Operation
from netstore.api.http.router import Redirect, Route, Router
from netstore.errors import permission_denied
from netstore.net.exchange import Request
from tests.support.local_member import RecordedExchange

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.net.exchange import Exchange


def ask(router: Router, path: bytes, method: bytes = b"GET", query: bytes = b"") -> RecordedExchange:
    exchange = RecordedExchange(Request(method, path, query))
    router.handle(exchange)
    return exchange


def named(name: bytes) -> Router:
    exact, below = Route(_answer(b"exact"), None), Route(_answer(name), None)
    return Router(Gate(), {b"/exact": exact}, {b"/below": below})


def _answer(text: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a handler that says who it is
    def handler(exchange: Exchange) -> None:
        exchange.respond(200, b"", text)

    return handler


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (b"/exact", 200, b"exact"),
        (b"/exact/", 404, b"404 page not found\n"),
        (b"/exact/x", 404, b"404 page not found\n"),
        (b"/below", 200, b"below"),
        (b"/below/", 200, b"below"),
        (b"/below/a/b", 200, b"below"),
        (b"/bel%6fw/a", 200, b"below"),
        (b"/belowx", 404, b"404 page not found\n"),
        (b"/", 404, b"404 page not found\n"),
        (b"/%zz", 400, b"400 Bad Request"),
    ],
)
def test_a_path_finds_its_handler(path: bytes, status: int, body: bytes) -> None:
    router = named(b"below")
    for _ in range(2):  # the second time from the table of known paths
        answer = ask(router, path)
        assert (answer.status, answer.body) == (status, body)


def test_options_is_answered_everywhere() -> None:
    assert ask(named(b""), b"/nowhere", b"OPTIONS").status == 200


@pytest.mark.parametrize(
    ("method", "body"), [(b"GET", b'<a href="/below/b?x=1&amp;y">Moved Permanently</a>.\n\n'), (b"PUT", b"")]
)
def test_an_unclean_path_is_sent_to_its_clean_form(method: bytes, body: bytes) -> None:
    answer = ask(named(b""), b"/below/a/..//b", method, b"x=1&y")
    assert (answer.status, answer.body) == (301, body)
    assert b"Location: /below/b?x=1&y\r\n" in answer.fields


def test_known_paths_are_bounded_in_number_and_in_bytes() -> None:
    router = named(b"")
    for number in range(10_000):
        ask(router, b"/%d" % number)
        ask(router, b"/%0300d" % number)
        ask(router, b"/a//%d" % number)
    assert 0 < len(router._known) <= 4096
    assert max(map(len, router._known)) <= 256
    assert not any(isinstance(route.handler, Redirect) for route in router._known.values())


@given(
    st.lists(st.sampled_from((b"/exact", b"/below", b"/%62elow/a", b"/a//b", b"/%zz", b"/x/../below", b"*")))
)
def test_a_known_path_means_what_an_unknown_one_means(paths: list[bytes]) -> None:
    router = named(b"below")
    for path in paths:
        known, fresh = ask(router, path), ask(named(b"below"), path)
        assert (known.status, known.fields, known.body) == (fresh.status, fresh.fields, fresh.body)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (b"/a//b%0d%0aX: y", b""),
        (b"/a//b\r\nX: y", b""),
        (b"/a//b", b"x\r\nX: y"),
        (b"/a//b", b"x\nX: y"),
        (b"/a//b", b"\0"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"PUT"])
def test_a_redirect_cannot_be_made_to_split_the_answer(path: bytes, query: bytes, method: bytes) -> None:
    answer = ask(named(b""), path, method, query)
    assert answer.status in {301, 400}
    lines = answer.fields.split(b"\r\n")
    assert not any(line.startswith(b"X:") for line in lines)
    assert not any(sign in line for line in lines for sign in (b"\r", b"\n", b"\0"))


def test_what_is_not_of_etcd_is_closed_to_web_pages() -> None:
    asked: list[bytes] = []
    own = Route(lambda e: asked.append(e.request.path), None, closed=True)
    router = Router(Gate(), {}, {b"/own": own, b"/v2": Route(_answer(b"v2"), None)})
    for path in (b"/own", b"/own/members", b"/%6fwn/members", b"/v2/keys"):
        for method in (b"GET", b"POST", b"DELETE", b"OPTIONS"):
            request = Request(method, path)
            request.origin = b"http://a.example"
            exchange = RecordedExchange(request)
            router.handle(exchange)
            assert exchange.status == (200 if path == b"/v2/keys" else 403), (method, path)
    assert asked == []
    ask(router, b"/own", b"POST")
    assert asked == [b"/own"]
    assert ask(router, b"/own", b"OPTIONS").status == 200


def test_the_gate_is_asked_before_the_handler() -> None:
    asked: list[tuple[Operation, str]] = []
    operation = Operation(Api.ADMIN, b"x", (Access(Kind.ADMIN),))

    def policy(operation: Operation, principal: str) -> Fault | None:
        asked.append((operation, principal))
        return None if principal == "ann" else permission_denied()

    gate = Gate(policy)
    asks = Route(_answer(b"handled"), lambda _: operation)
    router = Router(gate, {b"/asks": asks, b"/own": Route(_answer(b"handled"), None)}, {})
    for principal, status, body in (
        ("ann", 200, b"handled"),
        ("bob", 401, b'{"message":"Insufficient credentials"}\n'),
    ):
        exchange = RecordedExchange(Request(b"GET", b"/asks"), principal=principal)
        router.handle(exchange)
        assert (exchange.status, exchange.body) == (status, body)
    assert asked == [(operation, "ann"), (operation, "bob")]
    assert ask(router, b"/own").body == ask(router, b"/own").body == b"handled"
    assert ask(router, b"/nowhere").status == 404
    assert ask(router, b"/asks", b"OPTIONS").status == 200
    gate.policy = None
    assert ask(router, b"/asks").body == b"handled"
    assert len(asked) == 2
