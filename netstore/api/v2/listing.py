"""A large directory as an answer: found, shown and sent in pieces (`api.v2.pieces`).

What it shows is the tree as it was when the request was handled (`state.v2.walk`). A walk slows every change
of the tree down and keeps what changes under it, so there are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api.v2.pieces import STEP_WORK
from netstore.api.v2.render import NODE_WORK, closing
from netstore.state.v2.walk import Closed, Opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.api.v2.render import Part, Renderer
    from netstore.state.v2.walk import Walk

_NODES: Final = b',"nodes":['


def listing_parts(walk: Walk, render: Renderer) -> Iterator[Part]:
    """The answer in pieces of bounded work. Raises `WalkLost`."""
    yield b'{"action":"get","node":', 0
    before = b""
    for row in walk.rows():
        if row is None:
            yield b"", STEP_WORK
        elif isinstance(row, Opened):
            yield before, 0
            yield from render.opening_parts(row.directory)
            before = _NODES
        elif isinstance(row, Closed):
            yield (b"" if before is _NODES else b"]") + closing(row.directory), NODE_WORK
            before = b","
        else:
            yield before, 0
            yield from render.node_parts(row)
            before = b","
    yield b"}\n", 0
