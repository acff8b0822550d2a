"""Tests of a file that share a store run on one worker, so that only one store is started."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.daemon import ROOT
from tests.support.patience import seconds
from tests.support.units import mixed, shares

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
from pathlib import Path
import pytest

@pytest.fixture{scope}
def made(request):
    with Path(__file__).with_suffix(".made").open("a") as file:
        file.write("x")

@pytest.mark.parametrize("number", range(20))
def test(made, number):
    pass
"""


def test_what_is_shared_is_made_once(tmp_path: Path) -> None:
    shared = tmp_path / "test_shared.py"
    single = tmp_path / "test_single.py"
    shared.write_text(FILE.format(scope='(scope="module")'))
    single.write_text(FILE.format(scope=""))
    command = (sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "tests.conftest", "--rootdir", tmp_path)
    subprocess.run(
        (*command, "-c", ROOT / "pyproject.toml", shared, single),
        cwd=ROOT,
        check=True,
        timeout=seconds(60),
        stdout=subprocess.DEVNULL,
    )
    assert shared.with_suffix(".made").read_text() == "x"
    assert single.with_suffix(".made").read_text() == "x" * 20


def test_a_fixture_of_the_folder_is_shared_too() -> None:
    assert shares(ROOT / "tests/process/test_cluster.py")
    assert shares(ROOT / "tests/conformance/test_v3_kv.py")
    assert not shares(ROOT / "tests/process/test_badinput.py")


def test_tests_that_wait_run_beside_others() -> None:
    many, waits = "tests/api/many.py", "tests/process/waits.py"
    singles = [f"tests/raft/test_log.py::test_{number}" for number in range(16)]
    slow = [f"tests/process/test_cni.py::test_{number}" for number in range(2)]
    units = {many: "xx", waits: "xx", **dict.fromkeys(singles + slow, "x")}
    order = mixed(units)
    assert sorted(order) == sorted(units)
    assert [unit for unit in order if unit not in (waits, *slow)] == [many, *singles]
    assert [order.index(unit) for unit in (waits, *slow)] == [0, 8, 12]
    assert mixed({}) == []
    assert mixed({waits: "xx"}) == [waits]
