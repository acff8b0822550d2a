"""CONTRIBUTING's table of where to start names files that are there, and what is defined in them."""

from __future__ import annotations

import ast
import re
from typing import Final

from tests.support.daemon import ROOT

HEAD: Final = "| To change ... | Start in ... |\n| --- | --- |\n"
PLACE: Final = re.compile(r"`((?:netstore|plugins|contrib)/[\w/.]+)`(?: \(`(\w+)`\))?")


def rows(page: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """What is to be changed, and where to start: files, each with a name that it defines, or an empty one."""
    table = page.partition(HEAD)[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [(what, PLACE.findall(where)) for what, where in cells]


def defined(source: str) -> set[str]:
    """Functions, classes, and what is assigned to: variables, fields and attributes."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def missing(page: str) -> list[str]:
    """What the table names and is not there."""
    found = []
    for what, places in rows(page):
        found += [] if places else [f"{what}: names no file"]
        for path, name in places:
            if not (ROOT / path).exists():
                found.append(f"{what}: {path} is not there")
            elif name and name not in defined((ROOT / path).read_text()):
                found.append(f"{what}: {path} does not define {name}")
    return found


def test_where_to_start_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(rows(page)) > 20
    assert missing(page) == []


def test_what_is_not_there_is_seen() -> None:
    table = (
        "| an error | `netstore/errors.py` (`MESSAGES`), `netstore/errors.py` (`Fault`) |\n"
        "| an old one | `netstore/faults.py` (`MESSAGES`) |\n"
        "| a text | `netstore/errors.py` (`TEXTS`); `netstore/cli/` |\n"
        "| a word | somewhere |\n"
    )
    assert missing(f"{HEAD}{table}\nText\n") == [
        "an old one: netstore/faults.py is not there",
        "a text: netstore/errors.py does not define TEXTS",
        "a word: names no file",
    ]
