"""The store as the agent's configuration names it (`client.storeapi` chooses the API)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from netstore.client.storeapi import V2, V3, Connection, StoreAccess

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.agent.problems import ProblemLog
    from netstore.ops.agent import AgentConfig


def store_access(config: AgentConfig, log: ProblemLog) -> StoreAccess:
    """The access to the configured store. A second network config, which is not used, is logged."""

    def two_configs() -> None:
        log.warning(
            "two_network_configs",
            key=f"{config.prefix}/config",
            apis=f"{V2}, {V3}",
            used=V2,
            fix="set store_api to the one to use, or remove the other config",
        )

    connection = Connection(
        endpoints=tuple(str(url) for url in config.endpoints),
        ca_file=_name(config.ca_file),
        cert_file=_name(config.cert_file),
        key_file=_name(config.key_file),
        username=config.username,
        password=config.password,
        shuffle=random.shuffle,
    )
    return StoreAccess(connection, config.prefix, config.store_api, two_configs)


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
