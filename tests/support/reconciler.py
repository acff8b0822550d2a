"""A reconciler that is told everything that is wanted at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netstore.agent.combined import Combined, Owner
from netstore.agent.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import Collection

    from netstore.agent.wanted import Wanted


class WholeReconciler(Reconciler):
    """It finds what changed by itself."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._combined = Combined()

    async def set_wanted(self, wanted: Wanted, gateways: Collection[int]) -> None:
        """Replace what is wanted and bring the kernel in line."""
        self._combined.put("", Owner(0, 0, ""), wanted)
        await self.declare(self._combined.take_changes(), gateways)

    async def clear(self) -> int:
        """Remove everything; after it, all is declared anew."""
        self._combined = Combined()
        return await super().clear()
