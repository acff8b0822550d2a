"""Installs admitted plugins from the cluster's plugin store, where the operator allows it.

A plugin is installed when the network config names a backend that this node does not have. Its wheel is
fetched, its digest and, where keys are given, its signature are checked, and it is unpacked into a folder of
its own below `folder`, which is put on the path of modules. Nothing in it runs before all checks passed.
Plugins that an operator installed come first, and are never replaced.

This module is imported where plugins may be installed: what it needs takes 30 ms to import.
"""

from __future__ import annotations

import base64
import importlib
import os
import shutil
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.backend import GROUP
from netstore.client.faults import ClientError
from netstore.errors import NetstoreError
from netstore.network.plugins import is_in_range
from netstore.network.wheel import BadWheel, read_wheel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from netstore.client.plugins import PluginsClient
    from netstore.network.plugins import Plugin, Wheel
    from netstore.network.wheel import WheelContent

MAX_KEY_BYTES: Final = 16 * 1024


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

    async def provide(self, name: str) -> None:
        """Make sure that the backend can be found. NotInstalled with the reason if it cannot; ClientError if
        the store cannot be asked.
        """
        if name in {point.name for point in entry_points(group=GROUP)}:
            return
        client = await self._client()
        admitted = {each.plugin.name: each for each in await client.admitted()}
        stored = admitted.get(name)
        if stored is None:
            raise NotInstalled(f"{name}: is neither installed here nor admitted; see netstorectl plugin ls")
        wheel = stored.plugin.wheel
        if wheel is None:
            raise NotInstalled(f"{name}: is admitted without a wheel; install it on this node")
        target = self._folder / f"{name}-{wheel.sha256}"
        if not target.is_dir():
            try:
                data = await client.wheel(stored)
            except ClientError:
                raise
            except NetstoreError as error:
                raise NotInstalled(str(error)) from None
            content = await trio.to_thread.run_sync(self._checked, stored.plugin, wheel, data)
            await trio.to_thread.run_sync(self._unpack, content, target)
        sys.path.append(str(target))
        importlib.invalidate_caches()
        if name not in {point.name for point in entry_points(group=GROUP)}:
            raise NotInstalled(f"{name}: its wheel is unpacked in {target} and cannot be found; remove that")
        self.wheels[name] = wheel.sha256

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
        signature, digest = base64.b64decode(wheel.signature), bytes.fromhex(wheel.sha256)
        for path in self._keys:
            try:
                with path.open("rb") as file:
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

    def _unpack(self, content: WheelContent, target: Path) -> None:
        """Write the files in one step: the folder has all of them, or is not there."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            try:
                for path, data in content.files.items():
                    file = new / path
                    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    file.write_bytes(data)
                os.rename(new, target)  # noqa: PTH104 - of two names
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
        except OSError as error:
            raise NotInstalled(
                f"{target}: cannot be written ({error.strerror}); correct plugins.folder"
            ) from None
