"""The agent's rules in iptables' chain FORWARD, as flannel has them, where that chain drops packets. Pure.

No other table can make up for a chain that drops: netfilter asks every chain of a hook, and the first drop is
final. So the packets of pods can be accepted in this chain alone. All programs that use iptables share it
(Docker, for one, gives it the policy DROP), and each knows its own rules; the agent's have its comment. Where
the chain drops nothing, they have no effect and are not made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMENT: Final = "netstore-agent"

_OWN: Final = f" -m comment --comment {COMMENT} "
_BLOCKS: Final = re.compile(
    r"""-A\ FORWARD
    (?:\ -m\ comment\ --comment\ (?:"(?:[^"\\]|\\.)*"|[^\ "]+))*
    \ -j\ (?:DROP|REJECT)\b""",
    re.VERBOSE,
)
"""A rule that lets nothing past it: it may have a comment, but no other condition."""


def steps(listing: str, networks: Sequence[str]) -> list[tuple[str, ...]]:
    """The changes of the chain that make it accept packets from and to the networks, or that take the agent's
    rules away where they have no effect or there are no networks: words for iptables, to be carried out in
    order. `listing` is the output of `iptables -S FORWARD`.

    The rules come last, so that those of others decide first; but before a rule that blocks everything.
    """
    lines = listing.splitlines()
    rules = [line for line in lines if line.startswith("-A FORWARD ")]
    block = next((at for at, rule in enumerate(rules) if _BLOCKS.match(rule)), None)
    before_block = rules[:block]
    drops = block is not None or "-P FORWARD DROP" in lines
    wanted = [
        f"-A FORWARD {side} {network}{_OWN}-j ACCEPT"
        for network in (networks if drops else ())
        for side in ("-s", "-d")
    ]
    own = [rule for rule in rules if _OWN in rule]
    # iptables deletes the first rule with these words, so that one of two equal ones cannot be chosen.
    right = [rule for rule in wanted if own.count(rule) == 1 and rule in before_block]
    found = [("-D", *rule.split()[1:]) for rule in own if rule not in right]
    place = 1 + sum(_OWN not in rule or rule in right for rule in before_block)
    for rule in wanted:
        if rule not in right:
            chain, *words = rule.split()[1:]
            found.append(("-A", chain, *words) if block is None else ("-I", chain, str(place), *words))
    return found
