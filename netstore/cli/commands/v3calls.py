"""Calls of the v3 API for commands."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from netstore.cli.commands.invocation import Settings
    from netstore.client.v3 import V3Client


@asynccontextmanager
async def v3_client(settings: Settings, endpoints: tuple[str, ...] | None = None) -> AsyncIterator[V3Client]:
    """A client for these endpoints, or for those of the settings. What is raised within comes out as it
    is.
    """
    from netstore.client.v3 import connect  # noqa: PLC0415 - see Settings.run

    async with connect(settings.connection(endpoints or settings.addresses())) as client:
        yield client
