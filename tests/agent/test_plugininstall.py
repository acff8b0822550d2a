"""Plugins are installed from the store, and nothing that does not fit is."""

from __future__ import annotations

import base64
import hashlib
import importlib
import stat
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from netstore.agent.backend import GROUP, find
from netstore.agent.plugininstall import NotInstalled, PluginInstaller
from netstore.agent.pluginreport import check_version
from netstore.client.cluster import Refused
from netstore.client.plugins import Stored, _stored
from netstore.errors import NetstoreError
from netstore.network.config import parse_network
from netstore.network.plugins import Plugin, Wheel
from tests.support.wheels import wheel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from netstore.client.plugins import PluginsClient

FILE = "mine-1.2-py3-none-any.whl"


class FakeClient:
    """A plugin store with one wheel."""

    def __init__(self, data: bytes, versions: str = "", signature: str = "", name: str = "my-net") -> None:
        self.data = data
        kept = Wheel(FILE, hashlib.sha256(data).hexdigest(), len(data), signature)
        self.stored = [Stored(Plugin(name, versions, wheel=kept), len(data)), Stored(Plugin("bare"))]
        self.fetched = 0

    async def plugin(self, name: str) -> Stored:
        await trio.lowlevel.checkpoint()
        for stored in self.stored:
            if stored.plugin.name == name:
                return stored
        raise Refused(404, "no such plugin")

    async def wheel(self, stored: Stored) -> bytes:
        await trio.lowlevel.checkpoint()
        self.fetched += 1
        assert stored.plugin.wheel is not None
        if hashlib.sha256(self.data).hexdigest() != stored.plugin.wheel.sha256:
            raise NetstoreError("my-net: the wheel in the store is not what its digest says")
        return self.data


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mine", "mine.backend"):
        sys.modules.pop(name, None)
    monkeypatch.undo()
    importlib.invalidate_caches()


def installer(folder: Path, client: FakeClient, keys: Sequence[Path] = ()) -> PluginInstaller:
    async def opened() -> PluginsClient:
        await trio.lowlevel.checkpoint()
        return cast("PluginsClient", client)

    return PluginInstaller(folder / "plugins", keys, opened)


async def refusal(installer: PluginInstaller, name: str = "my-net") -> str:
    before = list(sys.path)
    with pytest.raises(NotInstalled) as caught:
        await installer.provide(name)
    assert sys.path == before
    return str(caught.value)


async def test_a_wheel_is_unpacked_and_its_backend_found(tmp_path: Path) -> None:
    client = FakeClient(wheel(), "==1.2")
    made = installer(tmp_path, client)
    await made.provide("my-net")
    [point] = [point for point in entry_points(group=GROUP) if point.name == "my-net"]
    assert point.load().manifest.version == "1.2"
    assert point.dist is not None
    assert point.dist.version == "1.2"
    folder = tmp_path / "plugins"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == [f"my-net-{made.wheels['my-net']}"]
    await made.provide("my-net")
    assert client.fetched == 1
    sys.path.pop()
    importlib.invalidate_caches()
    await installer(tmp_path, client).provide("my-net")
    assert client.fetched == 1, "a restart finds it unpacked"


async def test_what_is_installed_already_is_not_asked_for(tmp_path: Path) -> None:
    client = FakeClient(wheel(name="host-gw"), name="host-gw")
    await installer(tmp_path, client).provide("host-gw")
    assert client.fetched == 0
    assert not (tmp_path / "plugins").exists()


async def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wrong = FakeClient(wheel())
    wrong.data = wheel(version="1.3")
    for client, name, words in (
        (wrong, "my-net", "is not what its digest says"),
        (FakeClient(wheel()), "other", "neither installed here nor admitted"),
        (FakeClient(wheel()), "bare", "admitted without a wheel"),
        (FakeClient(wheel(), "<1"), "my-net", "has version 1.2, and <1 is admitted"),
        (FakeClient(wheel(name="else")), "my-net", "has no backend of this name"),
        (FakeClient(wheel(files={"../up": b""})), "my-net", "not a path below its folder"),
    ):
        assert words in await refusal(installer(tmp_path, client), name)
    assert not (tmp_path / "plugins").exists()
    not_owned = tmp_path / "plugins"
    not_owned.mkdir(mode=0o755)
    assert "belong to this user alone" in await refusal(installer(tmp_path, FakeClient(wheel())))
    not_owned.rmdir()
    (tmp_path / "plugins").write_text("a file")
    assert "correct plugins.folder" in await refusal(installer(tmp_path, FakeClient(wheel())))


def pem(path: Path, key: PublicKeyTypes) -> Path:
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


async def test_a_wheel_must_be_signed_by_one_of_the_keys(tmp_path: Path) -> None:
    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    known = pem(tmp_path / "known.pem", key.public_key())
    other = pem(tmp_path / "other.pem", Ed25519PrivateKey.generate().public_key())
    data = wheel()
    digest = hashlib.sha256(data).digest()

    def signed(by: Ed25519PrivateKey) -> FakeClient:
        return FakeClient(data, signature=base64.b64encode(by.sign(digest)).decode())

    keys = [other, known]
    assert "is not signed" in await refusal(installer(tmp_path, FakeClient(data), keys))
    assert "signed by none of plugins.keys" in await refusal(installer(tmp_path, signed(stranger), keys))
    elliptic = pem(tmp_path / "ec.pem", generate_private_key(SECP256R1()).public_key())
    assert "is not an Ed25519 key" in await refusal(installer(tmp_path, signed(key), [elliptic]))
    assert "is no public key" in await refusal(installer(tmp_path, signed(key), [tmp_path / "none"]))
    assert not (tmp_path / "plugins").exists()
    await installer(tmp_path, signed(key), keys).provide("my-net")


def forget() -> None:
    """As if this process had just started."""
    sys.path.pop()
    importlib.invalidate_caches()


async def test_what_was_unpacked_is_checked_again_at_each_start(tmp_path: Path) -> None:
    client = FakeClient(wheel())
    made = installer(tmp_path, client)
    await made.provide("my-net")
    folder = tmp_path / "plugins" / f"my-net-{made.wheels['my-net']}"
    forget()
    code = folder / "modules" / "mine" / "backend.py"
    genuine = code.read_bytes()
    code.write_text("raise SystemExit")
    await installer(tmp_path, client).provide("my-net")
    assert (code.read_bytes(), client.fetched) == (genuine, 1), "it is unpacked anew"
    forget()
    (folder / "wheel").write_bytes(b"other")
    await installer(tmp_path, client).provide("my-net")
    assert client.fetched == 2
    forget()
    key = pem(tmp_path / "known.pem", Ed25519PrivateKey.generate().public_key())
    assert "is not signed" in await refusal(installer(tmp_path, client, [key])), (
        "keys that are given later count"
    )
    client.stored[0] = Stored(msgspec.structs.replace(client.stored[0].plugin, versions="<1"))
    assert "<1 is admitted" in await refusal(installer(tmp_path, client))


async def test_a_retired_plugin_goes_on_from_the_wheel_that_is_kept(tmp_path: Path) -> None:
    client = FakeClient(wheel(), ">=1")
    assert await installer(tmp_path, client).provide("my-net") is None
    forget()
    [retired, _] = client.stored
    del client.stored[0]
    assert await installer(tmp_path, client).provide("my-net") == retired.plugin
    assert client.fetched == 1
    forget()
    key = pem(tmp_path / "known.pem", Ed25519PrivateKey.generate().public_key())
    assert "is not signed" in await refusal(installer(tmp_path, client, [key]))
    [kept] = (tmp_path / "plugins").iterdir()
    (kept / "wheel").write_bytes(b"other")
    assert "neither installed here nor admitted" in await refusal(installer(tmp_path, client))


async def test_a_signature_that_is_not_base64_is_refused_in_words(tmp_path: Path) -> None:
    key = pem(tmp_path / "known.pem", Ed25519PrivateKey.generate().public_key())
    client = FakeClient(wheel(), signature="!")
    assert "is not base64" in await refusal(installer(tmp_path, client, [key]))


async def test_the_first_backend_of_a_name_is_used(tmp_path: Path) -> None:
    """A wheel from the store cannot replace a backend that is installed here."""
    lines = "my-net = mine.backend:Mine\nhost-gw = mine.backend:Mine\n"
    await installer(tmp_path, FakeClient(wheel(backends=lines))).provide("my-net")
    network = parse_network(b'{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}')
    assert find(network).manifest.name == "host-gw"


async def test_a_version_outside_of_the_range_is_refused_whoever_installed_it(tmp_path: Path) -> None:
    check_version(Plugin("none", ">=1"))
    await installer(tmp_path, FakeClient(wheel())).provide("my-net")
    check_version(Plugin("my-net", ">=1"))
    with pytest.raises(NetstoreError, match=r"my-net: version 1\.2 is installed here, and >=2 is admitted"):
        check_version(Plugin("my-net", ">=2"))


@pytest.mark.parametrize(
    "document",
    [
        {"name": "../elsewhere/two"},
        {"name": "mine", "wheel": {"file": FILE, "sha256": "zz", "size": 1}},
        {"name": "mine", "wheel": {"file": FILE, "sha256": "0f" * 32, "size": 10**15}},
        {"name": "mine", "wheel": {"file": FILE, "sha256": "0f" * 32, "size": 1, "received": "all"}},
    ],
)
def test_what_a_store_says_is_checked(document: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="in a way that is not known here"):
        _stored(document)


def test_fields_of_a_later_release_are_ignored() -> None:
    kept = {"file": FILE, "sha256": "0f" * 32, "size": 9, "received": 3, "later": 1}
    stored = _stored({"name": "mine", "later": {}, "schema": {"later": 1}, "wheel": kept})
    assert (stored.received, stored.plugin.name, stored.plugin.schema) == (3, "mine", None)
