"""Every file in contrib/changes has the form from which `make changes` makes the text of a release."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
import tomli

from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER: Final = ROOT / "contrib" / "changes"
OURS: Final = ("README.md", "template.jinja")
SETTINGS: Final = tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
KINDS: Final = [each["directory"] for each in SETTINGS["type"]]
NAME: Final = re.compile(rf"[a-z0-9]+(-[a-z0-9]+)*\.({'|'.join(KINDS)})(\.\d+)?\.md")


def wrong(name: str, text: str) -> str:
    """What is wrong with a file of this name and text; empty if nothing is."""
    if not NAME.fullmatch(name):
        return f"{name}: call it name-in-words.KIND.md; KIND is one of {', '.join(KINDS)}"
    lines = text.splitlines()
    if not 1 <= len(lines) <= 5 or not text.endswith(".\n") or any(len(line) > 140 for line in lines):
        return f"{name}: write one to five lines of at most 140 characters, which end in a full stop"
    if lines[0].startswith(("-", "*", "#", " ")) or "" in lines:
        return f"{name}: no list mark, heading or empty line; the template makes them"
    return ""


def test_every_change_has_the_form() -> None:
    files = [path for path in sorted(FOLDER.iterdir()) if path.name not in OURS]
    assert [each for path in files if (each := wrong(path.name, path.read_text()))] == []


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("full-disk.store.md", "Is so.\nAnd so.\n", ""),
        ("full-disk.store.2.md", "Is so.\n", ""),
        ("full_disk.store.md", "Is so.\n", "call it"),
        ("full-disk.kernel.md", "Is so.\n", "call it"),
        ("full-disk.md", "Is so.\n", "call it"),
        ("x.agent.md", "", "one to five lines"),
        ("x.agent.md", "Is so", "one to five lines"),
        ("x.agent.md", "Is so.\n" * 6, "one to five lines"),
        ("x.command.md", "- Is so.\n", "no list mark"),
        ("x.command.md", "Is so.\n\nAnd so.\n", "no list mark"),
    ],
)
def test_what_has_another_form_is_seen(name: str, text: str, what: str) -> None:
    assert what in wrong(name, text)
    assert bool(what) == bool(wrong(name, text))


def test_the_log_has_releases_only() -> None:
    assert "## Unreleased" not in (ROOT / "CHANGELOG.md").read_text(), "what is new is in contrib/changes"


def test_a_release_takes_the_changes_into_the_log(tmp_path: Path) -> None:
    pytest.importorskip("towncrier", reason="needs the dev extra: pip install -e .[dev]")
    folder = tmp_path / "contrib" / "changes"
    folder.mkdir(parents=True)
    for path in (ROOT / "pyproject.toml", ROOT / "CHANGELOG.md", *(FOLDER / each for each in OURS)):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    (folder / "full-disk.store.md").write_text("A full disk\nheals.\n")
    (folder / "full-disk.store.2.md").write_text("It says so.\n")
    (folder / "routes.agent.md").write_text("Routes stay.\n")
    words = ("build", "--yes", "--version", "1.2.0", "--date", "2031-02-03")
    subprocess.run((sys.executable, "-m", "towncrier", *words), cwd=tmp_path, check=True, capture_output=True)
    before = (ROOT / "CHANGELOG.md").read_text()
    mark = "<!-- towncrier release notes start -->\n"
    head, rest = before.split(mark)
    release = (
        "\n## 1.2.0 (2031-02-03)\n\n### The store\n\n- A full disk\n  heals.\n- It says so.\n"
        "\n### The agent\n\n- Routes stay.\n\n"
    )
    assert (tmp_path / "CHANGELOG.md").read_text() == head + mark + release + rest.lstrip()
    assert sorted(path.name for path in folder.iterdir()) == sorted(OURS)
