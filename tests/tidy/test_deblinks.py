"""The pages of the Debian package lead to files that it has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEB = ROOT / "contrib" / "deb"
PLACE = "usr/share/doc/netstore"
TARGET = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def install(root: Path, pattern: str, place: str) -> None:
    to = root / place
    to.mkdir(parents=True, exist_ok=True)
    found = sorted(ROOT.glob(pattern))
    assert found, pattern
    for each in found:
        if each.is_dir():
            shutil.copytree(each, to / each.name)
        else:
            shutil.copy(each, to)


def installed(root: Path) -> Path:
    """The pages as dh_installdocs(1) and dh_install(1) install them."""
    for line in (DEB / "debian/netstore.docs").read_text().splitlines():
        install(root, line, PLACE)
    for line in (DEB / "debian/netstore.install").read_text().splitlines():
        pattern, place = line.split()
        if place.startswith(PLACE):
            install(root, pattern, place)
    (root / PLACE / "copyright").touch()
    (root / PLACE / "LICENSE").symlink_to("copyright")
    return root / PLACE


def mend(folder: Path) -> None:
    subprocess.run([sys.executable, DEB / "links.py", folder], check=True)


def dead(folder: Path) -> list[str]:
    """Targets of links that are not there."""
    return [
        target
        for page in sorted(folder.rglob("*.md"))
        for target in TARGET.findall(page.read_text())
        if ":" not in target and not (page.parent / target).exists()
    ]


def test_no_link_of_the_package_leads_nowhere(tmp_path: Path) -> None:
    folder = installed(tmp_path)
    assert dead(folder), "a checkout has more"
    mend(folder)
    assert dead(folder) == []
    readme = (folder / "README.md").read_text()
    for target in ("CHANGELOG.md", "LICENSE", "contrib/doc/install.md"):
        assert f"]({target})" in readme
    assert "](history.svg)" in (folder / "contrib/doc/benchmarks.md").read_text()


def test_only_links_that_lead_nowhere_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#x) [b c](gone.md) [d](https://x.example/) [e](#here) ![f](gone.svg)\n")
    mend(tmp_path)
    assert page.read_text() == "[a](there.md#x) b c [d](https://x.example/) [e](#here) f\n"


def test_the_package_is_built_with_it() -> None:
    rules = (DEB / "debian" / "rules").read_text()
    assert f"python3 contrib/deb/links.py $(ROOT)/{PLACE}" in rules
    assert f"ln -s copyright $(ROOT)/{PLACE}/LICENSE" in rules
