"""An engine on a file, and the loop that it reports to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from netstore.disk.engine import LmdbEngine
from tests.disk.fakeloop import TIMEOUT, FakeLoop
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TABLES = ("plain", "other")


LONG = b"k" * 600


class Answers:
    def __init__(self) -> None:
        self.got: list[OSError | None] = []

    def __call__(self, error: OSError | None) -> None:
        self.got.append(error)


class Opened:
    """An engine on a file, its loop, and the failures that it reported."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.loop = FakeLoop()
        self.failures: list[OSError] = []
        self.engine = LmdbEngine(path, self.loop, TABLES, self.failures.append, **options)

    def sync(self) -> OSError | None:
        answers = Answers()
        self.engine.sync(answers)
        self.loop.run_until(lambda: bool(answers.got))
        return answers.got[0]

    def wait_durable(self) -> None:
        self.loop.run_until(lambda: self.engine.durable() == self.engine.applied())


def hold(engine: LmdbEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Stop the storage thread in its next commit. One event is set when it is there; the other one lets it go
    on.
    """
    reached, go_on = threading.Event(), threading.Event()
    real = engine._shared._put

    def put(*arguments: Any) -> None:
        reached.set()
        assert go_on.wait(seconds(TIMEOUT))
        real(*arguments)

    monkeypatch.setattr(engine._shared, "_put", put)
    return reached, go_on


def copied(engine: LmdbEngine, path: Path) -> Path:
    with path.open("wb") as file:
        engine.copy_to(file.fileno())
    return path
