"""What is asked under /netstore/plugins."""

from __future__ import annotations

import hashlib
import json
import queue
from typing import TYPE_CHECKING, Any

import pytest

from netstore.api import plugins as plugins_module
from netstore.api.admin import AdminApi, operation
from netstore.api.beside import Beside
from netstore.api.gate import Access, Kind
from netstore.api.plugins import Admitted, PluginsApi
from netstore.errors import beyond_level, timed_out, too_many
from netstore.net.exchange import Request
from netstore.network.plugins import PART_BYTES, Plugin
from netstore.state.commands import AdmitPlugin, encode
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.member import Lines
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.state.machine import Outcome
    from netstore.state.plugins import PluginRecord

DATA = bytes(range(256)) * (PART_BYTES // 256) + b"end"
SHA256 = hashlib.sha256(DATA).hexdigest()
WHEEL = {"file": "mine-1.2-py3-none-any.whl", "sha256": SHA256, "size": len(DATA)}
SCHEMA = {"properties": {"Port": {"type": "integer"}}}


class Store:
    def __init__(self) -> None:
        self.member = LocalMember()
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()
        self.admitted = Admitted(self.member.machine.plugins)
        plugins = PluginsApi(self.member, self.admitted, Beside(self.calls.put, Lines()))
        self.api = AdminApi(self.member, self.member.cluster, plugins=plugins)

    def send(self, method: str, path: str, body: bytes, kind: bytes | None = None) -> RecordedExchange:
        request = Request(method.encode(), f"/netstore/plugins{path}".encode(), body=body, content_type=kind)
        exchange = RecordedExchange(request)
        self.api.handle(exchange)
        if not exchange.status:
            self.calls.get(timeout=seconds(20))()
        return exchange

    def ask(self, method: str, path: str = "", document: object = None) -> tuple[int, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        answer = self.send(method, path, body, b"application/json")
        return answer.status, json.loads(answer.body)


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_plugin_is_admitted_shown_and_retired(store: Store) -> None:
    since = store.member.clock.wall() // 10**9
    shown = {"name": "mine", "versions": ">=1", "schema": SCHEMA, "since": since}
    assert store.ask("PUT", "/mine", {"versions": ">=1", "schema": SCHEMA}) == (200, shown)
    assert store.ask("GET", "/mine") == (200, shown)
    status, listed = store.ask("GET")
    assert (status, listed["plugins"]) == (200, [shown])
    assert "host-gw" in listed["builtIn"]
    assert "udp" in listed["foreign"]
    assert store.admitted()["mine"].schema == SCHEMA
    assert store.ask("DELETE", "/mine") == (200, shown)
    assert store.ask("DELETE", "/mine") == (404, {"message": "no plugin mine is admitted"})
    assert store.admitted() == {}


def test_a_wheel_is_sent_and_read_in_parts(store: Store) -> None:
    status, shown = store.ask("PUT", "/mine", {"wheel": WHEEL})
    assert (status, shown["wheel"]) == (200, WHEEL | {"received": 0})
    part = f"/mine/wheel/{SHA256}"
    assert store.send("GET", f"{part}/0", b"").status == 404
    assert store.send("PUT", f"{part}/{PART_BYTES}", b"end").status == 409, "the first part comes first"
    first = store.send("PUT", f"{part}/0", DATA[:PART_BYTES])
    assert json.loads(first.body)["wheel"]["received"] == PART_BYTES
    assert store.send("PUT", f"{part}/{PART_BYTES}", b"end").status == 200
    answers = [store.send("GET", f"{part}/{offset}", b"") for offset in (0, PART_BYTES)]
    assert b"".join(answer.body for answer in answers) == DATA
    assert answers[0].fields == b"Content-Type: application/octet-stream\r\n"


def test_only_a_new_document_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.ask("PUT", "/mine", {"wheel": WHEEL})
    store.ask("PUT", "/other", {})
    mine = store.admitted()["mine"]
    reads: list[str] = []

    def read(record: PluginRecord) -> Plugin:
        reads.append(record.name)
        return Plugin(record.name)

    monkeypatch.setattr(plugins_module, "_plugin", read)
    store.send("PUT", f"/mine/wheel/{SHA256}/0", DATA[:PART_BYTES])
    assert (store.admitted()["mine"] is mine, reads) == (True, [])
    store.ask("PUT", "/other", {"versions": ">=1"})
    assert (store.admitted()["mine"] is mine, reads) == (True, ["other"])
    store.ask("DELETE", "/mine")
    assert list(store.admitted()) == ["other"]


def test_a_deep_schema_is_refused_with_its_field(store: Store) -> None:
    schema: Any = True
    for _ in range(900):
        schema = {"items": schema}
    status, told = store.ask("PUT", "/mine", {"schema": {"properties": {"a": schema}}})
    assert (status, "schema.properties.a.items" in told["message"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("0", bytes(PART_BYTES + 1), 413),
        ("x", b"1", 400),
        ("-1", b"1", 400),
        ("1", b"1", 409),
    ],
)
def test_a_part_that_cannot_be_is_refused(store: Store, path: str, body: bytes, status: int) -> None:
    store.ask("PUT", "/mine", {"wheel": WHEEL})
    assert store.send("PUT", f"/mine/wheel/{SHA256}/{path}", body).status == status
    assert store.send("PUT", f"/mine/wheel/{'0' * 64}/0", body[:1]).status == 404
    assert store.send("PUT", f"/other/wheel/{SHA256}/0", body[:1]).status == 404


@pytest.mark.parametrize(
    ("path", "document", "status", "words"),
    [
        ("/Mine", {}, 400, "name: 'Mine' is not a Type"),
        ("/mine", {"name": "other"}, 400, "name: is not mine"),
        ("/mine", {"versions": "1"}, 400, "versions: '1' is not a range"),
        ("/mine", {"unknown": 1}, 400, "document: not the description of a plugin"),
        ("/mine", {"schema": {"properties": {"a": {"type": "text"}}}}, 400, "schema.properties.a.type: "),
        ("/mine", {"schema": SCHEMA, "settings": {"port": "x"}}, 400, "settings.Port: 'x' is not of type"),
        ("/vxlan", {}, 409, "vxlan is built in"),
    ],
)
def test_what_cannot_be_admitted_is_refused_with_its_field(
    store: Store, path: str, document: object, status: int, words: str
) -> None:
    told = store.ask("PUT", path, document)
    assert told[0] == status
    assert words in told[1]["message"]
    assert store.admitted() == {}


def test_built_in_backends_are_shown_and_stay(store: Store) -> None:
    status, shown = store.ask("GET", "/vxlan")
    assert (status, shown["builtIn"], "VNI" in shown["schema"]["properties"]) == (200, True, True)
    assert store.ask("DELETE", "/vxlan")[0] == 409
    assert store.ask("GET", "/nothing")[0] == 404


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (beyond_level(2, 1), 409, "feature level 2 is not in force"),
        (too_many(), 503, "too many requests"),
        (timed_out(), 503, "timed out"),
    ],
)
def test_what_the_cluster_cannot_do_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: Fault, status: int, words: str
) -> None:
    def propose(command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        done(fault)

    monkeypatch.setattr(store.member, "propose", propose)
    told = store.ask("PUT", "/mine", {})
    assert (told[0], words in told[1]["message"]) == (status, True)


def test_a_document_of_a_later_release_admits_its_name(store: Store) -> None:
    later = AdmitPlugin("mine", b'{"name":"mine","later":1}')
    store.member.propose(encode(later), lambda _: None, b"")
    assert store.admitted()["mine"].schema is None
    assert store.ask("GET", "/mine") == (200, {"name": "mine"})


@pytest.mark.parametrize(
    ("method", "path"), [("POST", ""), ("POST", "/mine"), ("DELETE", f"/mine/wheel/{SHA256}/0")]
)
def test_other_methods_are_refused(store: Store, method: str, path: str) -> None:
    assert store.send(method, path, b"").status == 405
    assert store.send("GET", "/a/b/c", b"").status == 404


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
def test_the_gate_is_told(method: bytes) -> None:
    made = operation(Request(method, b"/netstore/plugins/mine"))
    assert (made.accesses, made.may_write) == ((Access(Kind.PLUGIN),), method != b"GET")
