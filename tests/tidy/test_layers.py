"""The rooms import what their layer allows: the import contracts of pyproject.toml, run as a test.

And no modules import each other in a circle, but for annotations: import-linter can leave those out only for
all contracts together.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "netstore").rglob("*.py")
}


def test_import_contracts_are_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def imported(node: ast.AST, modules: Container[str]) -> Iterator[str]:
    """What is imported at run time, also within functions: of `modules`, and others."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module:
            for each in child.names:
                name = f"{child.module}.{each.name}"
                yield name if name in modules else child.module
        elif isinstance(child, ast.Import):
            yield from (each.name for each in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imported(child, modules)


def in_order(texts: dict[str, str]) -> None:
    """CycleError if some modules import each other. `from package import module` imports the module only."""
    graph = {name: set(imported(ast.parse(text), texts)) - {name} for name, text in texts.items()}
    TopologicalSorter(graph).prepare()


def test_no_modules_import_each_other_at_run_time() -> None:
    in_order({name: path.read_text() for name, path in MODULES.items()})


def test_a_circle_is_found_unless_it_is_for_annotations() -> None:
    texts = {"a": "def f():\n    from b import x", "b": "import c", "c": "if TYPE_CHECKING:\n    import a"}
    in_order(texts)
    with pytest.raises(CycleError):
        in_order(texts | {"c": "import a"})
