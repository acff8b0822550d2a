"""Every dependency has its reasons written down."""

from __future__ import annotations

import re

import tomli

from tests.support.daemon import ROOT


def test_every_dependency_is_explained() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    declared = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(name for extra in project["project"]["optional-dependencies"].values() for name in extra),
    ]
    page = (ROOT / "contrib" / "doc" / "dependencies.md").read_text()
    rows = re.findall(r"^\| ([a-z][a-z0-9-]+) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted({re.split(r"[<>=!~ ]", name)[0] for name in declared})
