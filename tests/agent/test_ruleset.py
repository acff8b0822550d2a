"""The rules of a real kernel, in a namespace: nft and both iptables."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from netstore.agent import programs, ruleset
from netstore.agent.nftevents import NftEvents
from netstore.agent.programs import ProgramError
from netstore.agent.ruleset import Ruleset
from netstore.network.forwardrules import steps
from netstore.network.masquerade import (
    IPV4,
    IPV6,
    PodNetwork,
    dropping_chains,
    iptables_chain,
    listed_comments,
    masquerade,
    rule_comments,
)
from tests.support.inside import inside
from tests.support.netns import ip

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from netstore.network.masquerade import Family

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "nft", "iptables", "ip6tables")]

PODS = {
    IPV4: PodNetwork(("10.23.0.0/16", "10.99.0.0/16"), "10.23.42.0/24"),
    IPV6: PodNetwork(("fd23::/48",), "fd23:0:0:2::/64"),
}


@pytest.fixture
def netns(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace that all programs of the test run in."""
    name = f"ruleset{os.getpid()}"
    ip("netns", "add", name)
    original = programs.run

    async def run(words: Sequence[str], data: bytes = b"", *, package: str = "") -> bytes:
        return await original(("ip", "netns", "exec", name, *words), data, package=package)

    monkeypatch.setattr(programs, "run", run)
    try:
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.mark.trio
@pytest.mark.parametrize("fully_random", [True, False])
async def test_the_kernel_takes_the_tables_of_both_families(netns: str, fully_random: bool) -> None:
    rules = Ruleset()
    assert await rules.own_tables() == set()
    assert await rules.table(IPV4) == b""
    document = masquerade(PODS, fully_random=fully_random)
    await rules.write(document)
    assert await rules.own_tables() == {"ip", "ip6"}
    for family, pods in PODS.items():
        listing = await rules.table(family)
        assert listed_comments(listing) == rule_comments(family, pods)
        assert (b"fully-random" in listing) == fully_random
        assert await rules.table(family) == listing, "a listing is the same until something is changed"
        await rules.write(document)
        assert await rules.table(family) != listing, "rules that are made anew are others"
    await rules.write(masquerade(dict.fromkeys(PODS), fully_random=False))
    assert await rules.own_tables() == set()


@pytest.mark.trio
async def test_a_document_is_carried_out_as_a_whole_or_not_at_all(netns: str) -> None:
    rules = Ruleset()
    await rules.write(masquerade({IPV4: PODS[IPV4]}, fully_random=True))
    before = await rules.table(IPV4)
    wrong = PodNetwork(("10.23.0.0/16",), "10.23.0.0/33")
    with pytest.raises(ProgramError, match="failed: "):
        await rules.write(masquerade({IPV4: wrong}, fully_random=True))
    assert await rules.table(IPV4) == before


@pytest.mark.trio
@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])
async def test_the_chain_forward_is_changed_and_read_back(netns: str, family: Family) -> None:
    rules = Ruleset()
    networks = PODS[family].networks
    assert steps(await rules.forward_chain(family), networks) == []
    assert "filter" not in ip("netns", "exec", netns, "nft", "list", "tables"), "looking makes no table"
    await rules.change_forward_chain(family, ("-P", "FORWARD", "DROP"))
    await rules.change_forward_chain(family, ("-A", "FORWARD", "-j", "REJECT"))
    found = steps(await rules.forward_chain(family), networks)
    assert len(found) == 2 * len(networks)
    for words in found:
        await rules.change_forward_chain(family, words)
    assert steps(await rules.forward_chain(family), networks) == []
    assert dropping_chains(await rules.chains(), family) == [iptables_chain(family)]
    for words in steps(await rules.forward_chain(family), ()):
        await rules.change_forward_chain(family, words)
    assert "netstore" not in await rules.forward_chain(family)


@pytest.mark.trio
async def test_old_iptables_is_asked_only_for_tables_that_exist(
    netns: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []
    in_namespace = programs.run

    async def run(words: Sequence[str], data: bytes = b"", *, package: str = "") -> bytes:
        ran.append(" ".join(words))
        name, *rest = words
        return await in_namespace((name.replace("tables", "tables-legacy"), *rest), data, package=package)

    monkeypatch.setattr(programs, "run", run)
    original = ruleset._legacy_tables
    monkeypatch.setattr(ruleset, "_legacy_tables", lambda program: inside(netns, lambda: original(program)))
    rules = Ruleset()
    assert await rules.forward_chain(IPV4) == ""
    assert ran == ["iptables -V"]
    await rules.change_forward_chain(IPV4, ("-P", "FORWARD", "DROP"))
    found = steps(await rules.forward_chain(IPV4), ["10.23.0.0/16"])
    assert len(found) == 2
    for words in found:
        await rules.change_forward_chain(IPV4, words)
    assert steps(await rules.forward_chain(IPV4), ["10.23.0.0/16"]) == []


@pytest.mark.trio
async def test_a_program_that_is_not_there_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(programs._ENVIRONMENT, "PATH", "/nowhere")
    with pytest.raises(ProgramError, match="iptables is not installed; install the package iptables"):
        await Ruleset().forward_chain(IPV4)
    with pytest.raises(ProgramError, match="nft is not installed; install the package nftables"):
        await Ruleset().own_tables()


@pytest.mark.trio
async def test_an_error_of_the_socket_ends_only_the_notifications(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    class Broken(NftEvents):
        def discard(self) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        async def changed(self, tables: Collection[str]) -> None:
            await met.wait()
            self.discard()

    met = trio.Event()
    monkeypatch.setattr(ruleset, "NftEvents", Broken)
    rules = Ruleset()
    nursery.start_soon(rules.follow, lambda: None)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(rules._events, Broken)
    rules.forget_changes()
    met.set()
    await trio.testing.wait_all_tasks_blocked()
    assert vars(rules)["_events"] is None, "`follow` has met it"
    rules.forget_changes()
    nursery.cancel_scope.cancel()
