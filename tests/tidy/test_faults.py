"""A fault is known by its `Reason` or its v2 code: nothing compares its text, or gives it one of its own."""

from __future__ import annotations

import ast
from typing import Final

from tests.support.daemon import ROOT

OWN_TEXT: Final = {
    ("netstore/api/v2/keys.py", "Fault(300, b'the command has no outcome to tell')"): "cannot happen",
}
"""Faults with code 300 that are made outside `netstore.errors`, and why."""


def by_text(source: str) -> list[str]:
    """Comparisons with the text of a fault, and faults of code 300 that have no reason."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left, comparators=others) if any(_is_text(each) for each in (left, *others)):
                found.append(ast.unparse(node))
            case ast.Call(ast.Name("Fault"), [ast.Constant(300), *_]):
                found.append(ast.unparse(node))
    return found


def _is_text(node: ast.expr) -> bool:
    """`fault.cause`, also decoded."""
    match node:
        case ast.Attribute(_, "cause"):
            return True
        case ast.Call(ast.Attribute(ast.Attribute(_, "cause"), "decode")):
            return True
    return False


def test_faults_are_known_by_their_reason() -> None:
    found = {
        (str(path.relative_to(ROOT)), text)
        for room in ("api", "net", "node", "state", "watch")
        for path in sorted((ROOT / "netstore" / room).rglob("*.py"))
        for text in by_text(path.read_text())
    }
    assert found == set(OWN_TEXT)


def test_the_test_sees_a_text() -> None:
    assert by_text("if fault.cause == X: pass") == ["fault.cause == X"]
    assert by_text("a = 'x' != fault.cause.decode()") == ["'x' != fault.cause.decode()"]
    assert by_text("f(Fault(300, why.encode()))") == ["Fault(300, why.encode())"]
    assert by_text("if fault.reason is X and len(fault.cause) > 3: Fault(100, path)") == []
