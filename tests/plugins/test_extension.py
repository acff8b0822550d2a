"""The backend extension: which commands are run, when, and with what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing
from netstore_plugins import extension, keptfile
from netstore_plugins.command import Failed
from netstore_plugins.extension import COMMAND_SECONDS, RETRY_SECONDS, Extension

from netstore.agent.backend import Prepared, Refused, options
from netstore.agent.service import STUCK_SECONDS
from netstore.network.backends import ExtensionOptions
from netstore.network.config import parse_network
from netstore.network.lease import encode_lease
from tests.plugins.hosts import ETH0, ME, dual, host, lease, subnet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADD = ExtensionOptions(subnet_add="add", subnet_remove="remove")


class Recorded:
    """Takes the place of `command.run`: keeps what is run, and fails what the test says."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, str, str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.failing: set[str] = set()
        self.seconds = 0.0

    async def __call__(
        self, command: str, environment: Mapping[str, str], stdin: bytes, limit: float, size: int
    ) -> bytes:
        await trio.sleep(self.seconds)  # fixed: by the clock of the test
        name = environment.get("SUBNET", "")
        self.runs.append((command, name, stdin.decode()))
        self.environments.append(environment)
        if name in self.failing:
            raise Failed("ended with 1: no")
        return b"  data of this node\n"

    def taken(self) -> list[tuple[str, str, str]]:
        runs, self.runs = self.runs, []
        return runs


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    commands = Recorded()
    monkeypatch.setattr(extension, "run", commands)
    return commands


async def prepared(given: ExtensionOptions, folder: Path) -> Extension:
    backend = Extension(given)
    await backend.prepare(host(folder))
    return backend


# With a real shell


@pytest.mark.trio
async def test_flannels_documented_way_works_with_a_real_shell(tmp_path: Path) -> None:
    log = tmp_path / "log"
    given = ExtensionOptions(
        pre_startup=f"echo 'pre' >>{log}; echo one two | tr a-z A-Z; echo three >&2",
        post_startup=f'read line; echo "post [$line] $SUBNET $PUBLIC_IP $NETWORK" >>{log}',
        subnet_add=f'read data; echo "add [$data] $SUBNET $PUBLIC_IP" >>{log}',
        subnet_remove=f'read data; echo "remove [$data] $SUBNET $PUBLIC_IP" >>{log}',
        shutdown=f'echo "shutdown $SUBNET" >>{log}',
    )
    backend = Extension(given)
    found = await backend.prepare(host(tmp_path))
    assert found == Prepared(1500, rb'"ONE TWO\nthree"')
    assert encode_lease(ME, "extension", found.backend_data) == (
        r'{"PublicIP":"192.168.77.11","BackendType":"extension","BackendData":"ONE TWO\nthree"}'
    )
    peers = [lease(2, "extension", b'"their data"'), lease(3, "extension")]
    assert not (await backend.declare(host(tmp_path), peers)).refused
    await backend.declare(host(tmp_path), peers[1:])
    await backend.stop()
    assert log.read_text().splitlines() == [
        "pre",
        "post [] 10.23.1.0/24 192.168.77.11 10.23.0.0/16",
        "add [their data] 10.23.2.0/24 192.168.77.12",
        "add [] 10.23.3.0/24 192.168.77.13",
        "remove [their data] 10.23.2.0/24 192.168.77.12",
        "shutdown 10.23.1.0/24",
    ]


# When


@pytest.mark.trio
async def test_nothing_but_the_first_command_is_run_before_the_subnet_is_held(
    tmp_path: Path, recorded: Recorded
) -> None:
    given = ExtensionOptions(pre_startup="pre", post_startup="post", subnet_add="add", shutdown="shutdown")
    backend = await prepared(given, tmp_path)
    await backend.prepare(host(tmp_path))
    await backend.declare(host(tmp_path, subnet=None), [lease(2, "extension")])
    await backend.stop()
    assert recorded.taken() == [("pre", "", "\n")]


@pytest.mark.trio
async def test_commands_are_run_for_changes_alone(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ADD, tmp_path)
    first, second = lease(2, "extension", b'"a"'), lease(3, "extension", b'"b"')
    await backend.declare(host(tmp_path), [first, second])
    assert recorded.taken() == [("add", "10.23.2.0/24", "a\n"), ("add", "10.23.3.0/24", "b\n")]
    await backend.declare(host(tmp_path), [second, first])
    assert recorded.taken() == []
    changed = msgspec.structs.replace(first, backend_data=b'"c"')
    await backend.declare(host(tmp_path), [changed])
    assert sorted(recorded.taken()) == [("add", "10.23.2.0/24", "c\n"), ("remove", "10.23.3.0/24", "b\n")]
    moved = msgspec.structs.replace(changed, public_ip=changed.public_ip + 9)
    await backend.declare(host(tmp_path), [moved])
    assert recorded.environments[-1]["PUBLIC_IP"] == "192.168.77.21"


@pytest.mark.trio
async def test_after_a_restart_all_are_added_and_those_that_left_meanwhile_removed(
    tmp_path: Path, recorded: Recorded
) -> None:
    peers = [lease(number, "extension", b'"x"') for number in (2, 3)]
    await (await prepared(ADD, tmp_path)).declare(host(tmp_path), peers)
    recorded.taken()
    again = await prepared(ADD, tmp_path)
    for _ in range(2):  # the second keeps the removal
        await again.declare(host(tmp_path), peers[1:])
    assert recorded.taken() == [("remove", "10.23.2.0/24", "x\n"), ("add", "10.23.3.0/24", "x\n")]
    third = await prepared(ADD, tmp_path)
    await third.declare(host(tmp_path), peers[1:])
    assert recorded.taken() == [("add", "10.23.3.0/24", "x\n")]


@pytest.mark.trio
async def test_a_peer_that_was_being_added_when_the_agent_died_is_removed_later(
    tmp_path: Path, recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    backend = await prepared(ADD, tmp_path)
    recorded.seconds = 10.0
    with trio.move_on_after(5.0):
        await backend.declare(host(tmp_path), [lease(2, "extension")])
    assert recorded.taken() == []
    await (await prepared(ADD, tmp_path)).declare(host(tmp_path), [])
    assert recorded.taken() == [("remove", "10.23.2.0/24", "\n")]


@pytest.mark.trio
async def test_post_startup_is_run_again_for_another_subnet(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ExtensionOptions(post_startup="post"), tmp_path)
    for number in (1, 1, 9):
        await backend.declare(host(tmp_path, subnet=subnet(number)), [])
    assert [name for _, name, _ in recorded.taken()] == ["10.23.1.0/24", "10.23.9.0/24"]


@pytest.mark.trio
async def test_dual_stack_peers_come_with_their_ipv6(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ExtensionOptions(post_startup="post", subnet_add="add"), tmp_path)
    await backend.declare(dual(tmp_path), [lease(2, "extension", data6=b'"six"')])
    own, peer = recorded.environments
    assert (own["IPV6SUBNET"], own["PUBLIC_IPV6"]) == ("fd23:0:0:1::/64", "2001:db8:77::11")
    assert (peer["IPV6SUBNET"], peer["PUBLIC_IPV6"]) == ("fd23:0:0:2::/64", "2001:db8:77::12")


@pytest.mark.trio
async def test_teardown_removes_all_peers(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ADD, tmp_path)
    await backend.declare(host(tmp_path), [lease(2, "extension"), lease(3, "extension")])
    recorded.taken()
    await backend.stop()
    await backend.teardown()
    assert recorded.taken() == [("remove", "10.23.2.0/24", "\n"), ("remove", "10.23.3.0/24", "\n")]
    again = await prepared(ADD, tmp_path)
    await again.declare(host(tmp_path), [])
    assert recorded.taken() == []


# Failures


@pytest.mark.trio
async def test_a_peer_whose_command_fails_is_told_and_tried_again_slowly_and_others_are_served(
    tmp_path: Path, recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    backend = await prepared(ADD, tmp_path)
    peers = [lease(2, "extension"), lease(3, "extension")]
    recorded.failing.add("10.23.2.0/24")
    for _ in range(5):
        wanted = await backend.declare(host(tmp_path), peers)
        assert wanted.refused == {subnet(2): "SubnetAddCommand ended with 1: no"}
        await trio.sleep(RETRY_SECONDS / 6)
    assert [name for _, name, _ in recorded.taken()] == ["10.23.2.0/24", "10.23.3.0/24"]
    await trio.sleep(RETRY_SECONDS)
    recorded.failing.clear()
    assert not (await backend.declare(host(tmp_path), peers)).refused
    assert [name for _, name, _ in recorded.taken()] == ["10.23.2.0/24"]


@pytest.mark.trio
async def test_a_failed_peer_that_changes_is_tried_at_once(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ADD, tmp_path)
    recorded.failing.add("10.23.2.0/24")
    await backend.declare(host(tmp_path), [lease(2, "extension", b'"a"')])
    await backend.declare(host(tmp_path), [lease(2, "extension", b'"b"')])
    assert [data for _, _, data in recorded.taken()] == ["a\n", "b\n"]


@pytest.mark.trio
async def test_a_peer_that_left_and_cannot_be_removed_is_a_warning_and_tried_again(
    tmp_path: Path, recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    backend = await prepared(ADD, tmp_path)
    await backend.declare(host(tmp_path), [lease(2, "extension")])
    recorded.failing.add("10.23.2.0/24")
    wanted = await backend.declare(host(tmp_path), [])
    assert list(wanted.warnings) == ["extension: 10.23.2.0/24 has left: SubnetRemoveCommand ended with 1: no"]
    recorded.failing.clear()
    await trio.sleep(RETRY_SECONDS)
    assert not (await backend.declare(host(tmp_path), [])).warnings


@pytest.mark.trio
async def test_one_round_is_bounded_and_slow_failures_do_not_starve_the_others(
    tmp_path: Path, recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    backend = await prepared(ADD, tmp_path)
    peers = [lease(number, "extension") for number in range(2, 12)]
    recorded.seconds = COMMAND_SECONDS
    recorded.failing = {str(peer.subnet) for peer in peers[:6]}
    await backend.declare(host(tmp_path), peers)
    assert len(recorded.taken()) == 1
    rounds = 0
    while len((await backend.declare(host(tmp_path), peers)).refused) > 6:
        rounds += 1
        assert rounds < 12
    wanted = await backend.declare(host(tmp_path), peers)
    assert set(wanted.refused.values()) == {"SubnetAddCommand ended with 1: no"}


@pytest.mark.trio
async def test_a_failed_post_startup_is_told_and_no_peer_is_added(
    tmp_path: Path, recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    backend = await prepared(ExtensionOptions(post_startup="post", subnet_add="add"), tmp_path)
    recorded.failing.add("10.23.1.0/24")
    for _ in range(3):
        with pytest.raises(Refused, match="extension: PostStartupCommand ended with 1: no"):
            await backend.declare(host(tmp_path), [lease(2, "extension")])
    assert [command for command, _, _ in recorded.taken()] == ["post"]
    recorded.failing.clear()
    await trio.sleep(RETRY_SECONDS)
    await backend.declare(host(tmp_path), [lease(2, "extension")])
    assert [command for command, _, _ in recorded.taken()] == ["post", "add"]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo no disk; exit 4", "PreStartupCommand ended with 4: no disk"),
        (r"printf '\377'", "printed what is not UTF-8"),
        ("head -c 20000 /dev/zero | tr '\\0' a", "printed more than 16384 bytes"),
    ],
)
async def test_a_failed_pre_startup_is_refused(tmp_path: Path, command: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        await Extension(ExtensionOptions(pre_startup=command)).prepare(host(tmp_path))


@pytest.mark.trio
async def test_peers_with_other_data_or_type_are_refused(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ADD, tmp_path)
    wanted = await backend.declare(host(tmp_path), [lease(2, "extension", b'{"a":1}'), lease(3, "vxlan")])
    assert wanted.refused[subnet(2)].startswith("BackendData: it is not text")
    other = backend.declare_peer(host(tmp_path), lease(3, "vxlan"))
    assert other.refused == {subnet(3): "its backend is vxlan, not extension"}
    assert not backend.declare_peer(host(tmp_path), lease(2, "extension")).refused
    assert recorded.taken() == []


@pytest.mark.trio
async def test_a_failed_shutdown_is_told(tmp_path: Path, recorded: Recorded) -> None:
    backend = await prepared(ExtensionOptions(shutdown="shutdown"), tmp_path)
    await backend.declare(host(tmp_path), [])
    recorded.failing.add("10.23.1.0/24")
    with pytest.raises(Refused, match="ShutdownCommand ended with 1"):
        await backend.stop()


@pytest.mark.trio
async def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, recorded: Recorded) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    backend = await prepared(ADD, folder)
    folder.rmdir()
    wanted = await backend.declare(host(folder), [lease(2, "extension")])
    assert not wanted.refused
    assert "peers that leave while the agent does not run will be missed" in wanted.warnings[0]


@pytest.mark.trio
async def test_a_damaged_file_is_begun_anew_with_a_warning(tmp_path: Path, recorded: Recorded) -> None:
    await (await prepared(ADD, tmp_path)).declare(host(tmp_path), [lease(2, "extension")])
    file = tmp_path / "peers.json"
    file.write_bytes(file.read_bytes()[:-5])
    wanted = await (await prepared(ADD, tmp_path)).declare(host(tmp_path), [])
    assert not wanted.refused
    [warning] = wanted.warnings
    assert f"{file} was damaged and is begun anew" in warning
    assert not (await (await prepared(ADD, tmp_path)).declare(host(tmp_path), [])).warnings


@pytest.mark.trio
async def test_the_peers_are_written_once_for_a_call_and_not_without_a_change(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(keptfile, "write", lambda _, content: written.append(content))
    backend = await prepared(ADD, tmp_path)
    peers = [lease(number, "extension") for number in (2, 3, 4)]
    counts = []
    for given in (peers[:2], peers[:2], peers[1:], peers[1:], peers[1:]):
        await backend.declare(host(tmp_path), given)
        counts.append(len(written))
    assert counts == [1, 1, 2, 3, 3]
    assert written[-1].count(b"10.23.") == 2


@pytest.mark.trio
async def test_a_call_ends_before_the_agent_counts_as_stuck(
    tmp_path: Path, recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    given = ExtensionOptions(post_startup="post", subnet_add="add")
    backend = await prepared(given, tmp_path)
    for seconds in (9.5, COMMAND_SECONDS):
        recorded.seconds = seconds
        begun = trio.current_time()
        await backend.declare(host(tmp_path, subnet=subnet(int(seconds))), [lease(2, "extension")])
        assert trio.current_time() - begun < STUCK_SECONDS - 15
        recorded.seconds = 0.0
    assert not (await backend.declare(host(tmp_path, subnet=subnet(30)), [lease(2, "extension")])).refused


@pytest.mark.trio
async def test_an_interface_without_mtu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="eth0 has no MTU"):
        await Extension(ExtensionOptions()).prepare(host(tmp_path, link=ETH0._replace(mtu=0)))


# What


@pytest.mark.trio
async def test_the_agents_environment_is_passed_on_without_its_secrets(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_back = ("NETSTORE_AGENT_PASSWORD", "FLANNELD_ETCD_PASSWORD", "NETSTORE_JOIN_TOKEN", "NOTIFY_SOCKET")
    passed = ("FLANNELD_IFACE", "NETSTORE_AGENT_IFACE", "MY_PASSWORD", "PATH")
    for name in (*kept_back, *passed):
        monkeypatch.setenv(name, "value")
    await (await prepared(ExtensionOptions(subnet_add="add"), tmp_path)).declare(
        host(tmp_path), [lease(2, "extension")]
    )
    [environment] = recorded.environments
    assert all(environment[name] == "value" for name in passed)
    assert not environment.keys() & set(kept_back)


def test_options_have_flannels_names() -> None:
    names: dict[str, Any] = {field.encode_name: "x" for field in msgspec.structs.fields(ExtensionOptions)}
    assert sorted(names) == [
        "PostStartupCommand",
        "PreStartupCommand",
        "ShutdownCommand",
        "SubnetAddCommand",
        "SubnetRemoveCommand",
    ]
    section = b'{"Network":"10.23.0.0/16","Backend":{"Type":"extension","presTartupCommand":"date"}}'
    assert options(Extension.manifest, parse_network(section)) == ExtensionOptions(pre_startup="date")
