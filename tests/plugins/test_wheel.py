"""A third party's backend in a wheel of its own: the example of contrib/doc/plugins.md, built, installed and
found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import ROOT, clean_environment
from tests.support.documents import block
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

FIND = """
from netstore.agent.backend import find
from netstore.network.config import parse_network
backend = find(parse_network(b'{"Network":"10.23.0.0/16","Backend":{"Type":"Example","Port":4789}}'))
print(backend.manifest.name, backend.manifest.version, backend.options.port, type(backend).__module__)
"""


def python(folder: Path, code: str, *path: Path) -> str:
    """What a Python prints that has these folders before the checkout."""
    folders = [*map(str, path), str(ROOT), str(ROOT / "contrib" / "editable")]
    done = subprocess.run(
        (sys.executable, "-c", code),
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel, built by its build backend (PEP 517) as a front end without isolation would."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(block("contrib/doc/plugins.md", "package"))
    (source / "example_package.py").write_text(block("contrib/doc/plugins.md", "backend"))
    build = "import hatchling.build; print(hatchling.build.build_wheel('..'))"
    return tmp_path / python(source, build).split()[-1]


def test_the_backend_of_a_wheel_is_found_once_the_wheel_is_installed(tmp_path: Path, wheel: Path) -> None:
    assert wheel.name == "netstore_example-1.0-py3-none-any.whl"
    installed = tmp_path / "installed"
    installed.mkdir()
    missing = "try:\n" + "".join(f"    {line}\n" for line in FIND.strip().splitlines())
    missing += "except Exception as error:\n    print(error)\n"
    assert "no backend 'example' on this node" in python(tmp_path, missing, installed)
    with zipfile.ZipFile(wheel) as archive:  # a wheel of pure Python is installed by unpacking it (PEP 427)
        archive.extractall(installed)
    assert python(tmp_path, FIND, installed) == "example 1.0 4789 example_package\n"


def test_the_example_fits_the_page() -> None:
    assert len(block("contrib/doc/plugins.md", "backend").splitlines()) <= 60
