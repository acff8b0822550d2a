"""The private keys of the backend wireguard, and how one takes the place of another.

A node has one key, and two while it changes it. Each has a slot, which stands for the names and ports of the
devices that use it, so that both keys work side by side: a WireGuard device has one key, and forgets all
sessions when it is given another. The steps of a change:

1. The new key is made, and with it a second device, which serves the same peers.
2. When this device is ready, the lease publishes the new key instead of the old one.
3. When the store has confirmed that, packets leave through the new device. A peer that has not read the new
   lease yet sends to the old one, which takes them. What is sent to such a peer waits in the new device until
   the peer, who knows the new key then, opens a session.
4. After `DRAIN_SECONDS` the old device and the old key are removed.

Whichever step a node dies in, the keys that are kept and the devices that exist say where to go on.
"""

from __future__ import annotations

import os
import time
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from netstore_plugins import keptfile

from netstore.agent.backend import Refused
from netstore.network.backends import KEY_BYTES, WIREGUARD_PORTS_ABOVE

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

DRAIN_SECONDS: Final = 180.0
"""How long the old device is kept: until the kernel itself would refuse its sessions (REJECT_AFTER_TIME)."""

SPREAD: Final = 0.1
"""The part of a key's lifetime over which nodes that were installed together spread their changes."""

ROTATE: Final = "rotate"
"""Name of a file that an operator makes in the backend's folder to have the key changed now."""

_KEY_TEXT_BYTES: Final = 64


class Slot(NamedTuple):
    """Where a key is kept, what is appended to the names of its devices, and added to their ports."""

    file: str
    suffix: str
    port: int


SLOTS: Final = (Slot("key", "", 0), Slot("key-b", "-b", WIREGUARD_PORTS_ABOVE))


class Key(msgspec.Struct, frozen=True):
    """A private key, its public key, and when it was made, in seconds since 1970."""

    slot: Slot
    private: bytes
    public: bytes
    made: float

    def __repr__(self) -> str:
        return f"Key({self.slot.file}, {encode_key(self.public)})"


def parse_key(text: str) -> bytes:
    """The 32 bytes of a key in base64. ValueError says what is wrong, without showing the text."""
    try:
        key = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        raise ValueError("it is not base64") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"it has {len(key)} bytes, not {KEY_BYTES}")
    return key


def encode_key(key: bytes) -> str:
    """The key in base64, as `wg` shows it."""
    return b64encode(key).decode()


class Keys:
    """The keys in one folder. `lifetime` is in seconds, 0 for keys that do not grow old."""

    def __init__(self, folder: Path, lifetime: float) -> None:
        self._folder = folder
        self._lifetime = lifetime
        found = [key for key in map(self._read, SLOTS) if key is not None]
        self.all = sorted(found, key=lambda key: key.made) or [self._make(SLOTS[0])]
        """One or two, the newest last."""
        self._retire_at: float | None = None

    def offered(self, ready: Collection[str], names: Collection[str]) -> Key:
        """The key to publish: the newest whose devices are all in `ready`, else the oldest, as while nothing
        is known. `names` are those of the devices in the first slot.
        """
        return next(
            (key for key in reversed(self.all) if all(f"{name}{key.slot.suffix}" in ready for name in names)),
            self.all[0],
        )

    def published(self, public: bytes | None) -> Key | None:
        """The key with this public key."""
        return next((key for key in self.all if key.public == public), None)

    def advance(self, used: Key, now: float) -> None:
        """Begin a change of the key if one is due, or end the one under way. `used` is the key of the device
        that packets leave through, `now` a monotonic time in seconds.
        """
        if len(self.all) == 1:
            if self._is_due(used):
                free = next(slot for slot in SLOTS if slot != used.slot)
                self.all.append(self._make(free))
                keptfile.remove(self._folder / ROTATE)
        elif used is not self.all[-1]:
            self._retire_at = None
        elif self._retire_at is None:
            self._retire_at = now + DRAIN_SECONDS
        elif now >= self._retire_at:
            keptfile.remove(self._folder / self.all[0].slot.file)
            del self.all[0]
            self._retire_at = None

    def _is_due(self, key: Key) -> bool:
        if (self._folder / ROTATE).exists():
            return True
        lifetime = self._lifetime * (1 - SPREAD * key.public[0] / 256)
        return bool(lifetime) and time.time() - key.made >= lifetime

    def _read(self, slot: Slot) -> Key | None:
        path = self._folder / slot.file
        text = keptfile.read(path, _KEY_TEXT_BYTES)
        if text is None:
            return None
        try:
            private = clamp(parse_key(text.decode("ascii", "replace").strip()))
        except ValueError as error:
            raise Refused(f"{path} is not a private key: {error}; remove it to have a new one made") from None
        return Key(slot, private, public_key(private), path.stat().st_mtime)

    def _make(self, slot: Slot) -> Key:
        path = self._folder / slot.file
        private = clamp(os.urandom(KEY_BYTES))
        keptfile.write(path, encode_key(private).encode() + b"\n")
        return Key(slot, private, public_key(private), path.stat().st_mtime)


def clamp(private: bytes) -> bytes:
    """The key with the bits set that X25519 sets anyhow (RFC 7748, 5), as the kernel shows it again."""
    first, *middle, last = private
    return bytes((first & 248, *middle, last & 127 | 64))


def public_key(private: bytes) -> bytes:
    """The public key of a private one (X25519, RFC 7748)."""
    # Imported here: only nodes with this backend need it, and it takes 40 ms.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
