"""Which leases of other nodes are served, kept by what is known of each. Pure.

A change of one lease costs O(log n), and O(k) for k leases that it makes accepted or rejected, or that have
other subnets inside of its own (`network.overlaps`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from netstore.agent.leasefilter import IPV4, IPV6, rejection
from netstore.network.addresses import Subnet
from netstore.network.ipv6 import Subnet6
from netstore.network.overlaps import Claim, Overlaps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netstore.agent.leasefilter import ProtectedAddresses
    from netstore.network.config import Network
    from netstore.network.lease import SubnetLease

S = TypeVar("S", Subnet, Subnet6)


class Site(NamedTuple):
    """What leases are judged by beside each other: the network config, and of this node the subnets, the
    public addresses and what it protects. Leases of the network config `former` are served too.
    """

    network: Network
    subnet: Subnet | None
    subnet6: Subnet6 | None
    public_ip: int
    public_ip6: int | None
    protected: ProtectedAddresses[Subnet]
    protected6: ProtectedAddresses[Subnet6]
    former: Network | None = None

    @property
    def networks(self) -> tuple[Network, Network | None]:
        """The network configs."""
        return self.network, self.former

    def network_of(self, subnet: Subnet) -> Network:
        """The network config whose range has the subnet; the present one if none has it."""
        former = self.former
        if former is None or self.network.fits(subnet) or not former.network.covers(subnet):
            return self.network
        return former

    def fits(self, subnet: Subnet) -> bool:
        """Whether a node may hold the subnet under one of the network configs."""
        return self.network.fits(subnet) or (self.former is not None and self.former.fits(subnet))


class ServedLeases:
    """The leases of other nodes, and what becomes of them.

    After a change of `site` all leases have to be put again; the network configs stay the same.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.served: dict[str, SubnetLease] = {}
        """The accepted leases by name, each with what may be served of it: without IPv6 if the network has
        none, or if that subnet was refused."""
        self.judged = 0
        """How many leases were judged so far."""
        self._rejected: dict[str, str | None] = {}
        """The leases that are not served, each with its reason; None if that is another lease."""
        self._rejected6: dict[str, str | None] = {}
        """Those of which only the IPv4 subnet is served, in the same way."""
        self._leases: dict[str, SubnetLease] = {}
        self._invalid: dict[str, str] = {}
        self._unnoticed: set[str] = set()
        self._overlaps: Overlaps[Subnet] = Overlaps(site.fits)
        ipv6 = site.network.ipv6
        self._overlaps6: Overlaps[Subnet6] | None = None if ipv6 is None else Overlaps(ipv6.fits)

    @property
    def rejected(self) -> dict[str, str]:
        """The reason for each lease that is not served. O(n): each of them is asked for."""
        return _reasons(self._rejected, self._overlaps)

    @property
    def rejected_ipv6(self) -> dict[str, str]:
        """The reason for each of which only the IPv4 subnet is served. O(n)."""
        return {} if self._overlaps6 is None else _reasons(self._rejected6, self._overlaps6)

    def put(
        self, name: str, lease: SubnetLease | None, *, invalid: str | None = None, unnoticed: bool = False
    ) -> set[str]:
        """Take what is known of a lease now: None if it is gone or this node's own, or not valid, which
        `invalid` gives the reason for. One that is `unnoticed` is not served, and this is not told. Returns
        the names of the leases for which `served` is another one now.
        """
        if lease is None:
            self._leases.pop(name, None)
            concerned = self._overlaps.remove(name)
        else:
            self._leases[name] = lease
            is_other_form = (lease.subnet6 is None) != (self._overlaps6 is None)
            claim = Claim(lease.public_ip, lease.created, is_other_form)
            concerned = self._overlaps.put(name, lease.subnet, claim)
        if invalid is None:
            self._invalid.pop(name, None)
        else:
            self._invalid[name] = invalid
        (self._unnoticed.add if unnoticed else self._unnoticed.discard)(name)
        changed: set[str] = set()
        for each in {name, *concerned}:
            changed |= self._judge(each)
        return changed

    def _judge(self, name: str) -> set[str]:
        """Accept or reject a lease. Returns the names for which `served` is another one now."""
        self.judged += 1
        site, lease = self.site, self._leases.get(name)
        reason, is_accepted = self._invalid.get(name), True
        if name in self._unnoticed:
            lease = None
        elif lease is not None:
            network, own = site.network_of(lease.subnet), (site.subnet, site.public_ip)
            reason = rejection(
                IPV4, lease.subnet, lease.public_ip, network, own=own, protected=site.protected
            )
            is_accepted = self._overlaps.reason(name) is None
        if reason is None and is_accepted:
            self._rejected.pop(name, None)
        else:
            self._rejected[name] = reason
            lease = None
        if self._overlaps6 is None:
            return self._serve(name, lease)
        if lease is None or lease.subnet6 is None:
            concerned = self._overlaps6.remove(name)
        else:
            concerned = self._overlaps6.put(name, lease.subnet6, Claim(lease.public_ip, lease.created))
        changed = self._serve(name, lease)
        for each in concerned:
            if each != name and each not in self._rejected:
                self.judged += 1
                changed |= self._serve(each, self._leases.get(each))
        return changed

    def _serve(self, name: str, lease: SubnetLease | None) -> set[str]:
        """Decide what is served of a lease that was accepted, None if it was not."""
        self._rejected6.pop(name, None)
        if lease is not None and self._overlaps6 is not None and lease.subnet6 is not None:
            reason = self._rejection6(lease.subnet6, lease.public_ip6)
            if reason is not None or self._overlaps6.reason(name) is not None:
                self._rejected6[name] = reason
                lease = lease.ipv4_only()
        elif lease is not None and self._overlaps6 is None:
            lease = lease.ipv4_only()
        if lease == self.served.get(name):
            return set()
        if lease is None:
            del self.served[name]
        else:
            self.served[name] = lease
        return {name}

    def _rejection6(self, subnet6: Subnet6, public_ip6: int | None) -> str | None:
        """Why an IPv6 subnet is rejected, whatever other leases there are."""
        site = self.site
        if site.network.ipv6 is None:
            return None
        own = site.subnet6, site.public_ip6
        return rejection(IPV6, subnet6, public_ip6, site.network.ipv6, own=own, protected=site.protected6)


def _reasons(rejected: Mapping[str, str | None], overlaps: Overlaps[S]) -> dict[str, str]:
    """The reasons, with those that `overlaps` knows."""
    found = {name: reason or overlaps.reason(name) for name, reason in rejected.items()}
    return {name: reason for name, reason in found.items() if reason is not None}
