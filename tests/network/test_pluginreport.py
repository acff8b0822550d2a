"""Reports of agents."""

from __future__ import annotations

import pytest

from netstore.errors import NetstoreError
from netstore.network.pluginreport import (
    MAX_INSTALLED,
    MAX_REPORT_BYTES,
    Installed,
    Report,
    encode_report,
    parse_report,
)


def test_a_report_is_read_as_it_was_written() -> None:
    report = Report("node1", "0.1.0", "vxlan", (Installed("vxlan", "0.1.0"), Installed("x", problem="no")))
    assert parse_report(encode_report(report)) == report
    assert parse_report('{"node":"a","agent":"b","later":1}') == Report("a", "b")


@pytest.mark.parametrize("text", ["", "[]", '{"node":1}', "{", "[" * 5000])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(NetstoreError, match="not the report of an agent"):
        parse_report(text)


def test_a_report_is_bounded() -> None:
    many = tuple(Installed(f"p{number}", problem="x" * 2000) for number in range(200))
    text = encode_report(Report("a", "b", installed=many))
    assert len(text) <= MAX_REPORT_BYTES
    assert 0 < len(parse_report(text).installed) <= MAX_INSTALLED
