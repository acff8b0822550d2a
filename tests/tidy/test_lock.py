"""contrib/lock.txt is what contrib/venv installs: for each Python one release, with hashes, of every
requirement of pyproject.toml, within its range.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import tomli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.daemon import ROOT
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = (ROOT / "contrib" / "lock.txt").read_text()
PYTHONS: Final = ("3.11.2", "3.11.9", "3.12.9", "3.13.9", "3.14.0")
"""Debian 12's among them."""


def entries(text: str) -> list[str]:
    """Every requirement of a file with its options, on one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def locked(text: str, python: str) -> dict[str, str]:
    """Package -> the version that a Python of this version gets."""
    release = ".".join(python.split(".")[:2])
    machine = {
        "python_full_version": python,
        "python_version": release,
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for each in entries(text):
        requirement = Requirement(each.partition(" --hash")[0])
        [pin] = requirement.specifier
        assert pin.operator == "==", each
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert found.setdefault(canonicalize_name(requirement.name), pin.version) == pin.version, each
    return found


def outside(project: str, lock: str, python: str) -> list[str]:
    """Requirements of a pyproject.toml that its lock file does not meet."""
    table = tomli.loads(project)
    wanted = [
        *table["build-system"]["requires"],
        *table["project"]["dependencies"],
        *(each for extra in table["project"]["optional-dependencies"].values() for each in extra),
    ]
    pins = locked(lock, python)
    found = []
    for each in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(each.name))
        if pin is None or pin not in each.specifier:
            found.append(f"{each}: {pin}")
    return found


def test_every_requirement_is_locked_within_its_range() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for python in PYTHONS:
        assert outside(project, LOCK, python) == [], f"run `make lock` (Python {python})"


def test_every_locked_release_has_hashes_and_no_address() -> None:
    assert len(entries(LOCK)) > 50
    assert [each for each in entries(LOCK) if "--hash=sha256:" not in each] == []
    assert re.findall(r"://|^-", LOCK, re.MULTILINE) == []


def test_the_environment_is_made_from_it() -> None:
    assert "--require-hashes --requirement contrib/lock.txt" in (ROOT / "contrib" / "venv").read_text()
    assert "--requirement contrib/lock.txt" in (ROOT / "contrib" / "matrix").read_text()


def test_it_is_seen_when_a_range_leaves_the_lock() -> None:
    project = """
        [build-system]
        requires = ["a>=1"]
        [project]
        dependencies = ["B_b>=2,<3", "c==1.*"]
        [project.optional-dependencies]
        d = ["d"]
    """
    lock = "a==1.5 --hash=x\nb-b==2.0 ; python_full_version < '3.12' --hash=x\n"
    lock += "b-b==3.0 ; python_full_version >= '3.12' \\\n --hash=x\nc==1.9 --hash=x\nd==1 --hash=x\n"
    assert outside(project, lock, "3.11.2") == []
    assert outside(project, lock, "3.12.1") == ["B_b<3,>=2: 3.0"]
    assert outside(project, lock.replace("d==1", "e==1"), "3.11.2") == ["d: None"]


def test_a_new_lock_says_what_it_lacks(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [tmp_path / "bash", "contrib/lock"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(20),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "contrib/lock needs uv" in done.stderr
