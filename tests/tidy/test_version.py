"""There is one version number: every place that tells it tells the same."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import pytest
import tomli

from netstore import __version__
from netstore.agent.agentmetrics import Facts, render
from tests.support.daemon import ROOT
from tests.support.metered import Metered, values

PROGRAMS = ("netstored", "agent", "netstorectl")
OTHER = re.compile(r"\bnetstore(?:d|ctl|-agent)?[ /-]v?(\d+\.\d+\.\d+)")
"""A version of netstore that is told in words."""


def test_the_package_has_it() -> None:
    assert tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert importlib.metadata.version("netstore") == __version__


@pytest.mark.parametrize("module", PROGRAMS)
def test_the_programs_tell_it(module: str) -> None:
    done = subprocess.run(
        (sys.executable, "-m", f"netstore.cli.{module}", "--version"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == __version__


def test_the_metrics_tell_it() -> None:
    info = [name for name in values(render(Facts([], 0))) if name.startswith("netstore_agent_info")]
    info += [name for name in Metered().values() if name.startswith("netstore_info")]
    assert len(info) == 2
    assert all(f"version={__version__}" in name for name in info)


def test_documents_and_manual_pages_tell_no_other() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "man").iterdir(), *(ROOT / "contrib" / "doc").rglob("*.md")]
    told = {
        (page.name, version)
        for page in pages
        if page.name != "CHANGELOG.md"
        for version in OTHER.findall(page.read_text())
    }
    assert {(name, version) for name, version in told if version != __version__} == set()
