"""netstore: a Raft store, a route agent and a command for clusters on host-gw networks."""

from typing import Final

__version__: Final = "0.1.0"
