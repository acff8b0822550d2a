"""The part of the configuration that decides who a member is (`node.identity`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.node.jointoken import read_token_file
from netstore.node.membersettings import MemberSettings
from netstore.ops.addresses import Alone
from netstore.ops.store import DEFAULT_CLUSTER_TOKEN

if TYPE_CHECKING:
    from netstore.ops.store import StoreConfig


def member_settings(config: StoreConfig) -> MemberSettings:
    """The settings of one member. Reads the file of the join token if that is configured. Blocks."""
    token, file = config.join_token, config.join_token_file
    return MemberSettings(
        name=config.name,
        peer_urls=tuple(map(str, config.initial_advertise_peer_urls)),
        initial={each.name: tuple(map(str, each.peer_urls)) for each in config.initial_cluster},
        names_members=not isinstance(config.initial_cluster, Alone),
        initial_token=config.initial_cluster_token,
        known_token=DEFAULT_CLUSTER_TOKEN,
        joins_existing=config.initial_cluster_state == "existing",
        join=tuple(map(str, config.join)),
        join_token=read_token_file(file) if token is None and file is not None else token,
        force_new=config.force_new_cluster,
    )
