"""netstore: a Raft store, a network agent and a command for clusters with a flannel pod network."""

from typing import Final

__version__: Final = "0.1.0"
