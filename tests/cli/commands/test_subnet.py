"""`netstorectl subnet`: every record is seen, and no write hurts a node."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from netstore.cli import netstorectl
from netstore.cli.commands.invocation import Settings
from tests.cli.commands.conftest import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.commands.conftest import Keys, Run, Told

GOOD = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
HOLDER = '{"PublicIP":"192.168.77.11","BackendType":"host-gw"}'
NAME, SUBNET = "172.30.5.0-24", "172.30.5.0/24"


class Network:
    """A network of one test: the command, and what lies in the store."""

    def __init__(self, ctl: Run, prefix: str, keys: Keys) -> None:
        self.ctl = ctl
        self.api = keys.api
        self.keys = keys
        self.folder = f"{prefix}/subnets"
        assert ctl("network", "set", GOOD).status == 0

    def put(self, name: str, value: str = HOLDER, ttl: int = 1000) -> None:
        """Any record, the way daemons and administrators write it; no TTL is 0."""
        self.keys.put(f"{self.folder}/{name}", value, ttl)

    def remove(self, name: str = NAME) -> None:
        self.keys.remove(f"{self.folder}/{name}")

    def node(self, name: str = NAME) -> dict[str, Any]:
        """A record as the store has it."""
        node = self.keys.node(f"{self.folder}/{name}")
        assert node is not None
        return node

    def there(self, name: str = NAME) -> bool:
        return self.keys.node(f"{self.folder}/{name}") is not None

    def __call__(self, *words: str) -> Told:
        return self.ctl("subnet", *words)


@pytest.fixture
def subnet(ctl: Run, prefix: str, keys: Keys) -> Network:
    return Network(ctl, prefix, keys)


@pytest.fixture
def change_before_write(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """Actions on the store that happen between what a command reads and what it writes."""
    waiting: list[Callable[[], object]] = []
    ask, reads = Settings.ask_network, 0

    def interrupted(settings: Settings, action: Any) -> Any:
        nonlocal reads
        if waiting and reads == 1:
            waiting.pop()()
        reads += bool(waiting)
        return ask(settings, action)

    monkeypatch.setattr(Settings, "ask_network", interrupted)
    yield waiting
    assert not waiting, "the change took place"


def test_ls_without_any_lease_is_empty(subnet: Network) -> None:
    told = subnet("ls")
    assert (told.status, told.out, told.err) == (0, "", "")
    assert subnet("ls", "-o", "json").document == {"subnets": []}


def test_ls_shows_leases_in_order_and_reservations(subnet: Network) -> None:
    subnet.put("172.30.10.0-24", '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}')
    subnet.put(NAME)
    subnet.put("172.30.7.0-24", '{"PublicIP":"192.168.77.13"}', ttl=0)
    rows = subnet("ls").rows
    assert [row[0] for row in rows] == [SUBNET, "172.30.7.0/24", "172.30.10.0/24"]
    assert rows[1] == ["172.30.7.0/24", "192.168.77.13", "", "", "", "yes", ""]
    address, holder, backend, ttl, expires, reserved, problem = rows[0]
    assert (address, holder, backend, reserved, problem) == (SUBNET, "192.168.77.11", "host-gw", "no", "")
    assert int(ttl) in range(900, 1001)
    assert expires.endswith("Z")
    assert len(expires) == len("2026-01-01T00:00:00Z")


def test_ls_hides_no_bad_record(subnet: Network) -> None:
    bad = {
        "172.30.1.0-24": "not json",
        "172.30.2.0-24": '{"PublicIP":"fd00::1"}',
        "172.30.3.0-24": '{"BackendType":"host-gw"}',
        "172.30.4.7-24": HOLDER,
        "172.30.6.0-32": HOLDER,
        "something": HOLDER,
        "tab\there": HOLDER,
    }
    for name, value in bad.items():
        subnet.put(name, value)
    folders: set[str | None] = set()
    if subnet.api == "v2":
        subnet.ctl("key", "mkdir", f"{subnet.folder}/172.30.8.0-24")
        folders = {"172.30.8.0-24"}
    told = subnet("ls")
    rows = told.rows
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {subnet.folder}/172.30.1.0-24: ")
    more = len(bad) + len(folders) - 3
    assert told.err.endswith(f"and {more} more; correct it, or remove it with subnet release\n")
    assert {row[0] for row in rows} == {*bad, *folders} - {"tab\there"} | {"tab\\there"}
    assert all(row[-1] for row in rows)
    listed = subnet("ls", "-o", "json").document["subnets"]
    assert {record["value"] for record in listed} == {*bad.values(), *({None} if folders else ())}
    assert all(record["problems"] and record["subnet"] is None for record in listed)


def test_one_record_that_nobody_can_read_hides_no_other(subnet: Network) -> None:
    subnet.put("172.30.1.0-24", '{"PublicIP":"192.168.77.1","BackendData":' + "[" * 5000 + "]" * 5000 + "}")
    subnet.put(NAME)
    told = subnet("ls")
    assert (told.status, [row[0] for row in told.rows]) == (1, [SUBNET, "172.30.1.0-24"])
    shown = subnet("show", "172.30.1.0-24")
    assert (shown.status, dict(shown.rows)["Subnet"]) == (1, "172.30.1.0-24")
    assert shown.err.startswith(f"netstorectl: {subnet.folder}/172.30.1.0-24: ")
    assert subnet("show", SUBNET).status == 0


def test_ls_says_what_daemons_stumble_over(subnet: Network) -> None:
    def holder(ip: int, backend: str = "host-gw") -> str:
        return json.dumps({"PublicIP": f"192.168.77.{ip}", "BackendType": backend})

    subnet.put("8.8.8.0-24", holder(1))
    subnet.put("172.30.0.0-24", holder(2))
    subnet.put("172.30.1.0-25", holder(3))
    subnet.put("172.30.2.0-24", holder(4))
    subnet.put("172.30.2.128-25", holder(5))
    subnet.put("172.30.3.0-24", holder(6, "vxlan"))
    subnet.put("172.30.4.0-24", holder(7))
    subnet.put("172.30.5.0-24", holder(7))
    subnet.put("172.30.6.0-24", holder(8))
    assert {row[0]: row[-1] for row in subnet("ls").rows} == {
        "8.8.8.0/24": "not in the network 172.30.0.0/16",
        "172.30.0.0/24": "not between 172.30.1.0 and 172.30.255.0",
        "172.30.1.0/25": "SubnetLen is 24",
        "172.30.2.0/24": "overlaps 172.30.2.128/25",
        "172.30.2.128/25": "SubnetLen is 24; overlaps 172.30.2.0/24",
        "172.30.3.0/24": "BackendType is not host-gw",
        "172.30.4.0/24": "192.168.77.7 holds 2 subnets",
        "172.30.5.0/24": "192.168.77.7 holds 2 subnets",
        "172.30.6.0/24": "",
    }


def test_ls_works_without_a_config(ctl: Run, prefix: str, keys: Keys) -> None:
    keys.put(f"{prefix}/subnets/{NAME}", HOLDER)
    told = ctl("subnet", "ls")
    assert (told.status, len(told.rows)) == (0, 1)


def test_ls_that_cannot_compare_with_the_config_is_refused(ctl: Run, prefix: str, keys: Keys) -> None:
    keys.put(f"{prefix}/subnets/{NAME}", HOLDER)
    keys.put(f"{prefix}/config", '{"Network":"x"}')
    told = ctl("subnet", "ls")
    assert (told.status, len(told.rows)) == (1, 1)
    assert told.err.startswith(f"netstorectl: {prefix}/config: Network: ")


def test_a_file_in_place_of_the_folder_is_named(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/subnets", "x")
    told = ctl("subnet", "ls")
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {prefix}/subnets: is a file")


def test_show(subnet: Network) -> None:
    subnet.put(NAME, '{"PublicIP":"192.168.77.11","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb"}}')
    fields = dict(subnet("show", SUBNET).rows)
    assert fields["BackendData"] == '{"VtepMAC":"aa:bb"}'
    assert fields["Key"] == f"{subnet.folder}/{NAME}"
    assert fields["Problem"] == "BackendType is not host-gw"
    assert subnet("show", NAME).rows[0] == ["Subnet", SUBNET]
    document = subnet("show", SUBNET, "-o", "json").document
    assert document["backendData"] == {"VtepMAC": "aa:bb"}
    assert document["modifiedIndex"] == subnet.node()["modifiedIndex"]


def test_show_of_what_is_not_there(subnet: Network) -> None:
    told = subnet("show", SUBNET)
    assert (told.status, told.err) == (
        3,
        f"netstorectl: {subnet.folder}/{NAME}: not found; see subnet ls\n",
    )


@pytest.mark.parametrize("word", ["", "a/b/c", ".", ".."])
@pytest.mark.parametrize("verb", ["show", "release", "renew"])
def test_a_subnet_that_could_be_no_record_is_a_usage_error(subnet: Network, verb: str, word: str) -> None:
    assert subnet(verb, word).status == 2


# reserve


def test_reserve_writes_a_record_without_end(subnet: Network) -> None:
    told = subnet("reserve", SUBNET, "--public-ip", "192.168.77.11")
    assert told.rows == [[SUBNET, "192.168.77.11", "", "", "", "yes", ""]]
    node = subnet.node()
    plain = '{"PublicIP":"192.168.77.11"}'
    assert node["value"] == (
        plain if subnet.api == "v2" else '{"PublicIP":"192.168.77.11","PublicIPv6":null}'
    )
    assert "ttl" not in node


def test_reserve_again_changes_nothing(subnet: Network) -> None:
    subnet("reserve", SUBNET, "--public-ip", "192.168.77.11")
    before = subnet.node()
    told = subnet("reserve", NAME, "--public-ip", "192.168.77.11", "-o", "json")
    assert (told.status, told.document["action"]) == (0, "unchanged")
    assert subnet.node() == before


def test_reserve_takes_the_end_off_the_nodes_own_lease(subnet: Network) -> None:
    value = '{"PublicIP":"192.168.77.11","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb"}}'
    subnet.put(NAME, value)
    told = subnet("reserve", SUBNET, "--public-ip", "192.168.77.11", "-o", "json")
    assert (told.status, told.document["action"], told.document["reserved"]) == (0, "reserved", True)
    assert subnet.node()["value"] == value
    assert "ttl" not in subnet.node()


@pytest.mark.parametrize(
    ("word", "ip", "named"),
    [
        ("172.31.5.0/24", "192.168.77.11", "172.31.5.0/24: not in the network 172.30.0.0/16"),
        ("172.30.5.0/25", "192.168.77.11", "172.30.5.0/25: SubnetLen is 24; nodes take /24 subnets from"),
        ("172.30.5.0/31", "192.168.77.11", "172.30.5.0/31: SubnetLen is 24"),
        ("172.30.5.0/32", "192.168.77.11", "172.30.5.0/32: SubnetLen is 24"),
        ("172.30.0.0/24", "192.168.77.11", "172.30.0.0/24: not between 172.30.1.0 and 172.30.255.0"),
    ],
)
def test_reserve_refuses_what_would_hurt_a_daemon(subnet: Network, word: str, ip: str, named: str) -> None:
    told = subnet("reserve", word, "--public-ip", ip)
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {named}")
    assert subnet("ls").rows == []


@pytest.mark.parametrize(
    ("word", "ip", "named"),
    [
        ("172.30.5.7/24", "192.168.77.11", "SUBNET: 172.30.5.7/24: the address has host bits; the subnet is"),
        (SUBNET, "fd00::1", "--public-ip: 'fd00::1' is not an IPv4 address"),
        (SUBNET, "0.0.0.0", "--public-ip: 0.0.0.0 is not an address of a host"),
        (SUBNET, "224.0.0.1", "--public-ip: 224.0.0.1 is not an address of a host"),
        (SUBNET, "node7", "--public-ip: 'node7' is not an IPv4 address"),
    ],
)
def test_a_value_that_is_no_address_is_a_usage_error_with_the_form_to_write(
    subnet: Network, word: str, ip: str, named: str
) -> None:
    told = subnet("reserve", word, "--public-ip", ip)
    assert told.status == 2
    assert told.err.startswith(f"netstorectl: {named}")
    if ip.startswith("192."):
        assert "172.30.5.0/24" in told.err
    else:
        assert "; write it as 192.0.2.7" in told.err
    assert subnet("ls").rows == []


@pytest.mark.parametrize("word", ["fd00::/64", "172.30.5.0", "x", "172.30.5.0/33", "172.30.05.0/24"])
def test_reserve_of_no_subnet_is_a_usage_error(subnet: Network, word: str) -> None:
    assert subnet("reserve", word, "--public-ip", "192.168.77.11").status == 2


def test_reserve_needs_a_holder_and_a_config(ctl: Run, prefix: str) -> None:
    assert ctl("subnet", "reserve", SUBNET).status == 2
    told = ctl("subnet", "reserve", SUBNET, "--public-ip", "192.168.77.11")
    assert told.status == 1
    assert f"{prefix}/config: no config that daemons can use" in told.err


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        (NAME, '{"PublicIP":"192.168.77.12"}', f"{SUBNET}: is held by 192.168.77.12"),
        (
            "172.30.4.0-23",
            '{"PublicIP":"192.168.77.12"}',
            f"{SUBNET}: overlaps 172.30.4.0/23 of 192.168.77.12",
        ),
        ("172.30.5.64-26", '{"PublicIP":"192.168.77.12"}', f"{SUBNET}: overlaps 172.30.5.64/26 of"),
        ("172.30.9.0-24", '{"PublicIP":"192.168.77.11"}', "192.168.77.11: holds 172.30.9.0/24"),
    ],
)
def test_reserve_leaves_holders_alone(subnet: Network, name: str, value: str, named: str) -> None:
    subnet.put(name, value)
    told = subnet("reserve", SUBNET, "--public-ip", "192.168.77.11")
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {named}")
    assert subnet.node(name)["value"] == value


def test_reserve_does_not_write_over_a_bad_record(subnet: Network) -> None:
    subnet.put(NAME, "rubbish")
    told = subnet("reserve", SUBNET, "--public-ip", "192.168.77.11")
    assert told.status == 1
    assert "is no lease" in told.err
    assert subnet.node()["value"] == "rubbish"


def test_reserve_loses_to_a_node_that_was_faster(
    subnet: Network, change_before_write: list[Callable[[], object]]
) -> None:
    change_before_write.append(lambda: subnet.put(NAME))
    told = subnet("reserve", SUBNET, "--public-ip", "192.168.77.12")
    assert told.status == 1
    assert "was changed meanwhile" in told.err
    assert subnet.node()["value"] == HOLDER


# release


def test_release_of_a_reservation_nobody_took(subnet: Network) -> None:
    subnet.put(NAME, '{"PublicIP":"192.168.77.11"}', ttl=0)
    told = subnet("release", SUBNET)
    assert (told.status, told.rows[0][0]) == (0, SUBNET)
    assert not subnet.there()


@pytest.mark.parametrize("ttl", [0, 1000], ids=["reservation", "lease"])
def test_release_of_what_a_node_holds_wants_to_be_told_twice(subnet: Network, ttl: int) -> None:
    subnet.put(NAME, ttl=ttl)
    told = subnet("release", SUBNET)
    assert (told.status, told.out) == (1, "")
    assert told.err == (
        f"netstorectl: {SUBNET} is held by 192.168.77.11, and is not released; give --yes if that is meant\n"
    )
    assert subnet.there()
    assert subnet("release", "--yes", SUBNET, "-o", "json").document["action"] == "released"
    assert not subnet.there()


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)])
def test_release_asks_the_person_at_the_terminal(
    subnet: Network,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    gone: bool,
) -> None:
    subnet.put(NAME)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    status = netstorectl.run(["subnet", "release", SUBNET])
    assert "Release it? [y/N] " in capsys.readouterr().err
    assert status == (0 if gone else 1)
    assert subnet.there() is not gone


@pytest.mark.parametrize("name", ["172.30.6.0-32", "172.30.4.7-24", "something", "tab\there"])
def test_release_removes_a_bad_record_by_its_name(subnet: Network, name: str) -> None:
    subnet.put(name)
    subnet.put(NAME)
    assert subnet("release", name).status == 0
    assert [row[0] for row in subnet("ls").rows] == [SUBNET]


def test_release_is_never_recursive(subnet: Network) -> None:
    if subnet.api == "v3":
        pytest.skip("v3 has no directories")
    subnet.ctl("key", "set", f"{subnet.folder}/{NAME}/below", "x")
    told = subnet("release", "--yes", SUBNET)
    assert told.status == 1
    assert "is a directory" in told.err
    assert subnet.ctl("key", "get", f"{subnet.folder}/{NAME}/below").status == 0


def test_release_of_what_is_not_there(subnet: Network) -> None:
    assert subnet("release", "--yes", SUBNET).status == 3


def test_release_spares_a_record_that_has_changed_since(
    subnet: Network, change_before_write: list[Callable[[], object]]
) -> None:
    subnet.put(NAME)
    other = '{"PublicIP":"192.168.77.12","BackendType":"host-gw"}'
    change_before_write.append(lambda: subnet.put(NAME, other))
    told = subnet("release", "--yes", SUBNET)
    assert told.status == 1
    assert "was changed meanwhile" in told.err
    assert subnet.node()["value"] == other


# renew


def test_renew_starts_the_life_again_and_keeps_the_rest(subnet: Network) -> None:
    value = ' {"PublicIP":"192.168.77.11", "BackendType":"host-gw", "Unknown":[1]}'
    subnet.put(NAME, value, ttl=100)
    told = subnet("renew", SUBNET)
    assert told.status == 0
    node = subnet.node()
    assert node["ttl"] in range(86_300, 86_401)
    assert node["value"] == value
    assert subnet("renew", NAME, "--ttl", "50").status == 0
    assert subnet.node()["ttl"] in range(51)


def test_renew_never_gives_a_reservation_an_end(subnet: Network) -> None:
    subnet.put(NAME, ttl=0)
    before = subnet.node()
    told = subnet("renew", SUBNET)
    assert (told.status, told.err) == (
        1,
        f"netstorectl: {SUBNET}: is a reservation, which has no end to put off\n",
    )
    assert subnet.node() == before


def test_renew_spares_a_lease_that_has_become_a_reservation(
    subnet: Network, change_before_write: list[Callable[[], object]]
) -> None:
    subnet.put(NAME)
    change_before_write.append(lambda: subnet.put(NAME, ttl=0))
    assert subnet("renew", SUBNET).status == 1
    assert "ttl" not in subnet.node()


def test_renew_of_a_lease_that_has_ended_meanwhile_does_not_make_it_again(
    subnet: Network, change_before_write: list[Callable[[], object]]
) -> None:
    subnet.put(NAME)
    change_before_write.append(subnet.remove)
    assert subnet("renew", SUBNET).status == 1
    assert not subnet.there()


def test_renew_of_what_is_no_lease(subnet: Network) -> None:
    subnet.put(NAME, "rubbish")
    told = subnet("renew", SUBNET)
    assert told.status == 1
    assert "is no lease" in told.err


@pytest.mark.parametrize("ttl", ["0", "-5", "x"])
def test_renew_for_no_time_is_a_usage_error(subnet: Network, ttl: str) -> None:
    subnet.put(NAME)
    assert subnet("renew", SUBNET, "--ttl", ttl).status == 2


DUAL = (
    '{"Network":"172.30.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd23::/48",'
    '"Backend":{"Type":"host-gw"}}'
)
DUAL_NAME = "172.30.5.0-24&fd23:0:0:9::-64"
DUAL_HOLDER = '{"PublicIP":"192.168.77.11","PublicIPv6":"fd77::11","BackendType":"host-gw"}'


@pytest.fixture
def both(subnet: Network) -> Network:
    """A dual-stack network."""
    assert subnet.ctl("network", "set", DUAL).status == 0
    return subnet


def test_a_dual_stack_lease_is_shown_with_both_families(both: Network) -> None:
    both.put(DUAL_NAME, DUAL_HOLDER)
    [row] = [row for row in both("ls", "-o", "plain").rows if row[0].startswith("172.30.5.0")]
    assert row[:2] == ["172.30.5.0/24, fd23:0:0:9::/64", "192.168.77.11, fd77::11"]
    [shown] = both("ls", "-o", "json").document["subnets"]
    assert (shown["subnet"], shown["ipv6Subnet"]) == ("172.30.5.0/24", "fd23:0:0:9::/64")
    assert (shown["publicIP"], shown["publicIPv6"], shown["problems"]) == ("192.168.77.11", "fd77::11", [])
    for name in ("172.30.5.0/24", "fd23:0:0:9::/64", DUAL_NAME):
        found = both("show", name, "-o", "json").document
        assert (found["key"], found["ttl"] > 900) == (f"{both.folder}/{DUAL_NAME}", True)
    assert both("release", "172.30.5.0/24", "--yes").status == 0
    assert not both.there(DUAL_NAME)


def test_what_is_wrong_with_the_ipv6_part_is_told(both: Network) -> None:
    both.put(NAME)
    both.put("172.30.6.0-24&fd24::-64", DUAL_HOLDER.replace(".11", ".12"))
    both.put("172.30.7.0-24&fd23:0:0:9::-64", DUAL_HOLDER.replace(".11", ".13"))
    both.put("172.30.8.0-24&fd23:0:0:9::-64", DUAL_HOLDER.replace(".11", ".14"))
    problems = {each["subnet"]: each["problems"] for each in both("ls", "-o", "json").document["subnets"]}
    assert problems == {
        SUBNET: ["has no IPv6 subnet", "has no PublicIPv6"],
        "172.30.6.0/24": ["fd24::/64: not in the network fd23::/48"],
        "172.30.7.0/24": [],
        "172.30.8.0/24": ["fd23:0:0:9::/64 overlaps the lease 172.30.7.0-24&fd23:0:0:9::-64"],
    }


def test_a_reservation_is_of_both_families(both: Network) -> None:
    told = both("reserve", SUBNET, "--public-ip", "192.168.77.11", "-o", "json")
    assert told.document["ipv6Subnet"] == "fd23:0:0:5::/64"
    assert both.there("172.30.5.0-24&fd23:0:0:5::-64")
    told = both("reserve", SUBNET, "--public-ip", "192.168.77.11", "-o", "json")
    assert told.document["action"] == "unchanged"
    words = ("reserve", "172.30.9.0/24", "--public-ip", "192.168.77.12")
    told = both(*words, "--ipv6", "fd23:0:0:5::/64")
    assert "fd23:0:0:5::/64: overlaps fd23:0:0:5::/64 of 192.168.77.11" in told.err
    told = both(*words, "--ipv6", "fd24::/64")
    assert "fd24::/64: not in the network fd23::/48" in told.err
    told = both(*words, "--ipv6", "172.30.9.0/24")
    assert "--ipv6: '172.30.9.0/24'" in told.err
    assert both(*words, "--ipv6", "fd23:0:0:7::/64").status == 0
    assert both.there("172.30.9.0-24&fd23:0:0:7::-64")
    told = both("reserve", "172.30.7.0/24", "--public-ip", "192.168.77.13", "-o", "json")
    assert told.document["ipv6Subnet"] == "fd23:0:0:1::/64", "the usual one is taken"


def test_a_lease_that_is_held_becomes_a_reservation_with_its_ipv6_subnet(both: Network) -> None:
    both.put(DUAL_NAME, DUAL_HOLDER)
    words = ("reserve", SUBNET, "--public-ip", "192.168.77.11")
    assert "held together with fd23:0:0:9::/64" in both(*words, "--ipv6", "fd23:0:0:8::/64").err
    assert both(*words, "-o", "json").document["reserved"] is True
    assert both.node(DUAL_NAME)["value"] == DUAL_HOLDER


def test_an_ipv6_subnet_needs_a_dual_stack_network(subnet: Network) -> None:
    told = subnet("reserve", SUBNET, "--public-ip", "192.168.77.11", "--ipv6", "fd23:0:0:5::/64")
    assert "the network has no IPv6 (EnableIPv6)" in told.err
    assert not subnet.there()
