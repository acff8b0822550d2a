"""Revisions and instants on the command line."""

from __future__ import annotations

import time

import click
import pytest

from netstore.cli.commands.points import instant, point, revision, shown_instant


def test_instants() -> None:
    wanted = 1_796_047_500 * 10**9
    for word in ("2026-11-30T14:05:00Z", "2026-11-30T16:05:00+02:00", "2026-11-30 14:05:00+00:00"):
        assert instant(word).instant == wanted, word
    assert instant("2026-11-30T14:05:00.000001Z").instant == wanted + 1000
    for word, seconds in (("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200)):
        before = time.time_ns()
        found = instant(word).instant + seconds * 10**9
        assert before <= found <= time.time_ns()


@pytest.mark.parametrize(
    "word", ["", "yesterday", "5", "m", "-5m", "1w", "2026-11-30T14:05:00", "2026-11-30"]
)
def test_what_is_no_instant(word: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write one as|has no time zone"):
        instant(word)


def test_points_and_revisions() -> None:
    assert (point("17").revision, point("17").instant) == (17, 0)
    assert point("5m").revision == 0
    assert revision("1") == 1
    for word in ("0", "-1", "x", "9" * 19, "9" * 20, "1.5"):
        with pytest.raises(click.BadParameter, match="is no revision"):
            revision(word)


def test_shown_instants() -> None:
    assert shown_instant(1_796_047_500_123_456_789) == "2026-11-30T14:05:00.123Z"
    assert shown_instant(1_796_047_500_123_999_999) == "2026-11-30T14:05:00.123Z"
    assert shown_instant(1_796_047_500_123_000_001, up=True) == "2026-11-30T14:05:00.124Z"
    for milliseconds in range(1000):
        exact = 1_796_047_500 * 10**9 + milliseconds * 10**6
        shown = f"2026-11-30T14:05:00.{milliseconds:03}Z"
        assert (shown_instant(exact), shown_instant(exact, up=True)) == (shown, shown)
        assert instant(shown).instant == exact
    assert (shown_instant(0), shown_instant(2**64 - 1)) == (None, "2554-07-21T23:34:33.709Z")
