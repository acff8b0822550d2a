"""Which API of the store keeps a network, and the client for it: one rule for agent and command.

With `auto`, the API that has the network config under the prefix is used: v2 if both have one, because agents
that were started before the other config was written use v2 then.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

import msgspec
import trio

from netstore.client.faults import SETTINGS, TIMEOUT, BadAnswer, ClientError, TlsNames
from netstore.network.config import NetworkConfigError
from netstore.network.lease import DRAINED, SUBNETS
from netstore.network.pluginreport import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from netstore.client.plugins import PluginsClient
    from netstore.client.subnetstore import SubnetStore
    from netstore.client.v2 import V2Client

V2: Final = "v2"
V3: Final = "v3"
AUTO: Final = "auto"

OTHER_SECONDS: Final = 10.0
"""Time for the look at the other API, which only leads to a warning."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is reached, by either API. `timeout` is in seconds, for each attempt at one endpoint;
    `shuffle` distributes many clients over the endpoints.
    """

    endpoints: tuple[str, ...]
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    password: str | None = None
    timeout: float = TIMEOUT
    shuffle: Callable[[list[str]], None] | None = None
    tls_names: TlsNames = SETTINGS


def no_config(prefix: str, problem: str, *apis: str) -> NetworkConfigError:
    """There is no network config; the text says how to write one in these APIs."""
    ways = " or ".join(f"`netstorectl --store-api {api} network set`" for api in apis)
    return NetworkConfigError(f"{prefix}/config", problem, f"write one with {ways}")


def not_served(error: BadAnswer) -> BadAnswer:
    """A refusal of the v2 API that was asked for, with what to do."""
    hint = "is the v2 API on there (etcd: --enable-v2)? or set store_api to v3"
    return BadAnswer(error.endpoint, f"{error.problem}; {hint}", status=error.status)


class StoreAccess:
    """The store behind a connection, in the `api` that is asked for: v2, v3 or auto. An async context
    manager, which closes what was opened.

    `two_configs` is called once if `auto` takes v2 and v3 has a network config too; None: it is not looked
    for.
    """

    def __init__(
        self,
        connection: Connection,
        prefix: str,
        api: str = AUTO,
        two_configs: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._prefix = prefix
        self._api = api
        self._two_configs = two_configs
        self._stack = AsyncExitStack()
        self._stores: dict[tuple[str, str], SubnetStore] = {}
        """By API and folder."""
        self._v2: V2Client | None = None
        self._nursery: trio.Nursery | None = None
        """Where connections are served."""

    async def __aenter__(self) -> Self:
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        await self._stack.__aexit__(kind, error, trace)

    async def choose(self) -> tuple[str, SubnetStore]:
        """The API to use and the store in it. NetworkConfigError if that is to be found out, and no API has
        a network config; ClientError if the store cannot be asked.
        """
        found, refused = await self._search()
        if found is not None:
            return found.api, found
        for api, other in ((V2, V3), (V3, V2)):
            if api in refused:
                problem = f"{api} is not served there ({refused[api]}), and {other} has no network config"
                raise no_config(self._prefix, problem, other)
        raise no_config(self._prefix, "there is no network config, in neither API", V2, V3)

    async def choose_or_begin(self) -> SubnetStore:
        """The store in the API to use; where no API has a network config, in the one to begin a network in:
        v2 if it is served, else v3.
        """
        found, refused = await self._search()
        return found or await self.store(V3 if V2 in refused else V2)

    async def store(self, api: str, folder: str = SUBNETS) -> SubnetStore:
        """The entries of a folder under the prefix, in this API, whether it is served or not."""
        if (api, folder) not in self._stores:
            self._stores[api, folder] = (
                await self._open_v2(folder) if api == V2 else self._open_v3(self._nursery, folder)
            )
        return self._stores[api, folder]

    async def reports(self, api: str) -> SubnetStore:
        """The folder of the agents' reports, in this API."""
        return await self.store(api, FOLDER)

    async def drained(self, api: str) -> SubnetStore:
        """The folder of the nodes that may take no subnet, in this API."""
        return await self.store(api, DRAINED)

    async def plugins(self) -> PluginsClient:
        """The plugin store of the cluster."""
        from netstore.client.plugins import PluginsClient  # noqa: PLC0415 - see below

        return PluginsClient((await self._v2_client()).transport)

    async def _search(self) -> tuple[SubnetStore | None, dict[str, BadAnswer]]:
        """The store in the API that is asked for, or else that has a network config; and which APIs are not
        served, with the answer that says so.
        """
        if self._api != AUTO:
            return await self.store(self._api), {}
        refused: dict[str, BadAnswer] = {}
        for api in (V2, V3):
            store = await self.store(api)
            try:
                if await store.config() is not None:
                    return store, refused
            except BadAnswer as error:  # this API is not served there
                if refused:
                    raise
                refused[api] = error
        return None, refused

    async def look_for_another(self, used: str) -> None:
        """Tell if the API was found out, and the other one has a network config too, which is not used. A
        store that does not answer is not asked again.
        """
        tell = self._two_configs
        if tell is None or self._api != AUTO or used != V2:
            return
        found = None
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(OTHER_SECONDS), suppress(ClientError):
                found = await self._open_v3(nursery).config()
            nursery.cancel_scope.cancel()
        if found is not None:
            tell()

    # Each client is imported when it is used: httpx takes 60 ms, protobuf 30.

    async def _open_v2(self, folder: str) -> SubnetStore:
        from netstore.client.subnets_v2 import V2Subnets  # noqa: PLC0415 - see above

        return V2Subnets(await self._v2_client(), self._prefix, folder)

    async def _v2_client(self) -> V2Client:
        from netstore.client.transport import Transport  # noqa: PLC0415 - see above
        from netstore.client.v2 import V2Client  # noqa: PLC0415

        if self._v2 is not None:
            return self._v2
        to = self._connection
        transport = Transport(
            to.endpoints,
            ca_file=to.ca_file,
            cert_file=to.cert_file,
            key_file=to.key_file,
            username=to.username,
            password=to.password,
            timeout=to.timeout,
            shuffle=to.shuffle,
            tls_names=to.tls_names,
        )
        self._v2 = await self._stack.enter_async_context(V2Client(transport))
        return self._v2

    def _open_v3(self, nursery: trio.Nursery | None, folder: str = SUBNETS) -> SubnetStore:
        from netstore.client.subnets_v3 import V3Subnets  # noqa: PLC0415 - see above
        from netstore.client.v3 import open_client  # noqa: PLC0415

        assert nursery is not None, "it is an async context manager"  # noqa: S101
        return V3Subnets(open_client(nursery, self._connection), self._prefix, folder)
