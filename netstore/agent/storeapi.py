"""Which API of the store this agent uses, and the client for it.

With `auto`, the API that has the network config under the prefix is used: v2 if both have one, because agents
that were started before the other config was written use v2 then.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

import trio

from netstore.client.faults import BadAnswer, ClientError
from netstore.network.config import NetworkConfigError
from netstore.network.pluginreport import FOLDER

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from netstore.agent.problems import ProblemLog
    from netstore.client.plugins import PluginsClient
    from netstore.client.subnetstore import SubnetStore
    from netstore.client.v2 import V2Client
    from netstore.ops.agent import AgentConfig

V2: Final = "v2"
V3: Final = "v3"
AUTO: Final = "auto"

OTHER_SECONDS: Final = 2.0
"""Time for the look at the other API, which only leads to a warning."""


def no_config(prefix: str, problem: str, *apis: str) -> NetworkConfigError:
    """There is no network config; the text says how to write one in these APIs."""
    ways = {
        V2: "`netstorectl network set` (v2)",
        V3: f"`ETCDCTL_API=3 etcdctl put {prefix}/config` (v3)",
    }
    return NetworkConfigError(
        f"{prefix}/config", problem, f"write one with {' or '.join(ways[api] for api in apis)}"
    )


def not_served(error: BadAnswer) -> BadAnswer:
    """A refusal of the v2 API that was asked for, with what to do."""
    hint = "is the v2 API on there (etcd: --enable-v2)? or set store_api to v3"
    return BadAnswer(error.endpoint, f"{error.problem}; {hint}", status=error.status)


class StoreAccess:
    """The stores behind the configured endpoints. An async context manager, which closes what was opened."""

    def __init__(self, config: AgentConfig, log: ProblemLog) -> None:
        self._config = config
        self._log = log
        self._has_looked = False
        """It is known whether there are two network configs."""
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
        if self._config.store_api != AUTO:
            return self._config.store_api, await self._store(self._config.store_api)
        refused: dict[str, BadAnswer] = {}
        for api in (V2, V3):
            store = await self._store(api)
            try:
                if await store.config() is not None:
                    if api == V2:
                        await self._look_for_another()
                    return api, store
            except BadAnswer as error:  # this API is not served there
                if refused:
                    raise
                refused[api] = error
        for api, other in ((V2, V3), (V3, V2)):
            if api in refused:
                problem = f"{api} is not served there ({refused[api]}), and {other} has no network config"
                raise no_config(self._config.prefix, problem, other)
        raise no_config(self._config.prefix, "there is no network config, in neither API", V2, V3)

    async def _look_for_another(self) -> None:
        """Warn once if v3 has a network config too, which is not used."""
        if self._has_looked:
            return
        self._has_looked = True
        found = None
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(OTHER_SECONDS), suppress(ClientError):
                found = await self._open_v3(nursery).config()
            nursery.cancel_scope.cancel()
        if found is not None:
            self._log.warning(
                "two_network_configs",
                key=f"{self._config.prefix}/config",
                apis=f"{V2}, {V3}",
                used=V2,
                fix="set store_api to the one to use, or remove the other config",
            )

    async def _store(self, api: str, folder: str = "subnets") -> SubnetStore:
        if (api, folder) not in self._stores:
            self._stores[api, folder] = (
                await self._open_v2(folder) if api == V2 else self._open_v3(self._nursery, folder)
            )
        return self._stores[api, folder]

    async def reports(self, api: str) -> SubnetStore:
        """The folder of the agents' reports, in this API."""
        return await self._store(api, FOLDER)

    async def plugins(self) -> PluginsClient:
        """The plugin store of the cluster."""
        from netstore.client.plugins import PluginsClient  # noqa: PLC0415 - see below

        return PluginsClient((await self._v2_client()).transport)

    # Each client is imported when it is used: httpx takes 60 ms, protobuf 30.

    async def _open_v2(self, folder: str) -> SubnetStore:
        from netstore.client.subnets_v2 import V2Subnets  # noqa: PLC0415 - see above

        return V2Subnets(await self._v2_client(), self._config.prefix, folder)

    async def _v2_client(self) -> V2Client:
        from netstore.client.transport import Transport  # noqa: PLC0415 - see above
        from netstore.client.v2 import V2Client  # noqa: PLC0415

        if self._v2 is not None:
            return self._v2
        config = self._config
        transport = Transport(
            [str(url) for url in config.endpoints],
            ca_file=_name(config.ca_file),
            cert_file=_name(config.cert_file),
            key_file=_name(config.key_file),
            username=config.username,
            password=config.password,
            shuffle=random.shuffle,
        )
        self._v2 = await self._stack.enter_async_context(V2Client(transport))
        return self._v2

    def _open_v3(self, nursery: trio.Nursery | None, folder: str = "subnets") -> SubnetStore:
        from netstore.client.grpc import Channel  # noqa: PLC0415 - see above
        from netstore.client.subnets_v3 import V3Subnets  # noqa: PLC0415
        from netstore.client.v3 import V3Client  # noqa: PLC0415

        assert nursery is not None, "it is an async context manager"  # noqa: S101
        config = self._config
        channel = Channel(
            nursery,
            [str(url) for url in config.endpoints],
            ca_file=_name(config.ca_file),
            cert_file=_name(config.cert_file),
            key_file=_name(config.key_file),
            shuffle=random.shuffle,
        )
        client = V3Client(channel, config.username, config.password)
        return V3Subnets(client, config.prefix, folder)


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
