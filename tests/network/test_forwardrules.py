"""The rules in iptables' chain FORWARD: a chain in memory carries the steps out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.forwardrules import steps

NETWORK = "10.23.0.0/16"
OURS = [f"-A FORWARD {side} {NETWORK} -m comment --comment netstore-agent -j ACCEPT" for side in ("-s", "-d")]
DOCKER = "-A FORWARD -j DOCKER-USER"
REJECT = "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"


class Chain:
    """A chain FORWARD as iptables keeps it."""

    def __init__(self, policy: str, *rules: str) -> None:
        self.policy = policy
        self.rules = list(rules)

    @property
    def listing(self) -> str:
        return "\n".join([f"-P FORWARD {self.policy}", *self.rules]) + "\n"

    def carry_out(self, *networks: str) -> int:
        found = steps(self.listing, networks)
        for words in found:
            action, chain, *rest = words
            assert chain == "FORWARD"
            if action == "-D":
                self.rules.remove(" ".join(("-A", chain, *rest)))
            elif action == "-I":
                number, *rest = rest
                assert 1 <= int(number) <= len(self.rules) + 1
                self.rules.insert(int(number) - 1, " ".join(("-A", chain, *rest)))
            else:
                assert action == "-A"
                self.rules.append(" ".join(("-A", chain, *rest)))
        return len(found)


def test_a_chain_that_accepts_is_left_alone() -> None:
    chain = Chain("ACCEPT", DOCKER, "-A FORWARD -s 10.0.0.0/8 -j DROP")
    assert chain.carry_out(NETWORK) == 0


def test_a_chain_that_drops_accepts_after_the_rules_of_others() -> None:
    chain = Chain("DROP", DOCKER)
    assert chain.carry_out(NETWORK) == 2
    assert chain.rules == [DOCKER, *OURS]
    assert chain.carry_out(NETWORK) == 0


def test_a_rule_that_blocks_everything_stays_behind_ours() -> None:
    chain = Chain("ACCEPT", DOCKER, REJECT, "-A FORWARD -j DROP")
    assert chain.carry_out(NETWORK) == 2
    assert (chain.rules[0], chain.rules[3:]) == (DOCKER, [REJECT, "-A FORWARD -j DROP"])
    assert set(chain.rules[1:3]) == set(OURS)
    assert chain.carry_out(NETWORK) == 0


@pytest.mark.parametrize(
    ("words", "blocks"),
    [
        ("-m comment --comment lockdown -j DROP", True),
        ('-m comment --comment "the \\"last\\" rule" -j REJECT --reject-with icmp-port-unreachable', True),
        ("-m comment --comment lockdown -s 10.0.0.0/8 -j DROP", False),
        ('-m comment --comment "-j DROP" -j ACCEPT', False),
        ("-m comment --comment lockdown -m conntrack --ctstate INVALID -j DROP", False),
    ],
)
def test_a_comment_is_no_condition_of_a_rule_that_blocks(words: str, *, blocks: bool) -> None:
    rule = f"-A FORWARD {words}"
    chain = Chain("ACCEPT", rule)
    chain.carry_out(NETWORK)
    assert (chain.rules == [rule]) is not blocks
    assert chain.rules[-1] == rule


def test_rules_that_came_behind_a_block_are_moved() -> None:
    chain = Chain("DROP", REJECT, *OURS)
    assert chain.carry_out(NETWORK) == 4
    assert set(chain.rules[:2]) == set(OURS)
    assert chain.rules[2:] == [REJECT]


def test_rules_go_when_they_have_no_effect_and_when_nothing_is_wanted() -> None:
    for chain, networks in ((Chain("ACCEPT", DOCKER, *OURS), (NETWORK,)), (Chain("DROP", DOCKER, *OURS), ())):
        assert chain.carry_out(*networks) == 2
        assert chain.rules == [DOCKER]


def test_rules_of_a_former_network_go() -> None:
    chain = Chain("DROP", *OURS, DOCKER)
    assert chain.carry_out("10.99.0.0/16") == 4
    assert chain.rules == [DOCKER, *(rule.replace(NETWORK, "10.99.0.0/16") for rule in OURS)]


def test_a_listing_that_is_not_there_needs_nothing() -> None:
    assert steps("", [NETWORK]) == []


@given(
    st.sampled_from(["ACCEPT", "DROP"]),
    st.lists(st.sampled_from([*OURS, OURS[0].replace("23", "24"), DOCKER, REJECT, "-A FORWARD -j DROP"])),
)
@pytest.mark.parametrize("networks", [(), (NETWORK,), (NETWORK, "10.24.0.0/16")])
def test_any_chain_is_right_after_one_pass_and_others_keep_their_order(
    networks: tuple[str, ...], policy: str, rules: list[str]
) -> None:
    chain = Chain(policy, *rules)
    others = [rule for rule in rules if "netstore-agent" not in rule]
    chain.carry_out(*networks)
    assert chain.carry_out(*networks) == 0
    assert [rule for rule in chain.rules if "netstore-agent" not in rule] == others
    drops = policy == "DROP" or len(set(others) - {DOCKER}) > 0
    assert len(chain.rules) - len(others) == (2 * len(networks) if drops else 0)
