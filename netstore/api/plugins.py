"""The plugin store, below `/netstore/plugins`:

* `GET /netstore/plugins`: the admitted plugins, and the names of the built-in and the foreign backends;
* `GET /netstore/plugins/NAME`: one of them, or a built-in backend, with its schema;
* `PUT /netstore/plugins/NAME` with the document of a plugin (`network.plugins`): admit it, or change it;
* `DELETE /netstore/plugins/NAME`: retire it, with its wheel;
* `PUT /netstore/plugins/NAME/wheel/SHA256/OFFSET` with the bytes of one part: append it to the wheel;
* `GET /netstore/plugins/NAME/wheel/SHA256/OFFSET`: the part that begins there.

Answers are JSON, but for the parts. What is read is what this member has applied.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.api.http.body import BadBody, json_body
from netstore.api.http.responses import JSON, json_line, method_allowed, not_found
from netstore.errors import Fault, Reason
from netstore.network.backends import BUILT_IN, FOREIGN, schema_of
from netstore.network.plugins import (
    PART_BYTES,
    Plugin,
    PluginError,
    check_schema,
    encode_plugin,
    parse_plugin,
)
from netstore.state.commands import AdmitPlugin, PutWheelPart, RetirePlugin, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from netstore.api.beside import Beside
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from netstore.state.plugins import PluginRecord, Plugins

OCTETS: Final = b"Content-Type: application/octet-stream\r\n"


class Admitted:
    """The admitted plugins by name. Each document is read once."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._changes = -1
        self._by_name: dict[str, Plugin] = {}
        self._documents: dict[str, bytes] = {}
        """What `_by_name` was read from."""

    def __call__(self) -> Mapping[str, Plugin]:
        """All of them. O(1) if nothing changed since the last call; else it reads the documents that are new:
        a part of a wheel changes none.
        """
        if self._changes != self._plugins.changes:
            self._changes = self._plugins.changes
            records = self._plugins.by_name
            self._by_name = {
                name: self._by_name[name] if self._documents.get(name) is record.document else _plugin(record)
                for name, record in records.items()
            }
            self._documents = {name: record.document for name, record in records.items()}
        return self._by_name


def _plugin(record: PluginRecord) -> Plugin:
    """The plugin that a record describes; of one that a later release has written, the name alone."""
    try:
        return parse_plugin(record.document)
    except PluginError:
        return Plugin(record.name)


class PluginsApi:
    """Handles requests below `/netstore/plugins` for one member."""

    def __init__(self, member: Member, admitted: Admitted, beside: Beside) -> None:
        self._member = member
        self._plugins = member.machine.plugins
        self._admitted = admitted
        self._beside = beside

    def handle(self, exchange: Exchange, names: Sequence[str]) -> None:
        """Answer now, or once the change is made or refused. BadBody for a body that cannot be used."""
        match names:
            case []:
                self._list(exchange)
            case [name]:
                self._one(exchange, name)
            case [name, "wheel", digest, offset]:
                self._wheel(exchange, name, digest, offset)
            case _:
                not_found(exchange)

    def _list(self, exchange: Exchange) -> None:
        if method_allowed(exchange, b"GET"):
            shown = [self._shown(name) for name in sorted(self._plugins.by_name)]
            _respond(exchange, 200, {"plugins": shown, "builtIn": list(BUILT_IN), "foreign": sorted(FOREIGN)})

    def _one(self, exchange: Exchange, name: str) -> None:
        if not method_allowed(exchange, b"GET,PUT,DELETE"):
            return
        method = exchange.request.method
        if method == b"PUT":
            self._admit(exchange, name)
        elif name in self._plugins.by_name:
            if method == b"GET":
                _respond(exchange, 200, self._shown(name))
            else:
                self._propose(exchange, RetirePlugin(name), partial(_constant, self._shown(name)))
        elif name not in BUILT_IN:
            raise BadBody(404, f"no plugin {name[:64]} is admitted")
        elif method == b"GET":
            _respond(exchange, 200, {"name": name, "builtIn": True, "schema": schema_of(BUILT_IN[name])})
        else:
            raise BadBody(409, f"{name} is built in, and cannot be retired")

    def _shown(self, name: str) -> dict[str, Any]:
        if name not in self._plugins.by_name:  # retired since
            return {"name": name}
        shown: dict[str, Any] = msgspec.to_builtins(self._admitted()[name])
        if "wheel" in shown:
            shown["wheel"] |= {"received": self._plugins.by_name[name].received}
        return shown

    def _admit(self, exchange: Exchange, name: str) -> None:
        document = json_body(exchange)
        if document.setdefault("name", name) != name:
            raise BadBody(400, f"name: is not {name[:64]}, which the path names; leave it out")
        if name in BUILT_IN:
            raise BadBody(409, f"{name} is built in; admit a plugin under a name of its own")
        document["since"] = self._member.clock.wall() // 10**9
        try:
            plugin = parse_plugin(msgspec.json.encode(document))
        except PluginError as error:
            raise BadBody(400, str(error)) from None
        if plugin.schema is None:
            self._checked(exchange, plugin, None)
        else:
            self._beside.run(partial(_check, plugin), partial(self._checked, exchange, plugin))

    def _checked(self, exchange: Exchange, plugin: Plugin, fault: Fault | None) -> None:
        if fault is not None:
            _respond_message(exchange, 503 if fault.reason else 400, fault.cause.decode("utf-8", "replace"))
            return
        wheel = plugin.wheel
        digest, size = (b"", 0) if wheel is None else (bytes.fromhex(wheel.sha256), wheel.size)
        command = AdmitPlugin(plugin.name, encode_plugin(plugin), digest, size)
        self._propose(exchange, command, partial(self._shown, plugin.name))

    def _wheel(self, exchange: Exchange, name: str, digest: str, offset: str) -> None:
        if not method_allowed(exchange, b"GET,PUT"):
            return
        record = self._plugins.by_name.get(name)
        if record is None or not record.size or record.digest.hex() != digest:
            raise BadBody(
                404, f"no wheel of {name[:64]} with this SHA-256 is expected; admit the plugin first"
            )
        if not (offset.isascii() and offset.isdigit() and len(offset) < 10):
            raise BadBody(400, "offset: is not a number of bytes")
        if exchange.request.method == b"PUT":
            body = exchange.request.body
            if exchange.request.too_large or len(body) > PART_BYTES:
                raise BadBody(413, f"send parts of {PART_BYTES} bytes")
            command = PutWheelPart(name, record.digest, int(offset), body)
            self._propose(exchange, command, partial(self._shown, name))
            return
        part = self._plugins.part(name, int(offset))
        if part is None:
            raise BadBody(404, f"no part of the wheel begins at byte {offset}, or it has not arrived")
        exchange.respond(200, OCTETS, part)

    def _propose(self, exchange: Exchange, command: Command, answer: Callable[[], dict[str, Any]]) -> None:
        """`answer` makes the document that answers, once the command was applied."""
        done = partial(self._done, exchange, answer)
        self._member.propose(encode(command), done, exchange.principal.encode())

    def _done(
        self, exchange: Exchange, answer: Callable[[], dict[str, Any]], outcome: Outcome | Fault
    ) -> None:
        if isinstance(outcome, Fault):
            status = 409 if outcome.outcome_known and outcome.reason is not Reason.TOO_MANY else 503
            _respond_message(exchange, status, outcome.cause.decode("utf-8", "replace"))
        else:
            _respond(exchange, 200, answer())


def _constant(document: dict[str, Any]) -> dict[str, Any]:
    return document


def _check(plugin: Plugin) -> Fault | None:
    try:
        check_schema(plugin)
    except PluginError as error:
        return Fault(209, str(error).encode())
    return None


def _respond_message(exchange: Exchange, status: int, message: str) -> None:
    _respond(exchange, status, {"message": message})


def _respond(exchange: Exchange, status: int, document: object) -> None:
    exchange.respond(status, JSON, json_line(document))
