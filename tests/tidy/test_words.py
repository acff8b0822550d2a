"""Files speak of the project alone: no folder of one machine, no host of a package registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each pattern is broken up so that this file does not match itself.
FOREIGN = {
    "a path of one machine": r"(?<![\w.-])/(?:w)ork/|(?<![\w.-])/(?:h)ome/[a-z]|(?<![\w.-])/(?:r)oot/\w",
    "a package registry": (
        r"(?:p)ypi\.org|(?:p)ythonhosted\.org|(?:n)pmjs\.|(?:p)roxy\.golang|(?:c)rates\.io|(?:d)eb\.debian\.org"
        r"|--(?:i)ndex-url|--(?:e)xtra-index"
    ),
    "a number of a tracker": r"\b(?:i)ssue #?\d",
}


def names() -> list[str]:
    """Of all that git keeps of the project."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a clone")
    return [name for name in listed.stdout.split("\0") if name]


def tracked() -> list[Path]:
    """Every file of the project."""
    return [ROOT / name for name in names() if (ROOT / name).is_file()]


def found_in(text: str) -> list[str]:
    """What in a text belongs to somewhere else: line, what it is, the words."""
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {what}: {match.group()}"
        for what, pattern in FOREIGN.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def test_no_file_names_what_is_not_the_project() -> None:
    files = tracked()
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}:{each}"
        for path in files
        for each in found_in(path.read_bytes().decode("utf-8", "replace"))
    ]
    assert found == []


def test_no_symbolic_link_leads_out_of_the_project() -> None:
    """Such a link would be in every clone, whatever is there."""
    links = [ROOT / name for name in names() if (ROOT / name).is_symlink()]
    assert links, "contrib/editable has one"
    for link in links:
        assert not link.readlink().is_absolute(), link
        assert link.resolve(strict=True).is_relative_to(ROOT), link


@pytest.mark.parametrize(
    "text",
    [
        "cd /" + "work/main",
        "see https://p" + "ypi.org/x",
        "/" + "home/me",
        "in is" + "sue 12",
        "is" + "sue #7",
    ],
)
def test_the_test_sees_foreign_words(text: str) -> None:
    assert found_in(f"one\n{text}")[0].startswith("2: ")


@pytest.mark.parametrize(
    "text", ["/var/lib/work/x", "network/", "a reissue 2", "~/.local/share", "/homework"]
)
def test_words_of_the_project_pass(text: str) -> None:
    assert found_in(text) == []
