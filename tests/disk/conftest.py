"""An engine and a device on files, each closed after its test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.disk.devices import Disk
from tests.disk.opened import Opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made = Opened(tmp_path / "state", commit_interval=3600)
    yield made
    made.engine.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.device.close()
