"""What a class needs of the outside is described once: no Protocol is part of another, word for word."""

from __future__ import annotations

import ast
import re
from itertools import permutations
from typing import Final

from tests.support.daemon import ROOT

TWO_THINGS: Final = {
    "SnapshotSink is part of LinkHandler": "a snapshot takes bytes of a stream, a handler has the link"
}
"""Alike in words, and why they are not one."""


def described(tree: ast.Module) -> dict[str, frozenset[str]]:
    """Protocol -> what it describes: fields and signatures, without docstrings. One that is built on another
    describes only what it adds.
    """
    return {
        each.name: frozenset(_signatures(each))
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
        and any(ast.unparse(base).startswith("Protocol") for base in each.bases)
    }


def _signatures(protocol: ast.ClassDef) -> list[str]:
    found = []
    for each in protocol.body:
        match each:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                result = ast.unparse(each.returns) if each.returns else ""
                kind = "property" if each.decorator_list else "method"
                found.append(f"{kind} {each.name}({ast.unparse(each.args)}) -> {result}")
            case ast.AnnAssign():
                found.append(ast.unparse(each))
    return found


def parts(protocols: dict[str, frozenset[str]]) -> list[str]:
    """Pairs of which the first is part of the second, or the same."""
    return [
        f"{one} is part of {other}"
        for one, other in permutations(protocols, 2)
        if protocols[one] and protocols[one] <= protocols[other]
    ]


def test_no_protocol_is_part_of_another() -> None:
    protocols = {
        f"{name} {path.relative_to(ROOT)}": told
        for path in sorted((ROOT / "netstore").rglob("*.py"))
        for name, told in described(ast.parse(path.read_text())).items()
    }
    assert len(protocols) > 30
    found = {re.sub(r" netstore/[\w/.]+", "", each): each for each in parts(protocols)}
    assert [each for each in found if each not in TWO_THINGS] == [], found
    assert set(TWO_THINGS) <= set(found), "an exception that is needed no more"


def test_the_test_sees_a_part() -> None:
    one = "class A(Protocol):\n    def f(self, x: int) -> None:\n        '''F.'''\n"
    other = one.replace("A", "B").replace("F.", "Another F.") + "    y: int\n"
    built = "class C(A, Protocol):\n    z: int\n"
    protocols = described(ast.parse(one + other + built))
    assert parts(protocols) == ["A is part of B"]
