"""A file that is short of pages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from netstore.disk.tables import Tables
from netstore.errors import StateDamaged
from tests.disk.opened import TABLES
from tests.disk.states import MAP, make_state

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_cut_short_at_any_page_is_refused(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    whole = path.read_bytes()
    for size in range(1, len(whole), 1024):
        path.write_bytes(whole[:size])
        with pytest.raises(StateDamaged, match=r"cut short: the last|not a state"):
            Tables.open(path, TABLES, MAP)
        with pytest.raises(StateDamaged, match=r"cut short: the last|not a state"):
            Tables.read(path)
        assert path.stat().st_size == size, "nothing was changed"


def test_freed_pages_are_part_of_the_file(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    tables = Tables.read(path)
    pages = tables.env.info()["last_pgno"] + 1
    tables.close()
    assert os.path.getsize(path) >= pages * 4096  # noqa: PTH202
