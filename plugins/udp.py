"""The backend udp of flannel is refused. It passes each packet through a process of its own, which flannel
has for kernels without VXLAN; every kernel that the agent runs on has it.
"""

from __future__ import annotations

from typing import ClassVar

from netstore import __version__
from netstore.agent.backend import Manifest, Refused


class Udp:
    """The backend `udp`, which is there to say why there is none: it cannot be made."""

    manifest: ClassVar[Manifest] = Manifest(name="udp", version=__version__, lease_type="")

    def __init__(self, options: object) -> None:
        del options
        raise Refused(
            "udp: this agent does not pass packets through a process of its own; write into the network"
            ' config "Backend":{"Type":"vxlan"}, or "host-gw" if all nodes share one layer 2 network.'
            " A config without a Backend section means udp"
        )
