"""A thread that dies is reported."""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from netstore.disk.threads import ThreadDied, start_thread, watch_threads
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("fault", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_cannot_be_started_is_an_error_and_no_exception(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise fault

    done = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        failure = start_thread(done.set, "work")
    assert isinstance(failure, OSError)
    assert "no thread can be started" in str(failure)
    assert start_thread(done.set, "work") is None
    assert done.wait(seconds(20))


def test_the_exception_that_ends_a_thread_is_raised_on_the_loop() -> None:
    calls: list[Callable[[], object]] = []
    told: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, told.append
    try:
        undo = watch_threads(calls.append)
        for name, work in (("good", list), ("bad", partial(_raise, OSError(22, "odd")))):
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
        undo()
        assert threading.excepthook == told.append
    finally:
        threading.excepthook = hook
    assert len(told) == 1, "the traceback is printed as before"
    (call,) = calls
    with pytest.raises(ThreadDied, match=r"thread bad ended by OSError\(22, 'odd'\)") as fell:
        call()
    assert isinstance(fell.value.__cause__, OSError)


@pytest.mark.parametrize("fault", [OSError(22, "odd"), SystemExit(3)])
def test_a_thread_that_died_is_reported_where_nothing_can_be_printed(fault: BaseException) -> None:
    """The full disk may be the one that standard error is written to."""
    calls: list[Callable[[], object]] = []

    def no_room(_: threading.ExceptHookArgs) -> None:
        raise OSError(28, "no space left on device")

    hook, threading.excepthook = threading.excepthook, no_room
    second, sys.excepthook = sys.excepthook, lambda *_: None
    try:
        undo = watch_threads(calls.append)
        thread = threading.Thread(target=_raise, args=(fault,))
        thread.start()
        thread.join()
        undo()
    finally:
        threading.excepthook, sys.excepthook = hook, second
    assert len(calls) == isinstance(fault, OSError), "who asks to end by SystemExit has not failed"


def _raise(fault: BaseException) -> None:
    raise fault
