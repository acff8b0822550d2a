"""The listing of a large directory, rendered part by part and delivered in steps (`api.v2.delivery`).

It shows the tree as it was when the request was handled (`state.v2.walk`). A walk slows down every change of
the tree, and keeps what changes below it, so there may be only a few at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api.v2.delivery import STEP_WORK
from netstore.api.v2.render import NODE_WORK, closing
from netstore.state.v2.walk import Closed, Opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.api.v2.render import Part, Renderer
    from netstore.state.v2.walk import Walk

_NODES: Final = b',"nodes":['


def listing_parts(walk: Walk, render: Renderer) -> Iterator[Part]:
    """The body of the answer in parts of bounded work. Raises `WalkLost`."""
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
