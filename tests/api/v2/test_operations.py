"""What the gate is told of requests of the v2 API."""

from __future__ import annotations

import pytest

from netstore.api.gate import Access, Api, Kind, Operation
from netstore.api.v2 import operations
from netstore.api.v2.form import parameters_of
from netstore.net.exchange import Request

BELOW = {b"/": (b"/", b"0"), b"/a": (b"/a/", b"/a0"), b"/a/\xff": (b"/a/\xff/", b"/a/\xff0")}


def operation(method: bytes, key: bytes, query: bytes = b"") -> Operation:
    request = Request(method, b"/v2/keys" + key, query)
    return operations.keys(request, key, parameters_of(request))


@pytest.mark.parametrize(
    ("method", "query", "kind"),
    [
        (b"GET", b"", Kind.READ),
        (b"GET", b"quorum=true", Kind.READ),
        (b"GET", b"quorum=true&wait=true", Kind.READ),
        (b"GET", b"wait=true", Kind.WATCH),
        (b"HEAD", b"", Kind.READ),
        (b"PUT", b"value=v", Kind.WRITE),
        (b"PUT", b"prevIndex=3&recursive=true", Kind.WRITE),
        (b"DELETE", b"", Kind.DELETE),
        (b"DELETE", b"dir=true&prevValue=x", Kind.DELETE),
    ],
)
@pytest.mark.parametrize("key", BELOW)
def test_a_request_for_a_key_alone(key: bytes, method: bytes, query: bytes, kind: Kind) -> None:
    made = operation(method, key, query)
    assert made.accesses == (Access(kind, key),)
    assert (made.api, made.name) == (Api.V2, method + b" /v2/keys" + key)
    assert made.may_write == (method not in (b"GET", b"HEAD"))


@pytest.mark.parametrize(
    ("method", "query", "kind"),
    [
        (b"GET", b"recursive=true", Kind.READ),
        (b"GET", b"recursive=true&wait=true", Kind.WATCH),
        (b"DELETE", b"recursive=true", Kind.DELETE),
    ],
)
@pytest.mark.parametrize("key", BELOW)
def test_a_request_for_a_key_and_all_below(key: bytes, method: bytes, query: bytes, kind: Kind) -> None:
    assert operation(method, key, query).accesses == (Access(kind, key), Access(kind, *BELOW[key]))


@pytest.mark.parametrize("key", BELOW)
def test_a_node_in_order_is_created_below_its_key(key: bytes) -> None:
    assert operation(b"POST", key, b"value=v").accesses == (Access(Kind.WRITE, *BELOW[key]),)


@pytest.mark.parametrize("key", BELOW)
@pytest.mark.parametrize("name", [b"x", b"\xff\xff", b"\0"])
def test_the_interval_below_a_key_has_its_children_and_no_siblings(key: bytes, name: bytes) -> None:
    start, end = BELOW[key]
    parent = b"" if key == b"/" else key
    assert start <= parent + b"/" + name < end
    assert key == b"/" or not start <= key + name < end


def test_members_and_statistics() -> None:
    listed = operations.members(Request(b"GET", b"/v2/members"))
    removed = operations.members(Request(b"DELETE", b"/v2/members/1"))
    assert listed == Operation(Api.V2, b"GET /v2/members", (Access(Kind.MEMBER),))
    assert removed == Operation(Api.V2, b"DELETE /v2/members/1", (Access(Kind.MEMBER),), may_write=True)
    assert operations.statistics(Request(b"GET", b"/v2/stats/self")).accesses == (Access(Kind.MAINTENANCE),)
