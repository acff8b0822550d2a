"""Which two stores are measured side by side: netstored of this checkout, and what it is held against."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon


class Start(Protocol):
    """Starts a store that keeps everything in this folder; returns when it serves."""

    def __call__(self, tmp_path: Path, /) -> Daemon:
        """Start it."""


def beside(checkout: Path | None) -> dict[str, Start]:
    """The names of both and what starts them: netstored and etcd, or netstored and that of `checkout`."""
    if checkout is None:
        return {"netstored": start_netstored, "etcd": start_etcd}
    # Python would look into the working folder first, which is this checkout.
    environment = {"PYTHONPATH": str(checkout.resolve()), "PYTHONSAFEPATH": "1"}
    return {"netstored": start_netstored, "other": partial(start_netstored, environment=environment)}


def columns(stores: dict[str, Start]) -> tuple[str, ...]:
    """Headings for a figure of each, and their ratio."""
    return (*stores, "ratio")
