"""The documentation site builds without a warning, and no link between its pages leads nowhere."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import seconds

for package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(package, reason="needs the docs extra: pip install -e .[docs]")

from contrib.site import adapted  # noqa: E402 - after the skip
from contrib.site.links import broken  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)


def sphinx(source: Path, settings: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As contrib/docs runs it."""
    words = ("--quiet", "--fail-on-warning", "--keep-going", "--fresh-env", "--builder", "html")
    return subprocess.run(
        (sys.executable, "-m", "sphinx", *words, "--conf-dir", settings, source, site),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(100),
    )


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = sphinx(ROOT, ROOT / "contrib" / "doc", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for page in ("index", "README", "contrib/doc/index", "contrib/doc/manual/netstored.8"):
        assert (tmp_path / f"{page}.html").is_file()
    client = (tmp_path / "contrib/doc/api/client.html").read_text()
    for name in ("v2.V2Client.watch", "v3.V3Client.txn", "grpc.Channel", "subnetstore.SubnetStore.replace"):
        assert f'id="netstore.client.{name}"' in client
    assert (
        'id="netstore.agent.backend.Backend.prepare"'
        in (tmp_path / "contrib/doc/api/plugins.html").read_text()
    )


def test_what_contributors_run_is_what_this_runs() -> None:
    script = (ROOT / "contrib" / "docs").read_text()
    for words in ("--quiet --fail-on-warning --keep-going", "--fresh-env --builder html"):
        assert words in script


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['contrib.site']\nhtml_theme = 'basic'\n")
    (source / "index.rst").write_text("T\n=\n\n.. raw:: html\n\n   <a href='#there'>x</a>\n")
    done = sphinx(source, source, site)
    assert done.returncode == 1
    assert "index.html: #there leads nowhere" in done.stderr
    (source / "index.rst").write_text("T\n=\n\n.. raw:: html\n\n   <a id='there' href='#there'>x</a>\n")
    assert sphinx(source, source, site).returncode == 0


def test_links_are_followed_to_files_and_places(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.html").write_text("<h1 id='one'>1</h1><img src='../c.png'>")
    good = ("folder/b.html", "folder/b.html#one", "#here", "https://elsewhere/x", "mailto:a@b")
    bad = ("folder/b.html#two", "d.html", "#there", "folder")
    links = "".join(f"<a href='{each}'>x</a>" for each in good + bad)
    (tmp_path / "a.html").write_text(f"<p id='here'>{links}")
    assert broken(tmp_path) == [
        *(f"a.html: {each} leads nowhere" for each in bad),
        "folder/b.html: ../c.png leads nowhere",
    ]


def test_manual_pages_are_made_to_fit() -> None:
    links = "".join(f'<a class="Xr" href="{name}.8.html">{name}(8)</a>' for name in ("netstored", "ip-route"))
    page = adapted(f'<h1 class="Sh">X</h1><h2 id="h">Y</h2>{links}')
    assert page.startswith('<h2 class="Sh">X</h2><h3 id="h">Y</h3>')
    assert '<a class="Xr" href="netstored.8.html">netstored(8)</a>ip-route(8)' in page
