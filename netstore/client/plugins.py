"""The plugin store of a netstored: which plugins are admitted, and their wheels (`/netstore/plugins`)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from netstore.client.cluster import Refused
from netstore.client.faults import BadAnswer
from netstore.errors import NetstoreError
from netstore.network.plugins import PART_BYTES, Plugin, PluginError, Wheel, check_plugin, encode_plugin

if TYPE_CHECKING:
    from netstore.client.transport import Reply, Transport

PATH: Final = "/netstore/plugins"


class Stored(msgspec.Struct, frozen=True):
    """An admitted plugin, and how many bytes of its wheel have arrived. `has_unusable_schema`: it has a
    schema, which a later release has written, and which is left out here.
    """

    plugin: Plugin
    received: int = 0
    has_unusable_schema: bool = False


class PluginsClient:
    """The plugin store behind the endpoints of a transport. Raises `Refused` for what the store refuses, with
    status 404 if it has no such plugin or keeps none at all; else the errors of `client.faults`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def admitted(self) -> tuple[Stored, ...]:
        """All admitted plugins, by name."""
        document = await self._ask("GET", PATH)
        return tuple(_stored(each) for each in document["plugins"])

    async def document(self, name: str) -> dict[str, Any]:
        """What the store says of one plugin, or of a built-in backend."""
        return await self._ask("GET", f"{PATH}/{quote(name, safe='')}")

    async def plugin(self, name: str) -> Stored:
        """One admitted plugin."""
        stored = _stored(await self.document(name))
        if stored.plugin.name != name:
            raise Refused(409, f"the store answers with {stored.plugin.name}, and not with {name}")
        return stored

    async def admit(self, plugin: Plugin) -> Stored:
        """Admit a plugin, or change it. Parts of the same wheel that have arrived stay."""
        return _stored(await self._ask("PUT", self._path(plugin), msgspec.Raw(encode_plugin(plugin))))

    async def retire(self, name: str) -> Stored:
        """Remove a plugin, with its wheel; returns what it was."""
        return _stored(await self._ask("DELETE", f"{PATH}/{quote(name, safe='')}"))

    async def send(self, stored: Stored, data: bytes) -> Stored:
        """Send what the store does not have of the wheel of an admitted plugin."""
        while stored.plugin.wheel is not None and stored.received < stored.plugin.wheel.size:
            part = data[stored.received : stored.received + PART_BYTES]
            path = self._part(stored, stored.received)
            content = ("application/octet-stream", part)
            async with self._transport.request("PUT", path, content=content, write=True) as response:
                reply = _reply(response.endpoint, response.status, await response.body())
            sent = _stored(_document(reply, write=True))
            if sent.received <= stored.received:
                raise BadAnswer(reply.endpoint, "did not take a part of the wheel", status=reply.status)
            stored = sent
        return stored

    async def wheel(self, stored: Stored) -> bytes:
        """The wheel of an admitted plugin. NetstoreError if it has none, or not what its digest says."""
        wheel = stored.plugin.wheel
        if wheel is None:
            raise NetstoreError(f"{stored.plugin.name}: no wheel is stored; install the plugin by hand")
        if stored.received < wheel.size:
            raise NetstoreError(
                f"{stored.plugin.name}: {stored.received} of {wheel.size} bytes have arrived; send the wheel"
                " again with netstorectl plugin admit"
            )
        parts: list[bytes] = []
        for offset in range(0, wheel.size, PART_BYTES):
            async with self._transport.request("GET", self._part(stored, offset), write=False) as response:
                reply = _reply(response.endpoint, response.status, await response.body())
            if reply.status != 200:
                _document(reply, write=False)
            parts.append(reply.body)
        data = b"".join(parts)
        if hashlib.sha256(data).hexdigest() != wheel.sha256:
            raise NetstoreError(f"{stored.plugin.name}: the wheel in the store is not what its digest says")
        return data

    async def _ask(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        write = method != "GET"
        return _document(await self._transport.call(method, path, document, write=write), write=write)

    def _path(self, plugin: Plugin) -> str:
        return f"{PATH}/{quote(plugin.name, safe='')}"

    def _part(self, stored: Stored, offset: int) -> str:
        assert stored.plugin.wheel is not None  # noqa: S101 - the callers look; for the type checker
        return f"{self._path(stored.plugin)}/wheel/{stored.plugin.wheel.sha256}/{offset}"


def _reply(endpoint: str, status: int, body: bytes) -> Reply:
    from netstore.client.transport import Reply  # noqa: PLC0415 - whoever made the transport has loaded it

    return Reply(endpoint, status, body)


def _document(reply: Reply, *, write: bool) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = None
    if reply.status == 404 and not isinstance(document, dict):
        raise Refused(404, "this store keeps no plugins: it is etcd, or a netstored of an earlier release")
    if not isinstance(document, dict):
        raise BadAnswer(
            reply.endpoint,
            f"answered {reply.status}, and not with a JSON object",
            status=reply.status,
            outcome_known=not write or 400 <= reply.status < 500,
        )
    if reply.status >= 300:
        known = not write or reply.status != 503
        raise Refused(reply.status, str(document.get("message", "")), outcome_known=known)
    return document


def _stored(document: dict[str, Any]) -> Stored:
    """What a store says of a plugin, checked. Fields of a later release are ignored, and so is a schema that
    cannot be used here.
    """
    known = {name: document[name] for name in Plugin.__struct_fields__ if name in document}
    received = 0
    wheel = known.get("wheel")
    if isinstance(wheel, dict):
        received = wheel.get("received", 0)
        known["wheel"] = {name: wheel[name] for name in Wheel.__struct_fields__ if name in wheel}
    try:
        stored = msgspec.convert({"plugin": known, "received": received}, Stored)
        without = msgspec.structs.replace(stored.plugin, schema=None)
        check_plugin(without)
    except (msgspec.ValidationError, PluginError) as error:
        raise Refused(
            409, f"the store describes a plugin in a way that is not known here ({error})"
        ) from None
    try:
        check_plugin(stored.plugin)
    except PluginError:
        return Stored(without, stored.received, has_unusable_schema=True)
    return stored
