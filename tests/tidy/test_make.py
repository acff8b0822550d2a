"""`make` says what each target does and how long it takes, and so does CONTRIBUTING.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

MAKEFILE: Final = (ROOT / "Makefile").read_text()


def test_every_target_is_described() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    targets = re.findall(r"^(\w+): ;", MAKEFILE, re.MULTILINE)
    assert phony.split() == targets
    described = re.findall(r"^#= make (\w+) +.*; .*(?:minute|hour)", MAKEFILE, re.MULTILINE)
    assert ["help", *described] == targets
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert [each for each in described if f"make {each}" not in page] == []


def test_every_target_says_how_long_it_takes_before_it_begins() -> None:
    recipes = dict(re.findall(r"^(\w+): ; (.*)$", MAKEFILE, re.MULTILINE))
    assert [each for each, recipe in recipes.items() if not recipe.startswith("@$(SAY) && ")] == ["help"]


@pytest.mark.parametrize("script", ["matrix", "lock"])
def test_what_needs_uv_says_how_to_get_it(script: str, tmp_path: Path) -> None:
    """Into an environment of its own: Debian's pip refuses to install into the system's Python (PEP 668)."""
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [tmp_path / "bash", f"contrib/{script}"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"contrib/{script} needs uv" in done.stderr
    assert "python3 -m pip --python build/uv/bin/python install uv" in done.stderr
    assert f'PATH="$PWD/build/uv/bin:$PATH" make {script}' in done.stderr


@pytest.mark.peer("make")
def test_changes_says_that_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "contrib" / "changes").mkdir(parents=True)
    (tmp_path / "contrib" / "changes" / "README.md").touch()
    (tmp_path / "contrib" / "venv").touch()
    shutil.copy(ROOT / "Makefile", tmp_path)

    def told(*words: str) -> str:
        done = subprocess.run(
            ("make", "changes", "PYTHON=echo towncrier:", *words),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds(60),
        )
        return done.stdout.splitlines()[-1]

    assert told() == "no change since the last release: contrib/changes has no file of one"
    assert told("VERSION=1.2.0") == "towncrier: -m towncrier build --yes --version 1.2.0"
    (tmp_path / "contrib" / "changes" / "full-disk.store.md").touch()
    assert told() == "towncrier: -m towncrier build --draft --version Unreleased"
