"""Who held what when: spans from changes."""

from __future__ import annotations

from netstore.cli.commands.past import concerns, spans
from netstore.client.subnetstore import Entry, History, Past

A, B = "10.1.5.0-24", "10.1.6.0-24"


def lease(ip: int) -> str:
    return f'{{"PublicIP":"192.168.77.{ip}","BackendType":"host-gw"}}'


def told(*changes: Past, before: tuple[Entry, ...] = ()) -> list[tuple[str, str | None, int, int, int, str]]:
    found = spans(History(1, 100, before, changes, 100))
    return [(each.subnet, each.public_ip, each.first, each.last, each.writes, each.end) for each in found]


def test_renewals_are_one_span() -> None:
    writes = [Past(A, index, lease(1), None if index == 10 else lease(1)) for index in (10, 20, 30)]
    assert told(*writes) == [("10.1.5.0/24", "192.168.77.1", 10, 30, 3, "holds it now")]


def test_a_span_ends_with_its_removal_its_end_or_another_holder() -> None:
    assert [
        (first, last, end)
        for _, _, first, last, _, end in told(
            Past(A, 10, lease(1)),
            Past(A, 11, None, lease(1), expired=False),
            Past(A, 12, lease(1)),
            Past(A, 13, None, lease(1), expired=True),
            Past(A, 14, lease(2)),
            Past(A, 15, lease(3), lease(2)),
            Past(A, 16, None, lease(3)),
        )
    ] == [
        (10, 11, "removed"),
        (12, 13, "expired"),
        (14, 15, "taken by 192.168.77.3"),
        (15, 16, "removed or expired"),
    ]


def test_who_held_it_before_the_store_remembers_is_marked() -> None:
    [span] = spans(History(50, 100, (Entry(A, lease(1), 7, 100),), (), 100))
    assert (span.known_start, span.row()[3]) == (False, "<=7")
    assert span.content()["fromIsKnown"] is False


def test_all_are_removed_together() -> None:
    assert [
        end for *_, end in told(Past(A, 1, lease(1)), Past(B, 2, lease(2)), Past("", 3, None, expired=False))
    ] == [
        "removed",
        "removed",
    ]


def test_times_are_told_where_the_store_keeps_them() -> None:
    [span] = spans(
        History(1, 9, (), (Past(A, 1, lease(1), time=0.0), Past(A, 2, None, expired=True, time=86_400.0)), 9)
    )
    assert (span.content()["since"], span.content()["until"]) == (
        "1970-01-01T00:00:00Z",
        "1970-01-02T00:00:00Z",
    )


def test_a_record_that_is_no_lease_is_a_span_with_the_reason() -> None:
    [span] = spans(History(1, 9, (), (Past(A, 1, "rubbish"),), 9))
    assert span.public_ip is None
    assert "is not a lease" in str(span.row()[1])


def test_what_concerns_a_node() -> None:
    me = "192.168.77.1"
    for change, mine in (
        (Past(A, 1, lease(1)), True),
        (Past(A, 1, lease(2), lease(1)), True),
        (Past(A, 1, None, lease(1)), True),
        (Past("", 1, None), True),
        (Past(A, 1, lease(2)), False),
        (Past(A, 1, "rubbish", "rubbish"), False),
    ):
        assert concerns(change, name=None, address=me) is mine
    assert concerns(Past(A, 1, "x"), name=A, address=None)
    assert not concerns(Past(A, 1, "x"), name=B, address=None)


def test_a_lease_of_both_families_is_found_by_either() -> None:
    name6 = "fd23:0:0:2::-64"
    value = '{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"host-gw"}'
    change = Past(f"{A}&{name6}", 1, value)
    for known in (A, name6, f"{A}&{name6}"):
        assert concerns(change, name=known, address=None)
    assert concerns(change, name=None, address="fd77::1")
    assert not concerns(change, name=None, address="fd77::2")
    [span] = spans(History(1, 9, (), (change,), 9))
    assert span.row()[:2] == ("10.1.5.0/24, fd23:0:0:2::/64", "192.168.77.1, fd77::1")
    assert span.content()["ipv6Subnet"] == "fd23:0:0:2::/64"
    assert span.content()["publicIPv6"] == "fd77::1"
