"""The v2 store in JSON, instants, and the requests of the log."""

from __future__ import annotations

import json

import pytest

from netstore.codec import Malformed, prefixed, varint
from netstore.errors import CorruptData
from netstore.etcdfile import v2content
from netstore.etcdfile.v2content import LATEST, ClusterVersionSet, MemberAttributesSet, V2Request
from netstore.types import Nanos


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + prefixed(value)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("", 0),
        (None, 0),
        ("0001-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-30T04:17:38.155684988Z", 1_796_012_258_155_684_988),
        ("1970-01-01T02:00:01+02:00", 1_000_000_000),
        ("9999-01-01T00:00:00Z", LATEST),
        ("1969-01-01T00:00:00Z", 1),
    ],
)
def test_instants(text: str | None, nanos: int) -> None:
    assert v2content.instant(text) == nanos


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01T00:00:00Z", "2026-11-30"])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no instant|month must be"):
        v2content.instant(text)


def test_a_request_of_its_own_and_within_another() -> None:
    request = number(1, 7) + data(2, b"PUT") + data(3, b"/1/a") + data(4, b"v") + number(8, 0) + number(9, 5)
    wanted = V2Request(b"PUT", b"/1/a", b"v", False, b"", 0, False, Nanos(5), False, Nanos(0), False)
    assert v2content.request_of(request) == wanted
    assert v2content.request_of(number(1, 9) + data(2, request)) == wanted


def test_other_requests() -> None:
    assert v2content.request_of(data(4, data(1, b"key"))) is None
    assert v2content.request_of(data(1300, data(1, b"3.5.0"))) == ClusterVersionSet()
    assert v2content.request_of(data(1301, number(1, 77))) == MemberAttributesSet(77)
    with pytest.raises(Malformed, match="method"):
        v2content.request_of(data(2, data(2, b"PATCH")))


def test_a_change_of_members() -> None:
    change = v2content.member_change_of(
        number(1, 3) + number(2, 0) + number(3, 99) + data(4, b'{"isPromote":true}')
    )
    assert change == (0, 99, v2content.RaftAttributes(), True)
    added = number(2, 3) + number(3, 5) + data(4, b'{"id":5,"peerURLs":["http://a:1"],"isLearner":true}')
    attributes = v2content.RaftAttributes(("http://a:1",), is_learner=True)
    assert v2content.member_change_of(added) == (3, 5, attributes, False)
    with pytest.raises(Malformed, match="not the JSON of a member"):
        v2content.member_change_of(number(3, 5) + data(4, b'{"peerURLs":7}'))


def test_a_store() -> None:
    text = {
        "Root": {
            "Path": "/",
            "Children": {"1": {"Path": "/1", "Children": {"a": {"Path": "/1/a", "Value": "v"}}}},
        },
        "CurrentIndex": 5,
        "Stats": {"setsSuccess": 3},
        "WatcherHub": {
            "EventHistory": {"Queue": {"Events": [{"action": "set", "node": {"key": "/1/a"}}, None]}}
        },
        "CurrentVersion": 2,
    }
    content = v2content.decode(json.dumps(text).encode(), "f")
    assert content.current_index == 5
    assert [event.node.key for event in content.events] == ["/1/a"]
    assert content.root.children is not None
    with pytest.raises(CorruptData, match="f: not the JSON of a v2 store"):
        v2content.decode(b'{"Root": 1}', "f")
    deep = b'{"Path":"/","Children":{"a":' * 5000
    with pytest.raises(CorruptData, match="f: not the JSON"):
        v2content.decode(b'{"CurrentIndex":1,"Root":' + deep, "f")
