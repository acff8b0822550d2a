"""Keys are sorted in steps of bounded work, whatever their number and length."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.v3 import sortedruns
from netstore.api.v3.sortedruns import WAYS, batches, clear, merge_most, merged, run_of, run_size

if TYPE_CHECKING:
    from netstore.api.v3.sortedruns import Run


@pytest.fixture
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sortedruns, "STEP_KEYS", 16)
    monkeypatch.setattr(sortedruns, "STEP_BYTES", 200)


@pytest.mark.usefixtures("_small_steps")
def test_runs_are_merged_in_steps() -> None:
    keys = [b"%05d" % (number * 7919 % 10_007) for number in range(3_000)]
    runs: deque[Run] = deque(run_of(sorted(batch)) for batch in batches(keys))
    assert len(runs) > WAYS**2
    steps = sum(1 for _ in merge_most(runs))
    assert 1 < len(runs) <= WAYS
    assert steps >= len(keys) // 16
    assert list(merged(runs)) == sorted(keys)
    assert not any(runs), "what is merged is freed"


@given(st.lists(st.binary(max_size=60), max_size=100), st.integers(1, WAYS))
def test_batches_are_bounded_in_keys_and_bytes(keys: list[bytes], parts: int) -> None:
    found = list(batches(keys, parts))
    assert [key for batch in found for key in batch] == keys
    for batch in found:
        assert len(batch) <= sortedruns.STEP_KEYS // parts
        assert sum(map(len, batch[:-1])) < sortedruns.STEP_BYTES // parts


@given(st.lists(st.binary(max_size=300), max_size=100))
def test_a_run_takes_no_more_than_is_charged(keys: list[bytes]) -> None:
    keys.sort()
    run = run_of(keys)
    assert list(merged([run])) == keys
    assert sum(map(len, run_of(keys))) <= run_size(keys) + 8 * len(run_of(keys))


def test_runs_are_freed_in_steps() -> None:
    runs: deque[Run] = deque(run_of([b"a"]) for _ in range(3 * sortedruns.RUNS_AT_ONCE))
    assert sum(1 for _ in clear(runs)) == 3
    assert not runs
