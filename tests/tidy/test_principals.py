"""What clients have written, or ask about the members, says for whom: nothing of it counts as the member's
own (`node.member.OWN`), which has no share and waits for nobody.
"""

from __future__ import annotations

import ast
from typing import Final

from tests.support.daemon import ROOT

ASKS: Final = {"propose": 2, "add": 9, "remove": 2, "promote": 2, "update": 3}
"""What asks for a principal, and its place among the arguments that have no name."""

DOORS: Final = ("self._member", "member", "self._cluster", "self._members", "self.renewing")
"""What a member is called in `api`, and what changes its members."""

OWN: Final = {
    ("netstore/api/health.py", "Health.__init__"): "one read for all that ask",
}
"""Where the member asks for itself, and why."""


def principals(source: str) -> list[tuple[str, str]]:
    """Function and principal of each call that asks for one; empty where none is given."""
    found: list[tuple[str, str]] = []

    def look(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{name}.{node.name}".strip(".")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            place = ASKS.get(node.func.attr)
            if place is not None and ast.unparse(node.func.value) in DOORS:
                named = [each.value for each in node.keywords if each.arg == "principal"]
                given = [*named, *node.args[place:]]
                found.append((name, ast.unparse(given[-1]) if given else ""))
        for child in ast.iter_child_nodes(node):
            look(child, name)

    look(ast.parse(source), "")
    return found


def test_whatever_a_client_has_proposed_says_for_whom() -> None:
    own = set()
    asked = 0
    for path in sorted((ROOT / "netstore" / "api").rglob("*.py")):
        for name, principal in principals(path.read_text()):
            place = str(path.relative_to(ROOT)), name
            asked += 1
            if principal == "OWN":
                own.add(place)
            else:
                assert "principal" in principal, place
    assert own == set(OWN)
    assert asked > 15


def test_a_call_that_says_nobody_is_found() -> None:
    source = "class A:\n def b(self):\n  self._member.propose(1, 2)\n  self._cluster.update(1, 2, 3, OWN)"
    assert principals(source) == [("A.b", ""), ("A.b", "OWN")]
