"""At the end every member's image is the one that the committed log gives when it is replayed into a fresh
state machine (P9; "same input, same bytes").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.image import digest, image
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from tests.sim.world import World


class Digest(Invariant):
    """Compares full images, so that a difference can be shown."""

    def __init__(self, world: World) -> None:
        super().__init__(world)

    def finished(self) -> None:
        machine = self.world.ledger.replay()
        wanted = image(machine)
        if self.world.trace is not None:
            self.world.note(f"image at {machine.applied}: {digest(machine)}")
        for member in self.world.running():
            if member.machine.applied == machine.applied:
                here = image(member.machine)
                odd = [pair for pair in zip(wanted, here, strict=False) if pair[0] != pair[1]][:3]
                require(here == wanted, "the image is not what the log gives", member=member.id, odd=odd)
