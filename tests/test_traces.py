"""W3C Trace Context."""

from __future__ import annotations

import pytest

from netstore.traces import MOST_BYTES, Trace, parse_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01".encode()


def test_the_ids_and_whether_it_is_sampled() -> None:
    assert parse_traceparent(GOOD) == Trace(TRACE, PARENT, is_sampled=True)
    assert parse_traceparent(GOOD[:-1] + b"0") == Trace(TRACE, PARENT, is_sampled=False)


def test_a_later_version_may_have_more() -> None:
    assert parse_traceparent(b"01" + GOOD[2:] + b"-more") == Trace(TRACE, PARENT, is_sampled=True)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ff" + GOOD[2:],
        GOOD + b"-more",
        GOOD[:-1],
        GOOD.upper(),
        f"00-{'0' * 32}-{PARENT}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        b"01" + GOOD[2:] + b"-" + b"x" * MOST_BYTES,
    ],
)
def test_what_is_not_valid_is_no_trace(text: bytes) -> None:
    assert parse_traceparent(text) is None
