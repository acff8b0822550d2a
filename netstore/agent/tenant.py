"""Holds this node's own lease in the store: carries out what `leaseplan` says and reports back what became of
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.ipv4 import show_ip
from netstore.agent.leaseplan import Choose, Create, Discard, Entry, Full, Look, Overwrite, Rest, choose
from netstore.agent.record import Lease, parse
from netstore.client.transport import ClientError
from netstore.client.v2 import COMPARE_FAILED, KEY_EXISTS, KEY_NOT_FOUND, V2Error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from netstore.agent.ipv4 import Subnet
    from netstore.agent.journal import Journal
    from netstore.agent.leaseplan import Tenure
    from netstore.agent.mirror import Mirror
    from netstore.agent.network import Network
    from netstore.client.v2 import V2Client
    from netstore.seams import Entropy

RETRY: Final = 1.0
"""Seconds between attempts to find a subnet while there is none, and to say which one is held."""

RACE_PAUSE: Final = 0.2
"""Longest pause, in seconds, after another node took the subnet that was chosen."""

RACES: Final = 10
"""Subnets lost to others in a row after which the pauses become `RETRY` (flannel gives up)."""


class Tenant:
    """The lease of one node. `settle` is told each subnet that is held; it returns False to be told again.
    `avoid` gives the networks of this host, which no new subnet may overlap.
    """

    def __init__(
        self,
        *,
        client: V2Client,
        mirror: Mirror,
        network: Network,
        tenure: Tenure,
        journal: Journal,
        entropy: Entropy,
        settle: Callable[[Subnet], Awaitable[bool]],
        avoid: Callable[[], Iterable[Subnet]] = tuple,
    ) -> None:
        self.tenure = tenure
        self.subnet: Subnet | None = None
        """The subnet this node uses: the one held, or held last until another one is granted."""
        self._client = client
        self._mirror = mirror
        self._network = network
        self._journal = journal
        self._entropy = entropy
        self._settle = settle
        self._avoid = avoid
        self._wake = trio.Event()
        self._era = mirror.era
        self._races = 0

    async def run(self, former: Subnet | None) -> None:
        """Hold a lease for ever. `former` is the subnet of an earlier run. The mirror's listing is fresh."""
        listed, settled = True, True
        while True:
            self._wake = trio.Event()
            action = self.tenure.next(trio.current_time())
            if isinstance(action, Rest):
                with trio.move_on_at(action.until if settled else trio.current_time() + RETRY):
                    await self._wake.wait()
                if settled or not self.tenure.held:
                    continue
            elif isinstance(action, Choose):
                pause = await self._acquire(self.subnet or former, listed=listed)
                listed = False
                if pause:
                    with trio.move_on_after(pause):
                        await self._wake.wait()
            else:
                await self._write(action)
            if self.tenure.held and self.tenure.subnet is not None:
                self.subnet = self.tenure.subnet
                settled = await self._settle(self.subnet)

    def mirror_changed(self) -> None:
        """The mirror has news; this node's own key may be among them."""
        tenure = self.tenure
        if self._era != self._mirror.era:
            self._era = self._mirror.era
            tenure.restart()
        subnet = tenure.subnet
        if subnet is None:
            if self._is_waiting_for_room:
                self._wake.set()
            return
        held, now = tenure.held, trio.current_time()
        seen = self._mirror.entries.get(subnet.key)
        if seen is None:
            tenure.missing(self._mirror.index, now)
        else:
            lease = self._mirror.leases.get(subnet.key)
            tenure.observed(lease, seen.value or "", seen.modified, seen.ttl, now)
        self._tell(subnet, held=held)
        self._wake.set()

    def publish(self, own_ip: int, value: str) -> None:
        """The lease says this from now on."""
        self.tenure.publish(own_ip, value, trio.current_time())
        self._wake.set()

    async def release(self) -> None:
        """Give the lease back, unless it is a reservation. ClientError if the store cannot be told."""
        tenure = self.tenure
        if tenure.subnet is None or not tenure.held or tenure.permanent:
            return
        try:
            await self._client.compare_and_delete(self._key(tenure.subnet), prev_index=tenure.index)
        except V2Error as error:
            if error.code not in (COMPARE_FAILED, KEY_NOT_FOUND):
                raise

    @property
    def _is_waiting_for_room(self) -> bool:
        return self._journal.open.get("lease") == "network_full"

    async def _acquire(self, remembered: Subnet | None, *, listed: bool) -> float:
        """One attempt to get a subnet; the seconds to wait before the next, 0 if none is needed."""
        if not listed:
            try:
                await self._mirror.load()
            except ClientError as error:
                self._journal.problem("lease", "no_subnet_yet", reason=str(error))
                return RETRY
        entries = [
            Entry(lease, seen.modified, seen.ttl is None)
            for name, lease in self._mirror.leases.items()
            if (seen := self._mirror.entries.get(name)) is not None
        ]
        action = choose(
            entries, self.tenure.own_ip, self._network, remembered, self._entropy, avoid=self._avoid()
        )
        if isinstance(action, Full):
            self._journal.problem(
                "lease",
                "network_full",
                network=str(self._network.network),
                leases=action.leases,
                fix="remove the leases of nodes that are gone, or choose a larger Network",
            )
            return RETRY
        if isinstance(action, Discard):
            self._journal.warn(
                "lease_discarded", subnet=str(action.subnet), reason="the network config does not allow it"
            )
        if not await self._write(action):
            return RETRY
        if self.tenure.held or isinstance(action, Discard):
            self._races = 0
            return 0.0
        self._races += 1
        return RETRY if self._races > RACES else RACE_PAUSE * (1 + self._entropy.below(1000)) / 1000

    async def _write(self, action: Create | Overwrite | Discard | Look) -> bool:
        """Carry out one action on the store and tell the tenure. False if the store gave no clear answer."""
        tenure, subnet, key = self.tenure, action.subnet, self._key(action.subnet)
        held, sent = tenure.held, trio.current_time()
        try:
            if isinstance(action, Create):
                answer = await self._client.create(key, tenure.value, ttl=tenure.ttl)
                tenure.granted(subnet, answer.node.modified_index, permanent=False, sent=sent)
            elif isinstance(action, Overwrite):
                ttl = None if action.permanent else tenure.ttl
                answer = await self._client.compare_and_swap(
                    key, tenure.value, prev_index=action.index, ttl=ttl
                )
                tenure.granted(subnet, answer.node.modified_index, permanent=ttl is None, sent=sent)
            elif isinstance(action, Look):
                node = (await self._client.get(key, quorum=True)).node
                found = parse(key, node.value)
                lease = found if isinstance(found, Lease) else None
                tenure.observed(lease, node.value or "", node.modified_index, node.ttl, sent)
            else:
                await self._client.compare_and_delete(key, prev_index=action.index)
        except V2Error as error:
            if error.code == KEY_NOT_FOUND:
                tenure.missing(error.index, sent)
            elif error.code in (COMPARE_FAILED, KEY_EXISTS):
                tenure.refused(sent)
            else:
                return self._failed(subnet, error)
        except ClientError as error:
            return self._failed(subnet, error)
        self._journal.over("lease", "lease_written_again")
        self._tell(subnet, held=held)
        return True

    def _failed(self, subnet: Subnet, error: ClientError) -> bool:
        self._journal.problem("lease", "lease_not_written", subnet=str(subnet), reason=str(error))
        self.tenure.failed(trio.current_time())
        return False

    def _tell(self, subnet: Subnet, *, held: bool) -> None:
        """Tell the loss of a lease that was held until now."""
        if held and not self.tenure.held:
            if self.tenure.taken_by is not None:
                self._journal.warn("lease_taken", subnet=str(subnet), by=show_ip(self.tenure.taken_by))
            else:
                self._journal.warn("lease_gone", subnet=str(subnet))

    def _key(self, subnet: Subnet) -> str:
        return f"{self._mirror.folder}/{subnet.key}"
