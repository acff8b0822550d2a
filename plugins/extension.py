"""The backend extension: commands of the operator do what other backends do.

The options, and what the commands find in their environment and on standard input, are flannel's. A command
is run by a shell, as in flannel up to 0.28.1: later versions split it at blanks, which the pipes and quotes
of flannel's own examples do not survive. Every command has a time limit, and its output a limit in bytes.

Commands run one at a time, and only for what changed: SubnetAddCommand for a new or changed peer, and for all
at the start; SubnetRemoveCommand for one that left, also while the agent did not run, because the peers are
kept in the backend's folder. They are written there before the first command is run for them, and once in a
call of `declare`, so a removal is kept with the next call. A command that failed for a peer, or was run just
before the agent died, is run again later, so all must bear that.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec
import trio
from netstore_plugins import keptfile
from netstore_plugins.command import Failed, run
from netstore_plugins.peers import other_type

from netstore import __version__
from netstore.agent.backend import (
    STOP_SECONDS,
    Host,
    Manifest,
    Prepared,
    Refused,
    SubnetLease,
    Wanted,
    show_ip,
    show_ip6,
)
from netstore.network.backends import ExtensionOptions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from netstore.agent.backend import Subnet

NAME: Final = "extension"

COMMAND_SECONDS: Final = 30.0
"""Time limit of a command."""

ROUND_SECONDS: Final = 10.0
"""After so much time no further command is begun in one call of `declare`; the next call goes on. So a call
takes at most this and `COMMAND_SECONDS`, less than the minute after which the agent counts as stuck."""

RETRY_SECONDS: Final = 60.0
"""Seconds after which a command that failed for a peer is run again for it."""

MAX_DATA_BYTES: Final = 16 * 1024
"""Of the output of PreStartupCommand, which goes into the lease that every node reads."""

MAX_OUTPUT_BYTES: Final = 1024 * 1024
"""Of the output of other commands, which is shown only if they fail."""

MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of the file with the peers; ten thousand need a tenth of it, unless they publish much data."""

END_SECONDS: Final = STOP_SECONDS - 0.5
"""Time limit of ShutdownCommand, and of all commands of a clean-up together."""

_KEPT_BACK: Final = re.compile(r"(NETSTORE|FLANNELD)_.*(PASSWORD|TOKEN|SECRET).*|NOTIFY_SOCKET", re.ASCII)
"""Variables that commands do not get: the passwords of agent and store, and what systemd means for the agent
alone."""


class Peer(msgspec.Struct, frozen=True):
    """What a command is told of a peer. Subnets and addresses are text, empty where there is none."""

    subnet: str
    public_ip: str
    data: str = ""
    subnet6: str = ""
    public_ip6: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """For the environment."""
        return _variables(self.subnet, self.public_ip, self.subnet6, self.public_ip6)


class _Task(NamedTuple):
    """A command, with the option that it is, its variables, and a line for standard input."""

    option: str
    command: str
    variables: Mapping[str, str]
    data: str = ""


class _Failure(NamedTuple):
    """When a command failed, in seconds of Trio's clock, why, and which."""

    time: float
    reason: str
    task: _Task


_peers = msgspec.json.Decoder(list[Peer])


class Extension:
    """The backend `extension`."""

    manifest: ClassVar[Manifest] = Manifest(
        name=NAME, version=__version__, options=ExtensionOptions, ipv6=True
    )

    def __init__(self, options: ExtensionOptions) -> None:
        self._options = options
        self._data: bytes | None = None
        self._is_prepared = False
        self._was_damaged = False
        """Whether the file of the run before could not be used."""
        self._own: dict[str, str] = {}
        """Variables of the last PostStartupCommand that succeeded."""
        self._file = Path("/nonexistent")
        self._kept: dict[str, Peer] | None = {}
        """The content of that file, None if it is damaged."""
        self._served: dict[str, Peer] = {}
        """Peers by subnet for which SubnetAddCommand may have been run, in this run or the one before, and
        SubnetRemoveCommand not yet."""
        self._added: dict[str, Peer] = {}
        """Those for which it succeeded in this run."""
        self._failed: dict[str, _Failure] = {}
        """Of the last command for a subnet; the empty name is this node's own."""

    async def prepare(self, host: Host) -> Prepared:
        """Run PreStartupCommand, once; its output is the BackendData. The MTU is the interface's."""
        if not host.link.mtu:
            raise Refused(f"extension: {host.link.name} has no MTU; choose another interface with --iface")
        if not self._is_prepared:
            if self._options.pre_startup:
                self._data = await self._pre_startup()
            self._file = host.folder / "peers.json"
            self._kept = _read(self._file)
            self._served = dict(self._kept or {})
            self._was_damaged = self._kept is None
            self._is_prepared = True
        return Prepared(host.link.mtu, self._data)

    async def _pre_startup(self) -> bytes:
        command = self._options.pre_startup
        try:
            output = await run(command, _environment({}), b"\n", COMMAND_SECONDS, MAX_DATA_BYTES)
            return msgspec.json.encode(output.decode().strip())
        except Failed as error:
            raise Refused(f"extension: PreStartupCommand {error}") from None
        except UnicodeDecodeError:
            raise Refused(
                "extension: PreStartupCommand printed what is not UTF-8; have it print text, such as base64"
            ) from None

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """Run the commands for what changed since the last call; no state of the kernel is wanted.

        Refused if PostStartupCommand failed; no other is run before it succeeded.
        """
        if host.subnet is None:
            return Wanted()
        end = trio.current_time() + ROUND_SECONDS
        mine = [lease for lease in peers if lease.backend_type == NAME]
        await self._post_startup(host, host.subnet)
        refused: dict[Subnet, str] = {}
        wanted: dict[str, Peer] = {}
        for lease in mine:
            try:
                peer = _peer(lease)
            except ValueError as error:
                refused[lease.subnet] = str(error)
            else:
                wanted[peer.subnet] = peer
        self._served |= wanted
        warnings = await self._keep(self._served)
        if self._was_damaged:
            warnings.append(
                f"extension: {self._file} was damaged and is begun anew: SubnetRemoveCommand is not run for"
                " peers that left before this start; remove what is left of them"
            )
        await self._run_for_all(wanted, end)
        for lease in mine:
            name = str(lease.subnet)
            if name in wanted and self._added.get(name) != wanted[name]:
                refused[lease.subnet] = self._reason(name)
        gone = self._served.keys() - wanted.keys()
        warnings += [f"extension: {name} has left: {self._reason(name)}" for name in sorted(gone)]
        return Wanted(refused=refused, warnings=warnings)

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """Nothing. A peer of another type is refused; `declare` sees to the others."""
        del host
        reason = other_type(peer, NAME)
        return Wanted() if reason is None else Wanted(refused={peer.subnet: reason})

    def _reason(self, name: str) -> str:
        failure = self._failed.get(name)
        return failure.reason if failure else "its command waits for those of other peers"

    async def _post_startup(self, host: Host, subnet: Subnet) -> None:
        variables = _own_variables(host, subnet)
        if self._own == variables:
            return
        if not await self._run("", _Task("PostStartupCommand", self._options.post_startup, variables)):
            raise Refused(f"extension: {self._reason('')}")
        self._own = variables

    async def _run_for_all(self, wanted: Mapping[str, Peer], end: float) -> None:
        """Run the commands for peers that left and that are new or changed, until the time `end`; those that
        failed longest ago come last.
        """
        for name, peer in sorted(self._served.items(), key=lambda item: self._failure_time(item[0])):
            if trio.current_time() >= end:
                return
            if name not in wanted:
                await self._remove(name, peer)
            elif self._added.get(name) != peer and await self._run(
                name, _Task("SubnetAddCommand", self._options.subnet_add, peer.variables, peer.data)
            ):
                self._added[name] = peer

    def _failure_time(self, name: str) -> float:
        failure = self._failed.get(name)
        return failure.time if failure else 0.0

    async def _remove(self, name: str, peer: Peer, limit: float = COMMAND_SECONDS) -> None:
        self._added.pop(name, None)
        task = _Task("SubnetRemoveCommand", self._options.subnet_remove, peer.variables, peer.data)
        if await self._run(name, task, limit):
            del self._served[name]

    async def _run(self, name: str, task: _Task, limit: float = COMMAND_SECONDS) -> bool:
        """Run a command for a subnet. False if it failed, or did so a short time ago."""
        failure = self._failed.get(name)
        if failure and failure.task == task and trio.current_time() < failure.time + RETRY_SECONDS:
            return False
        try:
            if task.command:
                given = f"{task.data}\n".encode()
                await run(task.command, _environment(task.variables), given, limit, MAX_OUTPUT_BYTES)
        except Failed as error:
            self._failed[name] = _Failure(trio.current_time(), f"{task.option} {error}", task)
            return False
        self._failed.pop(name, None)
        return True

    async def _keep(self, served: Mapping[str, Peer]) -> list[str]:
        """Keep these peers for the next run, if others are kept. Warnings if that fails: then only a
        SubnetRemoveCommand of the next run may be missed.
        """
        if served == self._kept or not self._options.subnet_remove:
            return []
        content = msgspec.json.encode(list(served.values()))
        try:
            if len(content) > MAX_KEPT_BYTES:
                raise Refused(f"the peers have more than {MAX_KEPT_BYTES} bytes of data")  # noqa: TRY301 - told by the except below
            await trio.to_thread.run_sync(keptfile.write, self._file, content)
        except Refused as error:
            return [f"extension: peers that leave while the agent does not run will be missed: {error}"]
        self._kept = dict(served)
        return []

    async def stop(self) -> None:
        """Run ShutdownCommand with the variables of PostStartupCommand, if the lease was held."""
        task = _Task("ShutdownCommand", self._options.shutdown, self._own)
        if self._own and not await self._run("", task, END_SECONDS):
            raise Refused(f"extension: {self._reason('')}")

    async def teardown(self) -> None:
        """Run SubnetRemoveCommand for all peers. Those that the time does not suffice for stay kept, and are
        told to the next run.
        """
        end = trio.current_time() + END_SECONDS
        for name, peer in list(self._served.items()):
            left = end - trio.current_time()
            if left <= 0:
                break
            await self._remove(name, peer, left)
        await self._keep(self._served)


def _peer(lease: SubnetLease) -> Peer:
    """What commands are told of the peer. ValueError says what is wrong with its BackendData."""
    try:
        data = "" if lease.backend_data is None else msgspec.json.decode(lease.backend_data, type=str)
    except msgspec.MsgspecError:
        raise ValueError("BackendData: it is not text, as what a PreStartupCommand prints would be") from None
    return Peer(
        str(lease.subnet),
        show_ip(lease.public_ip),
        data,
        str(lease.subnet6) if lease.subnet6 is not None else "",
        show_ip6(lease.public_ip6) if lease.public_ip6 is not None else "",
    )


def _own_variables(host: Host, subnet: Subnet) -> dict[str, str]:
    """The variables of PostStartupCommand."""
    variables = _variables(
        str(subnet),
        show_ip(host.public_ip),
        str(host.subnet6) if host.subnet6 is not None else "",
        show_ip6(host.public_ip6) if host.public_ip6 is not None else "",
    )
    return {"NETWORK": str(host.network.network), **variables}


def _variables(subnet: str, public_ip: str, subnet6: str, public_ip6: str) -> dict[str, str]:
    variables = {"SUBNET": subnet, "PUBLIC_IP": public_ip}
    if subnet6:
        variables["IPV6SUBNET"] = subnet6
    if public_ip6:
        variables["PUBLIC_IPV6"] = public_ip6
    return variables


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The agent's environment, but for what is kept back, and these variables."""
    passed = {name: value for name, value in os.environ.items() if not _KEPT_BACK.fullmatch(name)}
    return {**passed, **variables}


def _read(file: Path) -> dict[str, Peer] | None:
    """The peers of the run before, None if the file is damaged. Refused if it cannot be read."""
    content = keptfile.read(file, MAX_KEPT_BYTES)
    try:
        return {} if content is None else {peer.subnet: peer for peer in _peers.decode(content)}
    except msgspec.MsgspecError:
        return None
