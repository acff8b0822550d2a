"""Files are closed and removed in another thread, each once, and none is lost."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from netstore.disk import closer as closing
from netstore.disk.closer import MOST_WAITING, Closer
from tests.support.closing import Mark, held, unnamed, wait_for
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def closer() -> Iterator[Closer]:
    closer = Closer()
    yield closer
    closer.stop()


class Recorded:
    """A file that says in which threads it was closed."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.closed: list[int] = []
        self._fault = fault

    def close(self) -> None:
        self.closed.append(threading.get_ident())
        if self._fault is not None:
            raise self._fault


def test_a_file_is_closed_once_and_in_another_thread_whatever_that_reports(closer: Closer) -> None:
    files = [Recorded(OSError(5, "Input/output error")), Recorded(MemoryError())]
    for each in files:
        closer.close(each)
    wait_for(closer)
    assert [len(each.closed) for each in files] == [1, 1]
    assert threading.get_ident() not in files[0].closed + files[1].closed


def test_a_name_is_free_at_once_and_the_room_when_the_thread_comes_to_it(
    closer: Closer, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with held(closer):
        closer.unlink(path)
        assert not path.exists()
        path.write_bytes(b"another one")
        assert unnamed(tmp_path) == [5], "it is held until the thread frees it"
    assert unnamed(tmp_path) == []
    assert path.read_bytes() == b"another one"


def test_a_file_is_removed_by_the_thread(closer: Closer, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with held(closer):
        closer.remove(path)
        assert path.exists()
    assert not path.exists()


def test_what_is_not_there_is_no_error(closer: Closer, tmp_path: Path) -> None:
    assert closer.unlink(tmp_path / "file") is None
    closer.remove(tmp_path / "file")
    wait_for(closer)


def test_a_removal_that_fails_is_told_and_keeps_nothing_open(closer: Closer, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - descriptors
    assert isinstance(closer.unlink(tmp_path), IsADirectoryError)
    wait_for(closer)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - descriptors


def test_a_name_is_free_also_where_no_descriptor_is_left(
    closer: Closer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    path = tmp_path / "file"
    path.touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        closer.unlink(path)
    assert not path.exists()


def test_it_tells_when_too_many_wait(closer: Closer) -> None:
    with held(closer):
        for _ in range(MOST_WAITING):
            assert not closer.is_full
            closer.close(Recorded())
        assert closer.is_full
    assert not closer.is_full


def test_a_stop_does_what_waits_and_later_calls_are_not_lost() -> None:
    closer = Closer()
    before, after = Recorded(), Recorded()
    closer.close(before)
    closer.stop()
    assert len(before.closed) == 1
    closer.close(after)
    assert after.closed == [threading.get_ident()]
    closer.stop()


def test_a_stop_does_not_wait_for_a_file_system_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "STOP_SECONDS", 0.01)
    closer, mark = Closer(), Mark()
    closer.close(mark)
    assert mark.reached.wait(seconds(60))
    closer.stop()
    mark.go_on.set()
