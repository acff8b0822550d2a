"""A device on a real folder, and system calls that fail or wait."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from netstore.disk.posix import PosixDevice
from tests.disk.fakeloop import TIMEOUT, FakeLoop
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

BLOCK = 64 * 1024


class Disk:
    """A device on a real folder, and the results of its writes."""

    def __init__(self, folder: Path, file_bytes: int = BLOCK) -> None:
        self.folder = folder
        self.loop = FakeLoop()
        self.device = PosixDevice(folder, self.loop, file_bytes)
        self.answers: list[tuple[int, OSError | None]] = []
        self.sent = 0
        self.end: dict[str, int] = {}

    def write(self, name: str, data: bytes, offset: int | None = None, *, held: bool = False) -> None:
        at = self.end.get(name, 0) if offset is None else offset
        self.end[name] = at + len(data)
        number = self.sent
        self.sent += 1
        self.device.write(name, at, data, lambda error: self.answers.append((number, error)), held=held)

    def write_noted(self, name: str, data: bytes, note: bytes) -> None:
        self.sent += 1
        at = self.end.get(name, 0)
        self.end[name] = at + len(data)
        self.device.write(name, at, data, lambda error: self.answers.append((len(self.answers), error)), note)

    def settle(self) -> list[OSError | None]:
        """The results of all writes, once every write has one; they come in order."""
        self.loop.run_until(lambda: len(self.answers) == self.sent)
        assert [number for number, _ in self.answers] == list(range(self.sent))
        return [error for _, error in self.answers]

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes().rstrip(b"\0")


def at_rest(disk: Disk) -> None:
    """Wait until every write has its result and the writer sleeps."""
    disk.settle()
    until(lambda: disk.device._inbox._asleep, "the writer sleeps", TIMEOUT)


def found_fast(disk: Disk) -> None:
    """Let the device think that syncs have been fast, whatever this machine's are."""
    disk.device._usual_seconds = 0.0


class Gate:
    """Stops the writer in its first sync until `open`, and records its system calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._reached = threading.Event()
        self._open = threading.Event()
        self._real_sync = os.fdatasync
        for name in ("pwrite", "pwritev"):
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _writer(self) -> bool:
        return threading.current_thread().name == "disk-writer"

    def _counting(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if self._writer():
                self.calls.append(name)
            return real(*arguments)

        return call

    def _sync(self, file: int) -> None:
        if self._writer():
            self.calls.append("fdatasync")
            self._reached.set()
            assert self._open.wait(seconds(TIMEOUT))
        self._real_sync(file)

    def wait(self) -> None:
        assert self._reached.wait(seconds(TIMEOUT))

    def open(self) -> None:
        self._open.set()


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, code: int, *, times: int = 1, thread: str = "disk-writer"
) -> list[str]:
    """Let the first `times` calls of one thread fail; the list gets all calls of that thread."""
    real = getattr(os, name)
    calls: list[str] = []

    def call(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name == thread:
            calls.append(name)
            if len(calls) <= times:
                raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    return calls
