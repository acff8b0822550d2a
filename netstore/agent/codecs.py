"""Lets pyroute2's message classes be imported without the rest of pyroute2.

Its package imports all that it has when anything of it is imported: sockets, an event loop, a database of
interfaces. That takes as long as everything else at the agent's start together, and half of its memory.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = "pyroute2"


@contextmanager
def message_classes() -> Iterator[None]:
    """Within the block, modules of pyroute2 are imported alone: another module stands for the package.
    Afterwards none of them is known to the interpreter, so that who imports pyroute2 gets all of it, in the
    order that it needs.
    """
    spec = find_spec(PACKAGE) if PACKAGE not in sys.modules else None
    if spec is None or spec.submodule_search_locations is None:  # it is loaded, or not installed
        yield
        return
    stand_in = ModuleType(PACKAGE)
    stand_in.__spec__ = spec
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[PACKAGE] = stand_in
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
