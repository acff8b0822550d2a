"""Admitted plugins are replicated: through any member, over restarts, and to members that join."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from netstore.network.plugins import PART_BYTES
from tests.support.cluster import Members, exchange, put
from tests.support.patience import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

DATA = b"\x5a" * PART_BYTES + b"end"
SHA256 = hashlib.sha256(DATA).hexdigest()
KEY = "coreos.com/network/config"
CONFIG = '{"Network":"10.1.0.0/16","Backend":{"Type":"mine","Port":%s}}'
DOCUMENT = {
    "schema": {"properties": {"Port": {"type": "integer"}}},
    "wheel": {"file": "mine-1.2-py3-none-any.whl", "sha256": SHA256, "size": len(DATA)},
}


def ask(daemon: Daemon, method: str, path: str, document: object = None) -> tuple[int, Any]:
    body = None if document is None else json.dumps(document)
    answer = exchange(daemon, method, f"/netstore/plugins{path}", body, {"Content-Type": "application/json"})
    return answer.status, answer.body


def received(daemon: Daemon) -> int:
    status, shown = ask(daemon, "GET", "/mine")
    return int(shown["wheel"]["received"]) if status == 200 else -1


def wheel_of(daemon: Daemon) -> bytes:
    parts = [exchange(daemon, "GET", f"/netstore/plugins/mine/wheel/{SHA256}/{at}") for at in (0, PART_BYTES)]
    return b"".join(part.raw for part in parts)


def test_plugins_are_the_clusters(tmp_path: Path) -> None:
    with Members(tmp_path) as members:
        at = members[members.followers()[0]]
        until(lambda: ask(at, "PUT", "/mine", DOCUMENT)[0] == 200, "the level has risen, it is admitted")
        for offset in (0, PART_BYTES):
            part = DATA[offset : offset + PART_BYTES]
            sent = exchange(at, "PUT", f"/netstore/plugins/mine/wheel/{SHA256}/{offset}", part)
            assert sent.status == 200, sent.body
        for name in "abc":
            daemon = members[name]
            until(lambda daemon=daemon: received(daemon) == len(DATA), f"{name} has the wheel")  # type: ignore[misc]
            assert wheel_of(daemon) == DATA
            assert put(daemon, KEY, CONFIG % '"1"').status == 400
            assert put(daemon, KEY, CONFIG % 1).status in (200, 201)
        members.kill_all()
        for name in "abc":
            members[name].spawn_again()
        for name in "abc":
            members[name].wait_until_healthy()
            assert received(members[name]) == len(DATA)
            assert wheel_of(members[name]) == DATA
        joined = members.join("d", at="a")
        until(lambda: received(joined) == len(DATA), "the new member has it")
        assert wheel_of(joined) == DATA
        assert ask(joined, "DELETE", "/mine")[0] == 200
        until(lambda: received(members["a"]) == -1, "it is retired everywhere")
        assert put(joined, KEY, CONFIG % 1).status == 400
