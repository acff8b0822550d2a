"""`netstorectl route`: the routes that the agent of this node wants, against those of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands.failures import Exit, Failure, refused
from netstore.cli.commands.options import NAME, Group, pass_settings
from netstore.cli.output import Table
from netstore.network.addresses import Subnet, parse_cidr, show_ip
from netstore.network.ipv6 import Subnet6, parse_cidr6, show_ip6

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.agent.kernel import Link
    from netstore.agent.localsocket import Routes, WantedRoute
    from netstore.agent.routeplan import KernelRoute
    from netstore.cli.commands.invocation import Settings

HEADINGS: Final = ("SUBNET", "STATE", "WANTED", "KERNEL", "REASON")
DEFAULT_SOCKET: Final = "/run/flannel/subnet.sock"

NAMED: Final = 10
"""How many subnets the line on standard error names."""

MISSING: Final = "missing"
DIFFERENT: Final = "different"
LEFT: Final = "left over"


@dataclass(frozen=True, slots=True)
class Difference:
    """A subnet whose route is not as the agent wants it; None: there is none, or none is wanted."""

    subnet: Subnet | Subnet6
    state: str
    wanted: str | None
    kernel: str | None
    reason: str | None

    def content(self) -> dict[str, object]:
        """Its JSON document."""
        return {
            "subnet": str(self.subnet),
            "state": self.state,
            "wanted": self.wanted,
            "kernel": self.kernel,
            "reason": self.reason,
        }


@click.group(cls=Group)
def route() -> None:
    """The routes of this node."""


@route.command()
@click.option("--socket", metavar="PATH", type=NAME, help=f"The agent's local socket.  [{DEFAULT_SOCKET}]")
@click.argument("node", required=False)
@pass_settings
def diff(settings: Settings, node: str | None, *, socket: str | None) -> None:
    """Compare the routes that the agent of this node wants with the kernel's, and show where they differ.

    With NODE only those to one other node, which is named by its address, or by its subnet. Exit status 1 if
    there is a difference, 3 if no agent answers or there is no such node.
    """
    told, kernel, links = settings.run(partial(_ask, Path(socket or DEFAULT_SOCKET)))
    if not told.known:
        raise Failure(Exit.UNAVAILABLE, "the agent does not know its routes yet; see its log")
    found = [each for each in differences(told, kernel, links) if _is_about(each, told, node)]
    if node is not None and not found and not _is_known(told, node):
        raise Failure(
            Exit.NOT_FOUND, f"{node}: the agent wants no route to such a node; see subnet ls for the nodes"
        )
    settings.show(
        {"wanted": len(told.wanted), "differences": [each.content() for each in found]},
        Table(
            HEADINGS,
            [(str(each.subnet), each.state, each.wanted, each.kernel, each.reason) for each in found],
        ),
    )
    if found:
        raise refused(f"not as the agent wants it: {', '.join(str(each.subnet) for each in found[:NAMED])}")


async def _ask(path: Path) -> tuple[Routes, Sequence[KernelRoute], Sequence[Link]]:
    """What the agent wants, then what the kernel has."""
    from netstore.agent.netlink import Netlink  # noqa: PLC0415 - only this command needs it
    from netstore.cli.agentsocket import NoAgent, wanted_routes  # noqa: PLC0415 - same
    from netstore.errors import NetstoreError  # noqa: PLC0415 - same

    try:
        told = await wanted_routes(path)
    except NoAgent as error:
        raise Failure(
            Exit.NOT_FOUND, f"{error}; is netstore-agent running? run this as its user, or give --socket"
        ) from None
    try:
        with Netlink() as kernel:
            routes = [*await kernel.routes(), *await kernel.routes6()]
            return told, routes, await kernel.links()
    except (NetstoreError, OSError) as error:
        raise Failure(Exit.UNAVAILABLE, f"the kernel's routes cannot be read: {error}") from None


def differences(told: Routes, kernel: Iterable[KernelRoute], links: Iterable[Link]) -> list[Difference]:
    """Where the kernel's routes differ from those that the agent wants, by subnet. Pure."""
    from netstore.agent.routeplan import PROTOCOL  # noqa: PLC0415 - see `_ask`

    names = {link.ifindex: link.name for link in links}
    ranges = [_range(text) for text in told.ranges]
    present: dict[Subnet | Subnet6, list[KernelRoute]] = {}
    for each in kernel:
        if any(type(there) is type(each.subnet) and _overlap(there, each.subnet) for there in ranges):
            present.setdefault(each.subnet, []).append(each)
    found: list[Difference] = []
    wanted_subnets = set()
    for want in told.wanted:
        subnet = _range(want.subnet)
        wanted_subnets.add(subnet)
        there = present.get(subnet, [])
        if any(_is_as_wanted(each, want, names) for each in there):
            continue
        shown = f"via {want.gateway} dev {want.device}" if want.gateway else f"dev {want.device}"
        kernel_has = "; ".join(_shown(each, names) for each in there) or None
        state = DIFFERENT if there else MISSING
        found.append(Difference(subnet, state, shown, kernel_has, told.problems.get(want.subnet)))
    for subnet, there in present.items():
        left = [each for each in there if each.protocol == PROTOCOL]
        if left and subnet not in wanted_subnets:
            kernel_has = "; ".join(_shown(each, names) for each in left)
            found.append(Difference(subnet, LEFT, None, kernel_has, None))
    return sorted(found, key=lambda each: (isinstance(each.subnet, Subnet6), each.subnet))


def _range(text: str) -> Subnet | Subnet6:
    return Subnet6.around(*parse_cidr6(text)) if ":" in text else Subnet.around(*parse_cidr(text))


def _overlap(one: Subnet | Subnet6, other: Subnet | Subnet6) -> bool:
    """Whether two subnets of one family share an address."""
    return one.holds(other.base) or other.holds(one.base)


def _is_as_wanted(found: KernelRoute, want: WantedRoute, names: dict[int, str]) -> bool:
    from netstore.agent.routeplan import METRIC6  # noqa: PLC0415 - see `_ask`

    usual = METRIC6 if isinstance(found.subnet, Subnet6) else 0
    device = names.get(found.ifindex)
    return found.plain and (_gateway(found), device, found.metric) == (want.gateway, want.device, usual)


def _gateway(found: KernelRoute) -> str | None:
    if not found.gateway:
        return None
    return show_ip6(found.gateway) if isinstance(found.subnet, Subnet6) else show_ip(found.gateway)


def _shown(found: KernelRoute, names: dict[int, str]) -> str:
    via = f"via {_gateway(found)} " if found.gateway else ""
    metric = f" metric {found.metric}" if found.metric else ""
    return f"{via}dev {names.get(found.ifindex, found.ifindex)} proto {found.protocol}{metric}"


def _is_about(found: Difference, told: Routes, node: str | None) -> bool:
    if node is None:
        return True
    if str(found.subnet) == node.replace("-", "/"):
        return True
    gateways = {want.subnet: want.gateway for want in told.wanted}
    return gateways.get(str(found.subnet)) == node or f"via {node} " in (found.kernel or "")


def _is_known(told: Routes, node: str) -> bool:
    """Whether the agent wants a route to this node."""
    return any(node.replace("-", "/") == want.subnet or node == want.gateway for want in told.wanted)
