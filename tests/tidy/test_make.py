"""`make` says what each target does and how long it takes, and so does CONTRIBUTING.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

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


def test_the_matrix_says_what_it_lacks(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [tmp_path / "bash", "contrib/matrix"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "contrib/matrix needs uv" in done.stderr
