"""How much is logged can be changed while a member runs, in etcd's words."""

from __future__ import annotations

import json

import pytest

from netstore.api.http.body import JSON_LIMIT_BYTES
from netstore.api.loglevel import LEVELS, LogLevel
from netstore.net.exchange import Request
from netstore.ops import loglevels
from tests.support.local_member import RecordedExchange


def put(body: bytes, method: bytes = b"PUT") -> tuple[RecordedExchange, list[str]]:
    changed: list[str] = []
    exchange = RecordedExchange(Request(method, b"/config/local/log", b"", body))
    LogLevel(changed.append)(exchange)
    return exchange, changed


@pytest.mark.parametrize(
    ("body", "level"),
    [
        (b'{"Level":"DEBUG"}', "debug"),
        (b'{"level":"debug"}', "debug"),
        (b'{"Level":"Notice","x":1}', "info"),
        (b'{"Level":"CRITICAL"}', "error"),
        (b'{"Level":"W"}', "warn"),
        (b'{"Level":"nope","LEVEL":"3"}', "info"),
    ],
)
def test_a_level_is_taken(body: bytes, level: str) -> None:
    exchange, changed = put(body)
    assert (exchange.status, exchange.body, exchange.fields) == (204, b"", b"")
    assert changed == [level]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"Level":"nope"}', "Invalid log level nope"),
        (b'{"Level":"6"}', "Invalid log level 6"),
        (b'{"Level":null}', "Invalid log level "),
        (b"{}", "Invalid log level "),
        (b"null", "Invalid log level "),
        (b"", "Invalid json body"),
        (b"junk", "Invalid json body"),
        (b"[]", "Invalid json body"),
        (b'{"Level":3}', "Invalid json body"),
        (b'{"Level":"\xff"}', "Invalid json body"),
        (b'{"Level":' + b"[" * 10_000, "Invalid json body"),
        (b'{"Level":"DEBUG"}' + b" " * JSON_LIMIT_BYTES, "Invalid json body"),
    ],
)
def test_anything_else_is_refused(body: bytes, said: str) -> None:
    exchange, changed = put(body)
    assert exchange.status == 400
    assert json.loads(exchange.body) == {"message": said}
    assert changed == []


def test_only_put_is_allowed() -> None:
    exchange, changed = put(b'{"Level":"DEBUG"}', b"GET")
    assert (exchange.status, exchange.headers["Allow"], changed) == (405, "PUT", [])


def test_every_level_is_one_of_the_log() -> None:
    assert set(LEVELS.values()) <= loglevels.LEVELS.keys()
