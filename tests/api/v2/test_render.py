"""The JSON and the heads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.v2.render import Renderer, expiration, json_string
from netstore.errors import MESSAGES, Fault
from netstore.types import ClusterId, EtcdIndex, Event, Index, Nanos, NodeView, Term
from tests.support.local_member import START

SECOND = 1_000_000_000


def left(node: NodeView) -> float:
    return (node.expires - START) / SECOND


def renderer() -> Renderer:
    return Renderer(ClusterId(0xABC), left)


def view(key: bytes = b"/k", **fields: Any) -> NodeView:
    return NodeView(key, EtcdIndex(3), EtcdIndex(4), **fields)


def json_string_twin(data: bytes) -> bytes:
    """v2 API, encoding, character by character."""
    shown = b'"'
    while data:
        for size in (1, 2, 3, 4):
            try:
                character = data[:size].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            shown, data = shown + b"\\ufffd", data[1:]
            continue
        data = data[size:]
        if character in '"\\':
            shown += b"\\" + character.encode()
        elif character in "\n\r\t":
            shown += {"\n": b"\\n", "\r": b"\\r", "\t": b"\\t"}[character]
        elif character < " " or character in "<>&\u2028\u2029":
            shown += b"\\u%04x" % ord(character)
        else:
            shown += character.encode()
    return shown + b'"'


@given(
    st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.binary(max_size=20).map(lambda data: data.replace(b"\xff", b"<")),
        st.text('\\bfnu0"<>&\b\f\0\x7f\u2028\u2029\u20ac\U0001f600').map(str.encode),
    )
)
def test_strings_are_escaped_as_the_twin_does(data: bytes) -> None:
    assert json_string(data) == json_string_twin(data)


def test_every_byte_is_escaped_as_the_twin_does() -> None:
    for byte in range(256):
        for data in (bytes((byte,)), b"a%cb" % byte, b"\\%c\\b\b" % byte, b"%c<\xe2\x82\xac" % byte):
            for each in (data, data + b"\xff?~a~b", b"~\xe2\x82" + data):
                assert json_string(each) == json_string_twin(each)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, b"1970-01-01T00:00:00Z"),
        (1, b"1970-01-01T00:00:00.000000001Z"),
        (1_500_000_000 * SECOND + 862_281_580, b"2017-07-14T02:40:00.86228158Z"),
        (2**63 - 1, b"2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_instants(nanos: int, text: bytes) -> None:
    assert expiration(Nanos(nanos)) == text


@given(st.integers(0, 2**63 - 1))
def test_instants_can_be_read_back(nanos: int) -> None:
    text = expiration(Nanos(nanos)).decode().removesuffix("Z")
    seconds, _, fraction = text.partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    assert whole * SECOND + int(fraction.ljust(9, "0")) == nanos
    assert not fraction.endswith("0")


@pytest.mark.parametrize(
    ("left", "shown", "past_shown"),
    [
        (5 * SECOND, 5, 5),
        (5 * SECOND - 1, 5, 5),
        (4 * SECOND + 1, 5, 5),
        (1, 1, 1),
        (0, None, None),
        (-1, None, None),
        (-SECOND + 1, None, None),
        (-SECOND, -1, None),
        (-4 * SECOND - SECOND // 2, -4, None),
    ],
)
def test_the_time_left_is_the_ceiling_of_the_seconds(
    left: int, shown: int | None, past_shown: int | None
) -> None:
    change = Event("set", EtcdIndex(4), view(value=b"", expires=Nanos(START + left)))
    for past, wanted in ((False, shown), (True, past_shown)):
        document = json.loads(renderer().event(change, past=past))
        assert document["node"].get("ttl") == wanted
        assert "expiration" in document["node"]


def test_members_come_in_etcds_order() -> None:
    child = view(b"/d/c", value=b"x")
    node = view(b"/d", dir=True, expires=Nanos(START + SECOND), nodes=(child, view(b"/d/e", dir=True)))
    text = renderer().event(Event("get", EtcdIndex(9), node, prev=view(value=b"old")))
    stamp = expiration(Nanos(START + SECOND))
    assert text == (
        b'{"action":"get","node":{"key":"/d","dir":true,"expiration":"%b","ttl":1,"nodes":['
        b'{"key":"/d/c","value":"x","modifiedIndex":4,"createdIndex":3},'
        b'{"key":"/d/e","dir":true,"modifiedIndex":4,"createdIndex":3}],"modifiedIndex":4,"createdIndex":3},'
        b'"prevNode":{"key":"/k","value":"old","modifiedIndex":4,"createdIndex":3}}\n' % stamp
    )


def test_the_root_has_neither_key_nor_indexes() -> None:
    root = NodeView(b"/", EtcdIndex(0), EtcdIndex(0), dir=True, nodes=())
    assert renderer().event(Event("get", EtcdIndex(9), root)) == b'{"action":"get","node":{"dir":true}}\n'


def nested(depth: int) -> NodeView:
    node = view(b"/leaf", value=b"")
    for _ in range(depth):
        node = view(b"/d", dir=True, nodes=(node, view(b"/f", value=b"1")))
    return node


def as_document(node: NodeView) -> dict[str, Any]:
    document: dict[str, Any] = {"key": node.key.decode()}
    if node.value is not None:
        document["value"] = node.value.decode()
    if node.dir:
        document["dir"] = True
    if node.nodes:
        document["nodes"] = [as_document(child) for child in node.nodes]
    return document | {"modifiedIndex": node.modified, "createdIndex": node.created}


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_listings_nest(depth: int) -> None:
    node = nested(depth)
    rendered = renderer().event(Event("get", EtcdIndex(9), node))
    assert (
        rendered
        == json.dumps({"action": "get", "node": as_document(node)}, separators=(",", ":")).encode() + b"\n"
    )


def test_a_listing_thousands_of_names_deep_needs_no_stack() -> None:
    rendered = renderer().event(Event("get", EtcdIndex(9), nested(5_000)))
    assert rendered.count(b'"nodes":[') == 5_000


def test_heads() -> None:
    assert renderer().success_fields(EtcdIndex(5), Index(6), Term(7)) == (
        b"Content-Type: application/json\r\nX-Etcd-Cluster-Id: abc\r\n"
        b"X-Etcd-Index: 5\r\nX-Raft-Index: 6\r\nX-Raft-Term: 7\r\n"
    )
    assert renderer().fault_fields(Fault(100, b"/a", 5)) == (
        b"Content-Type: application/json\r\nX-Etcd-Cluster-Id: abc\r\nX-Etcd-Index: 5\r\n"
    )


@pytest.mark.parametrize("code", sorted(MESSAGES))
def test_refusals(code: int) -> None:
    document = {"errorCode": code, "message": MESSAGES[code][0], "cause": "/<", "index": 7}
    text = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c") + "\n"
    assert Renderer.fault(Fault(code, b"/<", 7)) == text.encode()
    assert b"cause" not in Renderer.fault(Fault(code))
