"""Judging records: the sweep over overlaps against an obvious twin, and the order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from netstore.cli.commands.leases import survey
from netstore.client.subnetstore import Entry
from netstore.network.addresses import Subnet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.cli.commands.leases import Record

# A narrow range, so that overlaps are common.
SUBNETS = st.builds(Subnet.around, st.integers(0x0A000000, 0x0A0000FF), st.integers(22, 31))


def records(subnets: Sequence[Subnet]) -> list[Record]:
    entries = [
        Entry(subnet.lease_name, f'{{"PublicIP":"192.168.{number}.1","BackendType":"x"}}', 1, None)
        for number, subnet in enumerate(subnets)
    ]
    return survey(entries, None, "/n/subnets")


@given(st.lists(SUBNETS, unique=True, max_size=30))
def test_the_sweep_finds_exactly_the_overlaps_that_comparing_all_pairs_finds(subnets: list[Subnet]) -> None:
    expected = {
        str(subnet): any(other.overlaps(subnet) for other in subnets if other != subnet) for subnet in subnets
    }
    assert {record.subnet: bool(record.problems) for record in records(subnets)} == expected


@given(st.lists(SUBNETS, unique=True, max_size=30))
def test_what_an_overlap_names_does_overlap(subnets: list[Subnet]) -> None:
    by_name = {str(subnet): subnet for subnet in subnets}
    for record in records(subnets):
        for problem in record.problems:
            other = by_name[problem.removeprefix("overlaps ")]
            assert record.subnet != str(other)
            assert other.overlaps(by_name[record.subnet])


@given(st.lists(SUBNETS, unique=True, max_size=30), st.randoms())
def test_leases_come_in_the_order_of_their_addresses(subnets: list[Subnet], random: object) -> None:
    assert [record.subnet for record in records(subnets)] == [str(subnet) for subnet in sorted(subnets)]


def test_an_overdue_lease_is_a_problem_and_no_reservation() -> None:
    for ttl, lease in ((0, 0), (-3, 0), (-1, 7)):
        entry = Entry("10.1.5.0-24", '{"PublicIP":"192.168.77.11"}', 1, ttl, lease=lease)
        (record,) = survey([entry], None, "/n/subnets")
        assert record.problems == ("overdue",)
        assert not record.reserved
        assert record.ttl == ttl
        assert record.key == "/n/subnets/10.1.5.0-24"


def test_a_lease_whose_time_was_not_asked_for_is_neither_overdue_nor_a_reservation() -> None:
    entry = Entry("10.1.5.0-24", '{"PublicIP":"192.168.77.11"}', 1, 0, lease=7)
    (record,) = survey([entry], None, "/n/subnets")
    assert (record.problems, record.reserved, record.ttl, record.expires) == ((), False, None, None)


def test_dual_stack_records_of_one_subnet_overlap() -> None:
    value = '{"PublicIP":"192.168.77.11","PublicIPv6":"fd00::1","BackendType":"host-gw"}'
    names = ["10.1.5.0-24", "10.1.5.0-24&fd23:0:0:2::-64"]
    found = survey([Entry(name, value, 1, None) for name in names], None, "/n/subnets")
    assert [record.name for record in found] == names
    assert all("overlaps 10.1.5.0/24" in record.problems for record in found)
