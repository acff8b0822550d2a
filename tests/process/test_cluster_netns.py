"""Members in network namespaces, with TLS between them: partitions, strangers, new certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import trustme

from tests.support.cluster import PACE, Members, converged, get, healthy, put, write
from tests.support.netns import Node, Wire, ip
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root]

NODES: Final = 4
"""Three for the cluster, one for strangers."""


class Authority:
    """A certificate authority that writes what a member needs into files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(folder / "ca.pem")

    def issue(self, name: str, address: str) -> None:
        """A new certificate and key, in place of any that were there."""
        made = self._ca.issue_cert(address)
        key = self._folder / f"{name}-key.pem"
        key.touch(mode=0o600)
        made.private_key_pem.write_to_path(key)
        made.cert_chain_pems[0].write_to_path(self._folder / f"{name}.pem")

    def flags(self, name: str) -> tuple[str, ...]:
        """The flags with which a member uses its certificate."""
        return (
            *("--peer-cert-file", str(self._folder / f"{name}.pem")),
            *("--peer-key-file", str(self._folder / f"{name}-key.pem")),
            *("--peer-trusted-ca-file", str(self._folder / "ca.pem")),
            "--peer-client-cert-auth",
        )


class Spread(Members):
    """A cluster with each member in a namespace of its own."""

    def __init__(self, folder: Path, wire: Wire, authority: Authority) -> None:
        self.wire = wire
        self.authority = authority
        super().__init__(
            folder,
            flags=(*PACE, "--allow-insecure-http"),
            peer_scheme="https",
            host_of=lambda name: self.node(name).address,
            netns_of=lambda name: self.node(name).netns,
        )

    def node(self, name: str) -> Node:
        """Where a member runs."""
        return self.wire.members["abcd".index(name)]

    def cut(self, name: str) -> None:
        """Take a member off the switch: no packet passes, no connection is closed."""
        ip("link", "set", self.node(name).port, "down", netns=self.wire.switch)

    def mend(self, name: str) -> None:
        """Undo `cut`."""
        ip("link", "set", self.node(name).port, "up", netns=self.wire.switch)

    def own_flags(self, name: str) -> tuple[str, ...]:
        """A member has a certificate of its own."""
        return self.authority.flags(name)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:
    folder = tmp_path_factory.mktemp("spread")
    authority = Authority(folder / "tls")
    with Wire(nodes=NODES) as wire:
        members = Spread(folder, wire, authority)
        for name in "abcd":
            authority.issue(name, members.node(name).address)
        with members:
            yield members


def test_writes_reach_all_over_tls(spread: Spread) -> None:
    for name, daemon in spread.daemons.items():
        assert put(daemon, f"from-{name}", name).status == 201
        converged(spread, f"from-{name}", name)


def test_a_leader_that_is_cut_off_is_replaced_and_disturbs_nobody_later(spread: Spread) -> None:
    old = spread.leader()
    rest = spread.followers()
    write(spread[rest[0]], "side", "before")
    spread.cut(old)
    until(lambda: not healthy(spread[old]), "who was cut off notices")
    write(spread[rest[0]], "side", "majority")
    assert put(spread[old], "side", "minority").status == 500
    assert get(spread[old], "side") == "before", "a local read answers what was agreed on"
    terms = [spread[name].log.count('"leader_changed"') for name in rest]
    spread.mend(old)
    converged(spread, "side", "majority")
    assert spread.leader() in rest
    assert [spread[name].log.count('"leader_changed"') for name in rest] == terms


def test_a_member_without_a_certificate_of_ours_is_refused_and_told_once(
    spread: Spread, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "tls")
    foreign.issue("d", spread.node("d").address)
    spread.spawn("d", "--join", spread.peer_url("a"), *foreign.flags("d"))
    for attempts in (1, 2):

        def told(attempts: int = attempts) -> bool:
            return spread["d"].log.count("cluster_not_reached") >= attempts

        until(told, "the stranger is told why")
        assert "TLS: " in spread["d"].log.splitlines()[-1]
        until(lambda: '"peer_refused"' in spread["a"].log, "the member says whom it refused")
        spread["d"].kill()
        spread["d"].spawn_again()
    assert spread["a"].log.count('"peer_refused"') == 1
    spread.daemons.pop("d").kill()


def test_a_member_of_another_cluster_is_refused_by_its_number(spread: Spread) -> None:
    spread.wipe_if_there("d")
    spread.spawn(
        "d",
        *("--initial-cluster", f"d={spread.peer_url('d')},a={spread.peer_url('a')}"),
        *spread.authority.flags("d"),
    )
    assert spread["d"].process.wait(seconds(20)) == 1
    assert "are in cluster" in spread["d"].log
    del spread.daemons["d"]


def test_a_new_certificate_is_used_without_a_restart(spread: Spread) -> None:
    follower = spread.followers()[0]
    spread.authority.issue(follower, spread.node(follower).address)
    spread.cut(follower)
    spread.mend(follower)
    other = next(name for name in "abc" if name != follower)
    spread[other].kill()
    spread[other].start_again()
    write(spread[follower], "rotated", "1")
    converged(spread, "rotated", "1")
    until(lambda: '"certificates_read"' in spread[follower].log, "the new certificate is read")


def test_a_newcomer_joins_over_tls(spread: Spread) -> None:
    spread.wipe_if_there("d")
    spread.join("d", *spread.authority.flags("d"), at=spread.leader())
    write(spread["d"], "learned", "1")
    converged(spread, "learned", "1")
