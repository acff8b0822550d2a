"""What a leader knows of one follower."""

from __future__ import annotations

import pytest

from netstore.raft.progress import Progress, ProgressState
from netstore.types import Index


def probing(next_index: int = 10) -> Progress:
    return Progress(Index(next_index), now=0)


def streaming(match: int = 9) -> Progress:
    progress = probing(match + 1)
    progress.accepted(Index(match))
    progress.become_replicate()
    return progress


def test_a_probe_waits_for_its_answer() -> None:
    progress = probing()
    progress.sent(Index(12), 30)
    assert progress.paused
    assert (progress.next, len(progress._window)) == (10, 0)


def test_a_stream_does_not_wait_until_the_window_is_full() -> None:
    progress = streaming()
    progress.sent(Index(12), 30)
    progress.sent(Index(13), 10)
    assert (progress.next, len(progress._window), progress.inflight_bytes) == (14, 2, 40)
    assert not progress.paused
    assert progress.full(2, 1000)
    assert progress.full(9, 40)
    assert not progress.full(3, 41)


def test_an_answer_covers_all_messages_before_it() -> None:
    progress = streaming()
    for last in (12, 13, 20):
        progress.sent(Index(last), 10)
    assert progress.accepted(Index(15))
    assert (progress.match, progress.next, len(progress._window), progress.inflight_bytes) == (15, 21, 1, 10)
    assert not progress.accepted(Index(15))
    assert not progress.accepted(Index(4))
    assert progress.match == 15


@pytest.mark.parametrize(
    ("at", "retry", "taken", "next_index"),
    [(9, 4, True, 5), (9, 9, True, 9), (9, 2, True, 4), (8, 4, False, 10), (10, 4, False, 10)],
)
def test_a_rejected_probe_goes_back_but_never_behind_what_is_known(
    at: int, retry: int, taken: bool, next_index: int
) -> None:
    progress = probing()
    progress.accepted(Index(3))
    progress.paused = True
    assert progress.rejected(Index(at), Index(retry)) == taken
    assert progress.next == next_index
    assert progress.paused != taken


def test_a_rejected_stream_becomes_a_probe_at_what_is_known() -> None:
    progress = streaming()
    progress.sent(Index(12), 30)
    assert not progress.rejected(Index(9), Index(2))
    assert progress.rejected(Index(12), Index(2))
    assert (progress.state, progress.next, progress.inflight_bytes) == (ProgressState.PROBE, 10, 0)


def test_while_a_snapshot_is_on_its_way_rejections_are_outdated() -> None:
    progress = probing()
    progress.become_snapshot(Index(50))
    assert not progress.rejected(Index(9), Index(2))
    assert (progress.state, progress.snapshot) == (ProgressState.SNAPSHOT, 50)


def test_rounds() -> None:
    """A round of 7 ticks is too long for a limit of 5; one of 4 is not, as long as the next one is not too
    long."""
    progress = Progress(Index(11), now=0)
    progress.last_heard = 7
    progress.accepted(Index(10))
    progress.count_round(Index(15), now=7, limit=5)
    assert not progress.is_caught_up(Index(15), now=7, limit=5)
    progress.last_heard = 11
    progress.accepted(Index(15))
    progress.count_round(Index(20), now=11, limit=5)
    assert progress.is_caught_up(Index(20), now=11, limit=5)
    assert progress.is_caught_up(Index(20), now=15, limit=5)
    progress.last_heard = 16
    assert not progress.is_caught_up(Index(20), now=16, limit=5)
    progress.accepted(Index(20))
    progress.count_round(Index(20), now=16, limit=5)
    assert progress.is_caught_up(Index(20), now=20, limit=5)
    assert not progress.is_caught_up(Index(20), now=21, limit=5)
