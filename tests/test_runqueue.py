"""What a thread waited for a processor, as the kernel counts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.runqueue import RunQueue

if TYPE_CHECKING:
    from pathlib import Path


def test_the_kernels_count_never_falls() -> None:
    queue = RunQueue()
    before = queue.waited()
    assert 0.0 <= before <= queue.waited()
    queue.close()
    assert queue.waited() == 0.0


@pytest.mark.parametrize("text", [None, "", "1", "1 x 2"])
def test_a_kernel_that_counts_no_waits_is_no_fault(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "schedstat"
    if text is not None:
        file.write_text(text)
    queue = RunQueue(str(file))
    assert (queue.waited(), queue.waited()) == (0.0, 0.0)
    queue.close()


def test_the_second_number_is_the_wait(tmp_path: Path) -> None:
    (tmp_path / "schedstat").write_text("7922799 1500000000 3\n")
    queue = RunQueue(str(tmp_path / "schedstat"))
    assert queue.waited() == 1.5
    queue.close()
