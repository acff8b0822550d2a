"""What contrib/doc/install.md installs by hand is all that there is to install, and leads where it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import ROOT, clean_environment
from tests.support.documents import block
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.peer("bash")
def test_units_pages_and_commands_are_installed(tmp_path: Path) -> None:
    subprocess.run(
        ("bash", "-eu", "-c", block("contrib/doc/install.md", "files")),
        cwd=ROOT,
        env={**clean_environment(), "DESTDIR": str(tmp_path)},
        check=True,
        timeout=seconds(60),
    )
    for page in (ROOT / "man").iterdir():
        section = page.suffix.removeprefix(".")
        assert (tmp_path / f"usr/local/share/man/man{section}/{page.name}").is_file()
    for unit in (ROOT / "contrib/systemd").glob("*.service"):
        text = (tmp_path / f"etc/systemd/system/{unit.name}").read_text()
        assert re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE) == [f"/opt/netstore/bin/{unit.stem}"]
        assert text.replace("/opt/netstore/bin/", "/usr/bin/") == unit.read_text()
    for program in ("netstored", "netstore-agent", "netstorectl"):
        link = tmp_path / "usr/local/bin" / program
        assert os.readlink(link) == f"/opt/netstore/bin/{program}"  # noqa: PTH115 - it leads nowhere here


def test_the_configuration_is_checked_with_what_the_unit_has() -> None:
    unit = (ROOT / "contrib/systemd/netstored.service").read_text().splitlines()
    page = (ROOT / "contrib/doc/install.md").read_text().replace("\\\n", " ")
    commands = [
        shlex.split(line.removesuffix("&&")) for line in page.splitlines() if "--check-config" in line
    ]
    assert len(commands) == 2
    for command in commands:
        assert command[:4] == ["systemd-run", "--quiet", "--pipe", "--wait"]
        assert command[-2:] == ["netstored", "--check-config"]
        assert set(command[4:-2:2]) == {"-p"}
        properties = command[5:-2:2]
        assert set(properties) <= set(unit)
        assert {each.partition("=")[0] for each in properties} == {
            "EnvironmentFile",
            "DynamicUser",
            "User",
            "StateDirectory",
            "StateDirectoryMode",
            "ConfigurationDirectory",
        }
