"""Each promise names the tests that hold it, and those are there."""

from __future__ import annotations

import re
from typing import Final

from tests.support.daemon import ROOT

PAGE: Final = (ROOT / "contrib" / "doc" / "promises.md").read_text()
ROWS: Final[list[tuple[str, str]]] = re.findall(r"^\| P(\d+) \|.*\| (.*) \|$", PAGE, re.MULTILINE)
NAMED: Final = re.compile(r"`(tests/[\w/]+\.py)`")


def test_promises_are_numbered_without_a_gap() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 12


def test_every_promise_names_its_tests() -> None:
    assert [number for number, held in ROWS if not NAMED.findall(held)] == []


def test_tests_that_are_named_exist_and_test_something() -> None:
    missing = []
    for name in sorted(set(NAMED.findall(PAGE))):
        file = ROOT / name
        if not file.is_file() or not re.search(r"^(async )?def test_", file.read_text(), re.MULTILINE):
            missing.append(name)
    assert missing == []


def test_promises_that_the_simulator_cites_are_on_the_page() -> None:
    known = {f"P{number}" for number, _ in ROWS}
    cited: set[str] = set()
    for file in (ROOT / "tests" / "sim").rglob("*.py"):
        cited |= set(re.findall(r"\bP\d+\b", file.read_text()))
    assert cited <= known
    assert cited
