"""Reports this node's backends to the store: which are installed, and which one runs.

The report is for `netstorectl plugin status`; nothing depends on it. A store that does not take it is a
problem that is logged once.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import trio

from netstore import __version__
from netstore.agent.backend import GROUP
from netstore.agent.entrypoints import entry_points
from netstore.client.faults import ClientError
from netstore.client.subnetstore import Entry, Missing
from netstore.errors import NetstoreError
from netstore.network.addresses import show_ip
from netstore.network.pluginreport import TTL_SECONDS, Installed, Report, encode_report
from netstore.network.plugins import is_in_range

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from netstore.agent.localnode import LocalNode
    from netstore.agent.problems import ProblemLog
    from netstore.client.plugins import PluginsClient
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.plugins import Plugin
    from netstore.seams import Entropy

FIRST_SECONDS: Final = 5
"""The first report comes so long after the start, and at most twice as long: the leases of a site that starts
go first.
"""

INTERVAL_SECONDS: Final = TTL_SECONDS // 3

RETRY_SECONDS: Final = 60.0

NOT_FOUND: Final = 404

TOPIC: Final = "plugin_report"


async def admitted(client: PluginsClient, name: str) -> Plugin | None:
    """What the store says of a plugin; None if it is not admitted there, or the store keeps no plugins."""
    try:
        return (await client.plugin(name)).plugin
    except ClientError as error:
        if getattr(error, "status", 0) == NOT_FOUND:
            return None
        raise


def check_version(plugin: Plugin) -> None:
    """NetstoreError if what is installed here under the name of an admitted plugin has a version outside of
    the admitted range, whoever installed it. Without anything installed there is nothing to check.
    """
    point = next((each for each in entry_points(group=GROUP) if each.name == plugin.name), None)
    if point is None:
        return
    version = point.version
    if not is_in_range(version, plugin.versions):
        raise NetstoreError(
            f"{plugin.name}: version {version or 'unknown'} is installed here, and {plugin.versions} is"
            " admitted; install another one, or admit the plugin again with another --version"
        )


def report_of(node: LocalNode, wheels: Mapping[str, str]) -> Report:
    """What is installed now. `wheels` are the SHA-256 of the wheels of plugins that the agent installed, by
    name.
    """
    manifest = node.backend.manifest
    versions = {
        point.name: point.version
        for point in reversed(entry_points(group=GROUP))  # the first one of a name is used
    }
    versions[manifest.name] = manifest.version
    installed = tuple(
        Installed(name, version, wheels.get(name, "")) for name, version in sorted(versions.items())
    )
    return Report(socket.gethostname(), __version__, manifest.name, installed, migrates=True)


class PluginReporter:
    """Keeps this node's report in the store, for as long as the agent runs."""

    def __init__(
        self,
        store: Callable[[], Awaitable[SubnetStore]],
        report: Callable[[], Report],
        public_ip: int,
        log: ProblemLog,
        entropy: Entropy,
    ) -> None:
        """`store` opens the folder of reports, `report` makes the present one."""
        self._store = store
        self._report = report
        self._name = show_ip(public_ip)
        self._log = log
        self._entropy = entropy

    async def run(self) -> None:
        """Write the report now and then."""
        await trio.sleep(FIRST_SECONDS + self._entropy.below(1000 * FIRST_SECONDS) / 1000)
        while True:
            try:
                pause = await self._write()
            except NetstoreError as error:
                self._log.report(TOPIC, "plugin_report_not_written", reason=str(error))
                pause = RETRY_SECONDS
            else:
                self._log.resolve(TOPIC, "plugin_report_written")
            await trio.sleep(pause)

    async def _write(self) -> float:
        """Write the report in place of whatever is there, unless that says the same and is young, as after a
        restart. Returns the seconds until it is to be written again.
        """
        store, text = await self._store(), encode_report(self._report())
        found = await store.entry(self._name)
        if isinstance(found, Entry) and found.value == text:
            left = (found.ttl or 0) - (TTL_SECONDS - INTERVAL_SECONDS)
            if left > 0:
                return left
        if isinstance(found, Missing):
            await store.create(self._name, text, TTL_SECONDS)
        elif isinstance(found, Entry):
            await store.replace(self._name, text, found.modified, TTL_SECONDS)
        return INTERVAL_SECONDS
