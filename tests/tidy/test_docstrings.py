"""Every public name has a docstring.

Two kinds of name need none. A method that a Protocol of this package describes, in a class whose docstring
names that Protocol: described twice, the two would drift apart. And a property of one plain statement, whose
name and type say all there is.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FILES = sorted(path for room in ("netstore", "plugins") for path in (ROOT / room).rglob("*.py"))

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    for each in body:
        if isinstance(each, Definition) and not each.name.startswith("_"):
            yield each


def decorators(each: Definition) -> set[str]:
    return {ast.unparse(decorator).split("(")[0].rpartition(".")[2] for decorator in each.decorator_list}


def described(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Protocol -> methods it describes."""
    return {
        each.name: {method.name for method in public(each.body) if ast.get_docstring(method)}
        for tree in trees.values()
        for each in tree.body
        if isinstance(each, ast.ClassDef)
        and any(ast.unparse(base).startswith("Protocol") for base in each.bases)
    }


def undocumented(tree: ast.Module, promised: dict[str, set[str]]) -> Iterator[str]:
    """Public names of a module that lack a docstring."""
    if tree.body and not ast.get_docstring(tree):
        yield "the module"
    for each in public(tree.body):
        if "overload" not in decorators(each) and not ast.get_docstring(each):
            yield each.name
        if isinstance(each, ast.ClassDef):
            yield from undocumented_methods(each, promised)


def undocumented_methods(owner: ast.ClassDef, promised: dict[str, set[str]]) -> Iterator[str]:
    words = ast.get_docstring(owner) or ""
    elsewhere = {name for protocol, methods in promised.items() if protocol in words for name in methods}
    for each in public(owner.body):
        plain = isinstance(each, ast.FunctionDef) and "property" in decorators(each) and len(each.body) == 1
        if not (
            plain
            or each.name in elsewhere
            or {"overload", "setter"} & decorators(each)
            or ast.get_docstring(each)
        ):
            yield f"{owner.name}.{each.name}"


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}


def test_every_public_name_has_a_docstring(trees: dict[str, ast.Module]) -> None:
    promised = described(trees)
    missing = [f"{file}: {name}" for file, tree in trees.items() for name in undocumented(tree, promised)]
    assert missing == []


def test_the_test_sees_what_is_missing() -> None:
    tree = ast.parse(
        '''
class Kettle(Protocol):
    """Boils."""
    def boil(self):
        """Boil."""
    def pour(self): ...

class Iron:
    """A `Kettle` of iron."""
    def boil(self): return 1
    def pour(self): return 2
    @property
    def heat(self): return 3
    @property
    def weight(self):
        x = 3
        return x
    def _own(self): return 4

def tea(): return 5
'''
    )
    assert list(undocumented(tree, described({"": tree}))) == [
        "the module",
        "Kettle.pour",
        "Iron.pour",
        "Iron.weight",
        "tea",
    ]
