"""`grpc-timeout` and `grpc-message`."""

from __future__ import annotations

import pytest

from netstore.net.grpc import headers as grpc_headers
from netstore.net.grpc.headers import encode_text, parse_timeout


def test_timeouts_are_parsed_in_every_unit() -> None:
    for text, seconds in (
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"40m", 0.04),
        (b"99999999n", 0.099999999),
    ):
        assert parse_timeout(text) == pytest.approx(seconds)
    for text in (b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S"):
        assert parse_timeout(text) is None


def test_a_text_is_truncated_between_characters() -> None:
    assert encode_text("a%b\n") == b"a%25b%0A"
    assert len(encode_text("é" * 5000)) <= 4096


def test_long_timeouts_are_not_cached() -> None:
    before = grpc_headers._seconds.cache_info().currsize
    for i in range(100):
        assert parse_timeout(b"%010dS" % i) is None
        assert parse_timeout(b"%060000dS" % i) is None
    assert parse_timeout(b"") is None
    assert grpc_headers._seconds.cache_info().currsize == before


def test_the_longest_timeout_is_a_year() -> None:
    assert parse_timeout(b"99999999H") == grpc_headers.LONGEST_SECONDS
