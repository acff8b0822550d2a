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
    import trio  # noqa: PLC0415 - see Settings.run

    from netstore.client.grpc import Channel  # noqa: PLC0415 - same
    from netstore.client.v3 import V3Client  # noqa: PLC0415 - same

    to = settings.connection(endpoints or settings.addresses())
    fault: BaseException | None = None
    async with trio.open_nursery() as nursery:
        channel = Channel(
            nursery,
            to.endpoints,
            ca_file=to.ca_file,
            cert_file=to.cert_file,
            key_file=to.key_file,
            timeout=to.timeout,
        )
        try:
            yield V3Client(channel, to.username, to.password)
        except BaseException as error:  # noqa: BLE001 - raised within, it would come out of the nursery in a group
            fault = error
        nursery.cancel_scope.cancel()
    if fault is not None:
        raise fault
