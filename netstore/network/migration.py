"""A change of the network while it runs: the plan that the store keeps, what each node tells of itself, and
the rules by which nodes and command go on. Pure.

The plan is the entry `PREFIX/migration/plan`, and each node's part the entry `PREFIX/migration/PUBLIC-IP`.
Nobody coordinates: nodes follow the plan's phase, and whoever runs the command moves the phase on, by a
comparison of its index, when all nodes have told that they are ready for it. Each write is safe whoever else
has died or is behind, because of these rules:

- A node has both *sides* from the phase `prepare` until `done` or `aborted`: it receives what the others send
  by the old network config and by the new one. So it does not matter in which order senders switch.
- A node sends to a peer by the new config only if the peer has told that it receives what this node sends:
  its `receives` is not below the index at which this node's part was created.
- `finish` begins when every node sends to every other by the new config, and `done`, at which the old side is
  taken away, when every node has acted on `finish`. From `finish` on there is no way back but another
  migration; before it, leases and network config are as they were.

A node that told something keeps it while its agent is dead: the kernel goes on as it was told to.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.errors import NetstoreError, parse_problem
from netstore.network.addresses import show_ip
from netstore.network.backends import BUILT_IN, VxlanOptions
from netstore.network.overlaps import nested

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from netstore.network.config import Network
    from netstore.network.lease import SubnetLease

FOLDER: Final = "migration"
"""Where plan and parts are, below the prefix of the network."""

PLAN: Final = "plan"
"""The name of the plan's entry."""

MAX_PLAN_BYTES: Final = 128 * 1024
MAX_PART_BYTES: Final = 8 * 1024
MAX_NAMED: Final = 1024
"""Nodes that a plan names as canaries, and that it leaves out."""

MAX_PROBLEM: Final = 500
"""Characters of a node's problem that are kept."""

MOVABLE: Final = frozenset({"host-gw", "vxlan", "ipip", "wireguard"})
"""Backends of which two can be in the kernel side by side. The others have their data path from commands of
the operator, or none.
"""


class Phase(enum.StrEnum):
    """Where a migration is. In brackets: what is waited for before the next one."""

    PREPARE = "prepare"
    """Nodes make what the new config needs, and tell the others of it [every node's part]."""
    RECEIVE = "receive"
    """Nodes receive by both configs [every node receives what every other one sends]."""
    CANARY = "canary"
    """The canaries send by the new config [all of them]."""
    SEND = "send"
    """All nodes do [all of them]."""
    FINISH = "finish"
    """The new network config is written, and nodes write their leases anew [the config, every node]."""
    DONE = "done"
    """The old side is taken away."""
    REVERT = "revert"
    """All nodes send by the old config again [every node that has a part]."""
    ABORTED = "aborted"
    """The new side is taken away."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is waited for any more."""
        return self in (Phase.DONE, Phase.ABORTED)

    @property
    def can_revert(self) -> bool:
        """Whether leases and network config are as they were before the migration."""
        return self in (Phase.PREPARE, Phase.RECEIVE, Phase.CANARY, Phase.SEND)


class Change(enum.StrEnum):
    """What of a network config a migration changes."""

    BACKEND = "backend"
    """The Backend section: nodes keep their subnets."""
    RANGE = "range"
    """Network, SubnetLen, SubnetMin or SubnetMax: nodes get other subnets."""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all nodes follow. `old` and `new` are the documents of the network config; nodes take them from
    here until the plan is over. `canaries` and `without` are the PublicIPs of the nodes that send first, and
    of those that are not waited for.
    """

    id: str
    phase: Phase
    change: Change
    old: str
    new: str
    canaries: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node tells of its part in the plan with this id.

    `backend_data` and `backend_v6_data` are what its lease will say, as JSON; empty for none. `receives` and
    `sends` are indexes of the store: the node receives by the new config what all nodes send whose parts were
    created up to `receives`, and sends by it to all whose parts were created up to `sends`. `phase` is the
    last phase that it has acted on. `problem` says why it cannot go on.
    """

    plan: str
    phase: Phase
    backend_data: str = ""
    backend_v6_data: str = ""
    receives: int = 0
    sends: int = 0
    problem: str = ""


class Told(NamedTuple):
    """A part as the store has it: the index at which its entry was created."""

    part: Part
    created: int


_plan = msgspec.json.Decoder(Plan).decode
_part = msgspec.json.Decoder(Part).decode


def encode_plan(plan: Plan) -> str:
    """The plan as it is stored. NetstoreError if it is too large."""
    for what, nodes in (("--canary", plan.canaries), ("--without", plan.without)):
        if len(nodes) > MAX_NAMED:
            raise NetstoreError(f"{what}: {len(nodes)} nodes; name at most {MAX_NAMED}")
    text = msgspec.json.encode(plan)
    if len(text) > MAX_PLAN_BYTES:
        raise NetstoreError(
            f"the plan has {len(text)} bytes, more than {MAX_PLAN_BYTES}; shorten the network config"
        )
    return text.decode()


def parse_plan(text: str | None) -> Plan:
    """The plan in a stored value. NetstoreError if it is none."""
    if text is None or len(text) > MAX_PLAN_BYTES:
        raise NetstoreError("the entry of the plan is not one that netstorectl wrote; remove it")
    try:
        plan = _plan(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise NetstoreError(
            f"not a plan that this release understands ({parse_problem(error)});"
            " remove it, or use the newer release"
        ) from None
    if max(len(plan.canaries), len(plan.without)) > MAX_NAMED:
        raise NetstoreError(f"the plan names more than {MAX_NAMED} nodes; remove it")
    return plan


def encode_part(part: Part) -> str:
    """The part as it is stored."""
    return msgspec.json.encode(msgspec.structs.replace(part, problem=part.problem[:MAX_PROBLEM])).decode()


def parse_part(text: str | None) -> Part:
    """The part in a stored value. NetstoreError if it is none."""
    if text is None or len(text) > MAX_PART_BYTES:
        raise NetstoreError("not the part of a node")
    try:
        return _part(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise NetstoreError(f"not the part of a node ({parse_problem(error)})") from None


# What a node does


def sends_new(plan: Plan, node: str) -> bool:
    """Whether the plan wants the node to send by the new config."""
    if plan.phase is Phase.CANARY:
        return node in plan.canaries
    return plan.phase in (Phase.SEND, Phase.FINISH, Phase.DONE)


def reaches_new(plan: Plan, node: str, peer: str, told: Mapping[str, Told]) -> bool:
    """Whether the node sends to this peer by the new config, given what all have told in the plan."""
    if not sends_new(plan, node):
        return False
    if plan.phase in (Phase.FINISH, Phase.DONE):
        return True
    mine, other = told.get(node), told.get(peer)
    return mine is not None and other is not None and other.part.receives >= mine.created


class Claims(NamedTuple):
    """What a node may tell after it has done what it saw; see `Part`."""

    phase: Phase
    receives: int
    sends: int


def claims(plan: Plan, node: str, told: Mapping[str, Told]) -> Claims:
    """What a node that has told something may tell when its kernel is as the rules say for `told`.

    A claim to receive is not made once the plan is reverted: a node that sees the plan late must not begin to
    send then.
    """
    former = told[node].part
    newest = max(each.created for each in told.values())
    phase, receives, sends = plan.phase, former.receives, former.sends
    if phase in (Phase.REVERT, Phase.ABORTED):
        return Claims(phase, receives, 0)
    receives = max(receives, newest)
    others = [peer for peer in told if peer != node and peer not in plan.without]
    if sends_new(plan, node):
        if all(reaches_new(plan, node, peer, told) for peer in others):
            sends = max(sends, newest)
    else:
        sends = 0
    return Claims(phase, receives, sends)


# What the command does


class Advance(NamedTuple):
    """Move the plan on to this phase."""

    phase: Phase


class WriteConfig(NamedTuple):
    """Write the new network config in the place of the old one."""


class Waiting(NamedTuple):
    """Wait for these nodes; for each the reason in words."""

    nodes: dict[str, str]


class Over(NamedTuple):
    """There is nothing left to do."""


Step = Advance | WriteConfig | Waiting | Over


def next_step(plan: Plan, told: Mapping[str, Told], holders: Iterable[str], config: str | None) -> Step:
    """What follows, given what all nodes have told in this plan, the PublicIPs that have leases, and the
    network config as it is in the store. NetstoreError if somebody else has changed that.

    A node that holds no lease, as one that is drained, has none to write anew and no subnet to change.
    """
    phase, holding = plan.phase, set(holders)
    if phase.is_over:
        return Over()
    known = (plan.old, plan.new) if phase is Phase.FINISH else (plan.old,)
    if phase is not Phase.REVERT and config not in known:
        what = (
            "write the new one with `network set`: every node has it, and there is no way back"
            if phase is Phase.FINISH
            else "write the former one again with `network set`, or end the migration with"
            " `network migrate abort`"
        )
        raise NetstoreError(f"somebody has changed the network config since the migration began; {what}")
    if phase is Phase.REVERT:
        members = {node for node in told if node not in plan.without}
        late = {
            node: "it has not told that it sends by the old config again"
            for node in members
            if told[node].part.phase is not Phase.REVERT
        }
        return _or_else(late, told, Advance(Phase.ABORTED))
    members = {node for node in (*holding, *told) if node not in plan.without}
    absent = {node: _absent(phase) for node in members if node not in told}
    if phase is Phase.FINISH:
        if config != plan.new:
            return WriteConfig()
        late = {
            node: "it has not written its lease anew"
            for node in holding & members & told.keys()
            if told[node].part.phase is not Phase.FINISH
        }
        return _or_else(absent | late, told, Advance(Phase.DONE))
    newest = max((told[node].created for node in members & told.keys()), default=0)
    late = dict(absent)
    for node in members & told.keys():
        part = told[node].part
        if part.problem:
            late[node] = part.problem
        elif phase is not Phase.PREPARE and part.receives < newest:
            late[node] = "it has not told that it receives from all others by the new config"
        elif plan.change is Change.RANGE and node not in holding:
            continue
        elif sends_new(plan, node) and part.sends < newest:
            late[node] = "it has not told that it sends to all others by the new config"
    following = {
        Phase.PREPARE: Phase.RECEIVE,
        Phase.RECEIVE: Phase.CANARY if plan.canaries else Phase.SEND,
        Phase.CANARY: Phase.SEND,
        Phase.SEND: Phase.FINISH,
    }
    return _or_else(late, told, Advance(following[phase]))


def _absent(phase: Phase) -> str:
    return (
        "it holds a lease and has told nothing of the plan; is its agent running?"
        if phase is Phase.PREPARE
        else "it holds a lease that came after the plan, and has told nothing yet"
    )


def _or_else(late: dict[str, str], told: Mapping[str, Told], step: Step) -> Step:
    if not late:
        return step
    return Waiting({node: _reason(node, reason, told) for node, reason in sorted(late.items())})


def _reason(node: str, reason: str, told: Mapping[str, Told]) -> str:
    problem = told[node].part.problem if node in told else ""
    return problem or reason


# Which changes are possible


def change_of(old: Network, new: Network) -> Change:
    """What a migration from the old config to the new one changes. NetstoreError if there is nothing to
    change, or it cannot be done while nodes run; the text says what to do instead.
    """
    is_backend = (old.backend_type, _section(old)) != (new.backend_type, _section(new))
    is_range = _ranges(old) != _ranges(new)
    if old.ipv6 != new.ipv6:
        raise NetstoreError(
            "IPv6Network: a migration leaves its range as it is; write the config with `network set`, and"
            " start the agents again one after the other"
        )
    if not is_backend and not is_range:
        raise NetstoreError("the new config means the same as the old one; there is nothing to migrate")
    if is_backend and is_range:
        raise NetstoreError(
            "Backend and the range of addresses cannot change in one migration; change one, then the other"
        )
    if is_range:
        return Change.RANGE
    for network in (old, new):
        if network.backend_type not in MOVABLE:
            raise NetstoreError(
                f"Backend.Type: {network.backend_type} cannot be in the kernel beside another backend;"
                f" a migration is between {', '.join(sorted(MOVABLE))}"
            )
    if old.backend_type == new.backend_type:
        _check_same_type(old, new)
    return Change.BACKEND


def left_behind(leases: Iterable[SubnetLease], old: Network, new: Network) -> dict[str, list[SubnetLease]]:
    """The nodes, by name or PublicIP, with a lease that the network would not serve after the migration, each
    with all its leases. A node writes anew only the lease of the subnet that it uses: one that is left from a
    former subnet names the old backend until it ends. Of a change of the range, leases of both ranges are
    served.
    """
    leases = list(leases)
    names = {lease.public_ip: lease.node_name for lease in leases if lease.node_name}
    by_node: dict[str, list[SubnetLease]] = {}
    for lease in leases:
        node = lease.node_name or names.get(lease.public_ip) or show_ip(lease.public_ip)
        by_node.setdefault(node, []).append(lease)
    is_range = _ranges(old) != _ranges(new)
    return {
        node: held
        for node, held in by_node.items()
        if (not is_range and len(held) > 1)
        or any(not old.fits(each.subnet) and not (is_range and new.fits(each.subnet)) for each in held)
    }


def overlapping(leases: Iterable[SubnetLease]) -> tuple[SubnetLease, SubnetLease] | None:
    """Two leases that have an address in common, the larger one first. While SubnetLen changes, the older one
    of two nodes is that which counts, and the other node gives its subnet up.
    """
    ordered = sorted(leases, key=lambda lease: lease.subnet)
    for _, lease, covering in nested((lease.subnet, lease) for lease in ordered):
        if covering:
            return covering[-1][1], lease
    return None


def moves_path(old: Network, new: Network) -> bool:
    """Whether packets may come in by one device while answers leave by another."""
    changed = {
        name
        for name in _section(old).keys() | _section(new).keys()
        if _section(old).get(name) != _section(new).get(name)
    }
    return old.backend_type != new.backend_type or bool(
        changed - {"mtu"}
    )  # a device takes another MTU as it is


def _section(network: Network) -> dict[str, object]:
    """The options of a Backend section that are not null; names in any case, as daemons read them."""
    given: dict[str, object] = msgspec.json.decode(network.backend)
    return {
        name.lower(): value for name, value in given.items() if name.lower() != "type" and value is not None
    }


def _ranges(network: Network) -> tuple[object, ...]:
    return network.network, network.subnet_len, network.subnet_min, network.subnet_max


_SAME_DEVICE: Final = ("port", "gbp", "learning")
"""Options of vxlan that belong to its device, of which there is one for each VNI."""


def _check_same_type(old: Network, new: Network) -> None:
    """NetstoreError if the new options need a device with the name of the old one, made otherwise."""
    if old.backend_type == "wireguard":
        raise NetstoreError(
            "Backend: options of wireguard cannot change while it runs, because a node's key cannot be in two"
            " devices; migrate to vxlan, and from there to wireguard with the new options"
        )
    if old.backend_type != "vxlan":
        return
    before, after = (_vxlan(network) for network in (old, new))
    if before.vni != after.vni:
        return
    for name in _SAME_DEVICE:
        if getattr(before, name) != getattr(after, name):
            field = {"port": "Port", "gbp": "GBP", "learning": "Learning"}[name]
            raise NetstoreError(
                f"Backend.{field}: it belongs to the device of the VNI {after.vni}, which cannot be there"
                " twice; choose another VNI as well"
            )
    if before.vtep_mac != after.vtep_mac:
        raise NetstoreError(
            f"Backend.VtepMAC: it belongs to the device of the VNI {after.vni}; choose another VNI as well"
        )


def _vxlan(network: Network) -> VxlanOptions:
    names = {each.encode_name.lower(): each.encode_name for each in msgspec.structs.fields(BUILT_IN["vxlan"])}
    given = {names[name]: value for name, value in _section(network).items() if name in names}
    try:
        return msgspec.convert(given, VxlanOptions)
    except msgspec.ValidationError as error:
        raise NetstoreError(f"Backend: options of vxlan: {error}; correct them") from None


def unable(holders: Iterable[str], able: Collection[str], without: Collection[str]) -> list[str]:
    """The nodes that hold leases and do not follow plans: flanneld, or an agent of an earlier release."""
    return sorted({node for node in holders if node not in able and node not in without})
