"""Reads and writes the file subnet.env (`network.subnetenv`), which is replaced atomically."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from netstore.network.subnetenv import SubnetEnv, parse_subnet_env

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES: Final = 64 * 1024


def write(path: Path, text: str) -> None:
    """Replace the file (mode 0644); creates its folder (0755) if there is none. OSError if that fails."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> SubnetEnv:
    """What an earlier run wrote."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return SubnetEnv()
    return parse_subnet_env(text)
