"""The hosts that no lease may cut the node off from."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from netstore.agent.requiredhosts import KEEP_SECONDS, MAX_ADDRESSES, RequiredHosts, name_servers
from netstore.network.addresses import parse_ip, show_ip
from netstore.network.ipv6 import parse_ip6

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


class Names:
    """A resolver that knows these names."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.hangs = False

    async def getaddrinfo(self, name: str, *_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in self.known[name]
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(trio.socket, "getaddrinfo", names.getaddrinfo)
    return names


def made(tmp_path: Path, *hosts: str) -> tuple[RequiredHosts, list[None]]:
    calls: list[None] = []
    return RequiredHosts(hosts, lambda: calls.append(None), tmp_path / "resolv.conf"), calls


def shown(hosts: RequiredHosts) -> list[str]:
    assert hosts.addresses.ipv6 == {}
    return sorted(show_ip(ip) for ip in hosts.addresses.ipv4)


@pytest.mark.trio
async def test_new_addresses_of_the_store_are_found_and_told(
    autojump_clock: MockClock, names: Names, nursery: trio.Nursery, tmp_path: Path
) -> None:
    names.known["store.example"] = ["10.1.1.1"]
    hosts, calls = made(tmp_path, "store.example", "10.9.9.9", "store.example")
    await hosts.update()
    assert shown(hosts) == ["10.1.1.1", "10.9.9.9"]
    assert hosts.addresses.ipv4[parse_ip("10.1.1.1")] == "the store's address 10.1.1.1"
    nursery.start_soon(hosts.keep)
    names.known["store.example"] = ["10.1.1.2"]
    await trio.sleep(40)  # fixed: by the clock of the test
    assert shown(hosts) == ["10.1.1.1", "10.1.1.2", "10.9.9.9"], "the former may still be used"
    assert len(calls) == 2
    await trio.sleep(KEEP_SECONDS + 40)  # fixed: by the clock of the test
    assert shown(hosts) == ["10.1.1.2", "10.9.9.9"]
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_name_that_does_not_resolve_now_keeps_its_addresses(
    autojump_clock: MockClock, names: Names, tmp_path: Path
) -> None:
    names.known["store.example"] = ["10.1.1.1"]
    hosts, _ = made(tmp_path, "store.example")
    await hosts.update()
    names.known.clear()
    await trio.sleep(2 * KEEP_SECONDS)  # fixed: by the clock of the test
    await hosts.update()
    assert shown(hosts) == ["10.1.1.1"]
    names.hangs = True
    began = trio.current_time()
    await hosts.update()
    assert shown(hosts) == ["10.1.1.1"]
    assert trio.current_time() - began <= 5


@pytest.mark.trio
async def test_a_name_keeps_its_addresses_also_while_another_one_resolves(
    autojump_clock: MockClock, names: Names, tmp_path: Path
) -> None:
    names.known |= {"one.example": ["10.1.1.1"], "two.example": ["10.1.1.2"]}
    hosts, _ = made(tmp_path, "one.example", "two.example")
    await hosts.update()
    del names.known["one.example"]
    names.known["two.example"] = ["10.1.1.3"]
    await trio.sleep(2 * KEEP_SECONDS)  # fixed: by the clock of the test
    await hosts.update()
    assert shown(hosts) == ["10.1.1.1", "10.1.1.3"]


@pytest.mark.trio
async def test_a_name_with_many_addresses_is_bounded(
    autojump_clock: MockClock, names: Names, tmp_path: Path
) -> None:
    hosts, _ = made(tmp_path, "store.example")
    for number in range(4):
        names.known["store.example"] = [f"10.1.{number}.{host}" for host in range(1, 201)]
        await hosts.update()
    assert len(hosts.addresses.ipv4) == MAX_ADDRESSES
    assert parse_ip("10.1.3.200") in hosts.addresses.ipv4


def test_the_name_servers_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert name_servers(path) == []
    path.write_bytes(
        b"# nameserver 9.9.9.9\nsearch x\nnameserver 10.5.0.2\nnameserver\tfd00::1\n"
        b"nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n"
        b"nameserver\nnameserver 10.5.0.3 # and more\n\xff\n"
    )
    assert name_servers(path) == [
        (parse_ip("10.5.0.2"), False),
        (parse_ip6("fd00::1"), True),
        (parse_ip("10.5.0.3"), False),
    ]


@pytest.mark.trio
async def test_name_servers_are_protected(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 10.5.0.2\n")
    hosts, _ = made(tmp_path, "10.5.0.9")
    await hosts.update()
    assert hosts.addresses.ipv4[parse_ip("10.5.0.2")] == "the name server 10.5.0.2"


@pytest.mark.trio
async def test_addresses_of_ipv6_are_found_too(names: Names, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver fd00::53\n")
    names.known["store.example"] = ["10.1.1.1", "fd00::1"]
    hosts, calls = made(tmp_path, "store.example", "fd00::2")
    await hosts.update()
    await hosts.update()
    assert len(calls) == 1
    assert set(hosts.addresses.ipv4.values()) == {"the store's address 10.1.1.1"}
    assert set(hosts.addresses.ipv6.values()) == {
        "the store's address fd00::1",
        "the store's address fd00::2",
        "the name server fd00::53",
    }
