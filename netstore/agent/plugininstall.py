"""Installs admitted plugins from the cluster's plugin store, where the operator allows it.

A plugin is installed when the network config names a backend that this node does not have. Its wheel is
fetched, its digest, its version and, where keys are given, its signature are checked, and it is unpacked into
a folder of its own below `folder`, which is put on the path of modules. Nothing in it runs before all checks
passed. Plugins that an operator installed come first, and are never replaced.

The wheel is kept beside what was unpacked. At each start it is checked again in the same way and unpacked
anew, so that what runs is what was checked; when the plugin was retired since, the kept wheel goes on to
be used.

This module is imported where plugins may be installed: what it needs takes 30 ms to import.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import importlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.backend import GROUP
from netstore.agent.entrypoints import entry_points
from netstore.client.faults import ClientError
from netstore.client.plugins import Stored
from netstore.errors import NetstoreError
from netstore.inputfile import open_regular
from netstore.network.plugins import (
    MAX_DOCUMENT_BYTES,
    MAX_WHEEL_BYTES,
    PluginError,
    encode_plugin,
    is_in_range,
    parse_plugin,
)
from netstore.network.wheel import BadWheel, read_wheel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from netstore.client.plugins import PluginsClient
    from netstore.network.plugins import Plugin, Wheel
    from netstore.network.wheel import WheelContent

MAX_KEY_BYTES: Final = 16 * 1024


FOLDER_MODE: Final = 0o700

NOT_FOUND: Final = 404

KEPT_WHEEL: Final = "wheel"
KEPT_DOCUMENT: Final = "plugin.json"
MODULES: Final = "modules"
"""In the folder of a plugin: its wheel, the document that described it, and the unpacked files."""


class NotInstalled(NetstoreError):  # noqa: N818 - named for what happened
    """The plugin is not installed: the reason, and what to do."""


class PluginInstaller:
    """Installs plugins into one folder. `client` opens the plugin store."""

    def __init__(
        self,
        folder: Path,
        keys: Sequence[Path],
        client: Callable[[], Awaitable[PluginsClient]],
    ) -> None:
        """`keys` are PEM files of Ed25519 keys, one of which must have signed each wheel; none: a wheel need
        not be signed.
        """
        self._folder = folder
        self._keys = keys
        self._client = client
        self.wheels: dict[str, str] = {}
        """The SHA-256 of the wheel of each plugin installed here, by name."""

    async def provide(self, name: str) -> Plugin | None:
        """Make sure that the backend can be found. The plugin that was retired since, if its kept wheel is
        used. NotInstalled with the reason if it cannot be found; ClientError if the store cannot be asked.
        """
        if name in {point.name for point in entry_points(group=GROUP)}:
            return None
        client = await self._client()
        try:
            stored = await client.plugin(name)
        except ClientError as error:
            if getattr(error, "status", 0) != NOT_FOUND:
                raise
            retired = await trio.to_thread.run_sync(self._kept_plugin, name)
            if retired is None:
                raise NotInstalled(
                    f"{name}: is neither installed here nor admitted; see netstorectl plugin ls"
                ) from None
            stored = Stored(retired)
        else:
            retired = None
        plugin, wheel = stored.plugin, stored.plugin.wheel
        if wheel is None:
            raise NotInstalled(f"{name}: is admitted without a wheel; install it on this node")
        target = self._folder / f"{name}-{wheel.sha256}"
        data = await trio.to_thread.run_sync(self._kept_wheel, target, wheel)
        if data is None:
            try:
                data = await client.wheel(stored)
            except ClientError:
                raise
            except NetstoreError as error:
                raise NotInstalled(str(error)) from None
        content = await trio.to_thread.run_sync(self._checked, plugin, wheel, data)
        await trio.to_thread.run_sync(self._unpack, plugin, data, content, target)
        sys.path.append(str(target / MODULES))
        importlib.invalidate_caches()
        if name not in {point.name for point in entry_points(group=GROUP)}:
            raise NotInstalled(f"{name}: its wheel is unpacked in {target} and cannot be found; remove that")
        self.wheels[name] = wheel.sha256
        return retired

    def _kept_wheel(self, target: Path, wheel: Wheel) -> bytes | None:
        """The wheel as it was kept, if it is what the digest says."""
        self._check_folder()
        data = _read(target / KEPT_WHEEL, MAX_WHEEL_BYTES)
        return data if data is not None and hashlib.sha256(data).hexdigest() == wheel.sha256 else None

    def _kept_plugin(self, name: str) -> Plugin | None:
        """The plugin of this name that was installed last, with a wheel that is kept."""
        self._check_folder()
        found: tuple[float, Plugin] | None = None
        for path in self._folder.glob(f"{glob.escape(name)}-*/{KEPT_DOCUMENT}"):
            text = _read(path, MAX_DOCUMENT_BYTES)
            try:
                plugin = parse_plugin(text or b"")
                written = path.stat().st_mtime
            except (PluginError, OSError):
                continue
            if plugin.name != name or plugin.wheel is None:
                continue
            if self._kept_wheel(path.parent, plugin.wheel) is not None and (not found or written > found[0]):
                found = written, plugin
        return None if found is None else found[1]

    def _check_folder(self) -> None:
        """NotInstalled if there is a folder in which another user may have written."""
        try:
            status = self._folder.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise NotInstalled(
                f"{self._folder}: cannot be used ({error.strerror}); correct plugins.folder"
            ) from None
        if not stat.S_ISDIR(status.st_mode):
            raise NotInstalled(f"{self._folder}: is not a folder; correct plugins.folder")
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != FOLDER_MODE:
            raise NotInstalled(
                f"{self._folder}: does not belong to this user alone; give it to the user of the agent, with"
                " mode 0700"
            )

    def _checked(self, plugin: Plugin, wheel: Wheel, data: bytes) -> WheelContent:
        """The content of a wheel whose digest fits, if it may be installed."""
        name = plugin.name
        self._check_signature(name, wheel)
        try:
            content = read_wheel(data)
        except BadWheel as error:
            raise NotInstalled(f"{name}: {error}") from None
        if name not in content.backends:
            raise NotInstalled(f"{name}: its wheel has no backend of this name; admit the right one")
        if not is_in_range(content.version, plugin.versions):
            raise NotInstalled(
                f"{name}: its wheel has version {content.version}, and {plugin.versions} is admitted;"
                " admit it again with another --version"
            )
        return content

    def _check_signature(self, name: str, wheel: Wheel) -> None:
        if not self._keys:
            return
        if not wheel.signature:
            raise NotInstalled(f"{name}: its wheel is not signed; sign it, or leave plugins.keys out")
        try:
            from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where keys are given
            from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - same
                Ed25519PublicKey,
            )
            from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - same
                load_pem_public_key,
            )
        except ImportError:
            raise NotInstalled(
                f"{name}: its signature cannot be checked without the package cryptography; install it"
            ) from None
        try:
            signature, digest = base64.b64decode(wheel.signature, validate=True), bytes.fromhex(wheel.sha256)
        except ValueError:
            raise NotInstalled(f"{name}: its signature is not base64; sign the wheel again") from None
        for path in self._keys:
            try:
                with open_regular(path) as file:
                    key = load_pem_public_key(file.read(MAX_KEY_BYTES))
            except (OSError, ValueError) as error:
                raise NotInstalled(f"plugins.keys: {path} is no public key in PEM ({error})") from None
            if not isinstance(key, Ed25519PublicKey):
                raise NotInstalled(f"plugins.keys: {path} is not an Ed25519 key; make one")
            try:
                key.verify(signature, digest)
            except InvalidSignature:
                continue
            return
        raise NotInstalled(f"{name}: its wheel is signed by none of plugins.keys; sign it with one of them")

    def _unpack(self, plugin: Plugin, data: bytes, content: WheelContent, target: Path) -> None:
        """Write wheel, document and files in one step, in place of what is there: the folder has all of them,
        or is not there.
        """
        try:
            self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._check_folder()
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            try:
                (new / KEPT_WHEEL).write_bytes(data)
                (new / KEPT_DOCUMENT).write_bytes(encode_plugin(msgspec.structs.replace(plugin, schema=None)))
                for path, file_data in content.files.items():
                    file = new / MODULES / path
                    file.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                    file.write_bytes(file_data)
                if target.exists():
                    shutil.rmtree(target)
                os.rename(new, target)  # noqa: PTH104 - of two names
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
        except OSError as error:
            raise NotInstalled(
                f"{target}: cannot be written ({error.strerror or error}); correct plugins.folder"
            ) from None


def _read(path: Path, most: int) -> bytes | None:
    """The content of a file of at most so many bytes; None if there is none."""
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except OSError:
        return None
    return data if len(data) <= most else None
