"""The map of a network against an obvious twin, its drawing at any width, and its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.cli.commands.leases import survey
from netstore.cli.commands.netmap import (
    FREE,
    HELD,
    MAX_CELLS,
    MAX_LINES,
    MAX_SIGNS,
    PROBLEM,
    RESERVED,
    drawing,
    mapped,
    picture,
    summary,
)
from netstore.client.subnetstore import Entry
from netstore.network.addresses import Subnet
from netstore.network.config import Network, parse_network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.cli.commands.netmap import Map

SVG: Final = "{http://www.w3.org/2000/svg}"


def network(cidr: str = "10.0.0.0/24", subnet_len: int = 28) -> Network:
    text = f'{{"Network":"{cidr}","SubnetLen":{subnet_len},"Backend":{{"Type":"host-gw"}}}}'
    return parse_network(text.encode())


def found(there: Network, subnets: Iterable[Subnet], *, ttl: int | None = 100) -> Map:
    entries = [
        Entry(
            subnet.lease_name,
            f'{{"PublicIP":"192.168.{number // 250}.{number % 250 + 1}","BackendType":"host-gw"}}',
            1,
            ttl,
        )
        for number, subnet in enumerate(subnets)
    ]
    return mapped(there, survey(entries, there, "/n/subnets"))


def test_every_place_is_free_held_reserved_or_has_a_problem() -> None:
    there = network()
    entries = [
        Entry("10.0.0.32-28", '{"PublicIP":"192.168.0.1","BackendType":"host-gw"}', 1, 100),
        Entry("10.0.0.64-28", '{"PublicIP":"192.168.0.2"}', 1, None),
        Entry("10.0.0.96-28", '{"PublicIP":"192.168.0.3","BackendType":"vxlan"}', 1, 100),
        Entry("10.9.0.0-28", '{"PublicIP":"192.168.0.4","BackendType":"host-gw"}', 1, 100),
        Entry("rubbish", "x", 1, 100),
    ]
    one = mapped(there, survey(entries, there, "/n/subnets"))
    assert [(each.place, each.count, each.state) for each in one.stretches] == [
        (1, 1, FREE),
        (2, 1, HELD),
        (3, 1, FREE),
        (4, 1, RESERVED),
        (5, 1, FREE),
        (6, 1, PROBLEM),
        (7, 9, FREE),
    ]
    assert [record.subnet for record in one.elsewhere] == ["10.9.0.0/28", "rubbish"]
    assert summary(one) == (
        "10.0.0.0/24: 15 subnets of /28: 1 held, 1 reserved, 1 problem, 12 free; "
        "records that cover none of them: 2"
    )


SUBNETS = st.builds(Subnet.around, st.integers(0x09FFFF00, 0x0A0001FF), st.integers(22, 31))


@given(st.lists(SUBNETS, unique=True, max_size=12))
def test_what_is_taken_is_what_overlaps_a_lease(subnets: list[Subnet]) -> None:
    there = network()
    one = found(there, subnets)
    places = [
        (place, each.state) for each in one.stretches for place in range(each.place, each.place + each.count)
    ]
    assert [place for place, _ in places] == list(range(1, 16)), "each place once, in order"
    for place, state in places:
        taken = any(one.subnet(place).overlaps(subnet) for subnet in subnets)
        assert (state != FREE) is taken


@pytest.mark.parametrize("columns", [1, 5, 20, 21, 40, 80, 81, 200, 1000])
@pytest.mark.parametrize(("cidr", "length"), [("10.0.0.0/24", 26), ("10.0.0.0/16", 24), ("10.0.0.0/8", 30)])
def test_a_drawing_fits_any_terminal(columns: int, cidr: str, length: int) -> None:
    there = network(cidr, length)
    step = 1 << (32 - length)
    one = found(there, [Subnet(there.subnet_min + place * step, length) for place in range(2)])
    lines = drawing(one, columns).splitlines()
    signs = lines[lines.index("") + 1 :]
    assert 1 <= len(signs) <= MAX_LINES
    assert max(map(len, signs)) <= min(max(columns, 1), MAX_SIGNS + 16)
    assert max(map(len, lines)) <= max(columns, 20)


def test_a_drawing_has_one_sign_for_each_place() -> None:
    there = network()
    one = found(there, [Subnet(there.subnet_min, 28), Subnet(there.subnet_max, 28)])
    assert drawing(one, 80).splitlines()[-1] == "10.0.0.0    #.............#"


def test_a_large_network_is_drawn_in_tenths() -> None:
    there = network("10.0.0.0/8", 24)
    full = [Subnet(0x0A000000 + (place << 8), 24) for place in range(1, 64)]
    last = drawing(found(there, full), 80).splitlines()
    assert "each sign stands for 32 subnets" in last[1]
    row = next(line for line in last if line.startswith("10.0.0.0 "))
    assert row.split()[1][:4] == "9#.."


def test_the_picture_names_every_record() -> None:
    there = network("172.30.0.0/16", 24)
    held = [Subnet(0xAC1E0000 + (place << 8), 24) for place in (5, 9)]
    tree = ET.fromstring(picture(found(there, held)))  # noqa: S314 - our own document
    titles = [each.text for each in tree.iter(f"{SVG}title")][1:]
    assert titles == [
        "172.30.5.0/24 192.168.0.1, host-gw, 100 s left",
        "172.30.9.0/24 192.168.0.2, host-gw, 100 s left",
    ]
    texts = [each.text for each in tree.iter(f"{SVG}text")]
    assert "192.168.0.2" in texts
    assert "172.30.0.0/24" not in texts, "not below SubnetMin"


def test_what_a_store_holds_is_inert_in_the_picture() -> None:
    there = network()
    hostile = '{"PublicIP":"192.168.0.1","BackendType":"</title><script>x</script>\\u202e"}'
    one = mapped(there, survey([Entry("10.0.0.32-28", hostile, 1, 100)], there, "/n"))
    text = picture(one)
    assert "<script>" not in text
    assert "\u202e" not in text
    ET.fromstring(text)  # noqa: S314 - our own document


def test_a_picture_of_ten_thousand_leases_is_bounded() -> None:
    for cidr, length in (("10.0.0.0/8", 24), ("10.0.0.0/8", 30)):
        there = network(cidr, length)
        step = 1 << (32 - length)
        many = [Subnet(there.subnet_min + place * step, length) for place in range(10_000)]
        text = picture(found(there, many))
        assert len(text) < 3_000_000
        tree = ET.fromstring(text)  # noqa: S314 - our own document
        cells = [each for each in tree.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]
        assert len(cells) in ((10_000,) if length == 24 else range(1, MAX_CELLS))


def test_a_map_of_both_families_names_both() -> None:
    text = (
        b'{"Network":"10.0.0.0/24","SubnetLen":28,"EnableIPv6":true,"IPv6Network":"fd23::/48",'
        b'"Backend":{"Type":"host-gw"}}'
    )
    there = parse_network(text)
    value = '{"PublicIP":"192.168.0.1","PublicIPv6":"fd77::1","BackendType":"host-gw"}'
    entries = [
        Entry("10.0.0.32-28&fd23:0:0:2::-64", value, 1, 100),
        Entry("10.0.0.64-28", '{"PublicIP":"192.168.0.2","BackendType":"host-gw"}', 1, 100),
    ]
    one = mapped(there, survey(entries, there, "/n/subnets"))
    assert summary(one).endswith("; fd23::/48: 1 of them with a subnet of /64")
    assert "<title>10.0.0.32/28, fd23:0:0:2::/64 192.168.0.1, fd77::1, host-gw" in picture(one)
