"""The Debian package: built, examined, installed on a copy of this machine, used, and removed."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.daemon import ROOT, clean_environment
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(1800),
    pytest.mark.peer("dpkg-buildpackage", "dh", "lintian"),
]


FAST: Final = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
"""How dpkg-deb(1) is to write the package: the default makes it a third smaller in a quarter of a minute."""


def run(*words: str | Path) -> str:
    """Run a program that must succeed; its output."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=ROOT,
        env={**clean_environment(), **FAST},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(900),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    """The package that `make deb` builds."""
    built = run(ROOT / "contrib/deb/build").split()[-1]
    return ROOT / built


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A copy of this machine's files, to be written to: an overlay in memory."""
    space = tmp_path / "space"
    space.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", space)
    try:
        for name in ("upper", "work", "root"):
            (space / name).mkdir()
        options = f"lowerdir=/,upperdir={space}/upper,workdir={space}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, space / "root")
        try:
            for name in ("dev", "proc"):
                run("mount", "--rbind", f"/{name}", space / "root" / name)
                run("mount", "--make-rslave", space / "root" / name)
            yield space / "root"
        finally:
            run("umount", "--recursive", space / "root")
    finally:
        run("umount", space)


def test_lintian_has_nothing_to_say(package: Path) -> None:
    said = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", str(package)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(600),
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert not [line for line in said.stdout.splitlines() if line[:2] in ("E:", "W:")]


def test_it_is_installed_used_and_removed(package: Path, machine: Path) -> None:
    inside = (
        "chroot",
        machine,
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND=noninteractive",
    )
    copy = machine / "netstore.deb"
    copy.write_bytes(package.read_bytes())
    run(*inside, "dpkg", "--install", "--force-depends-version", "/netstore.deb")
    for program in ("netstored", "netstore-agent", "netstorectl"):
        told = json.loads(run(*inside, program, "--version", "--json"))
        assert told["program"] == program
    assert "netstore:x:" in run(*inside, "getent", "passwd", "netstore")
    assert "[store]" in run(*inside, "netstored", "--check-config")
    for path in (
        "usr/share/man/man8/netstored.8.gz",
        "usr/share/bash-completion/completions/netstorectl",
        "lib/systemd/system/netstored.service",
        "lib/systemd/system/netstore-agent.service",
    ):
        assert (machine / path).is_file(), path
    assert not list((machine / "etc/systemd/system").rglob("netstore*")), "nothing is enabled"
    compiled = machine / "usr/lib/netstore/lib"
    assert next(compiled.rglob("*.pyc"), None) is not None
    run(*inside, "dpkg", "--purge", "netstore")
    assert not (machine / "usr/lib/netstore").exists()
    assert not os.path.lexists(machine / "usr/bin/netstored")
