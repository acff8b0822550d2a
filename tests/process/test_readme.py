"""README's two commands do what it says, in a clean clone with nothing but python3, pip and git."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import IN_CI
from tests.support.daemon import ROOT, clean_environment, is_healthy
from tests.support.patience import seconds, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

URL: Final = "http://127.0.0.1:2379"
START_SECONDS: Final = 300.0
"""Includes fetching and installing every package."""

QUICK: Final = {"PIP_NO_COMPILE": "1"}
"""Modules that nobody imports are not compiled: a third of the time of pip."""


def command(name: str) -> str:
    """The one line that README gives under `<!-- command: name -->`."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.*?)\n```$", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"README.md has {len(blocks)} commands named {name}"
    line = blocks[0]
    assert isinstance(line, str)
    assert "\n" not in line
    return line


def fresh_environment(place: Path) -> dict[str, str]:
    """As a shell that has never heard of this project: not its virtual environment, nor its test run."""
    own = Path(sys.prefix) / "bin"
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != own)
    foreign = ("PYTEST_", "PYTHON", "VIRTUAL_ENV", "COVERAGE", "HYPOTHESIS")
    kept = {name: value for name, value in clean_environment().items() if not name.startswith(foreign)}
    return {**kept, "PATH": path, "STATE_DIRECTORY": str(place / "state"), **QUICK}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    place = tmp_path_factory.mktemp("readme") / "netstore"
    subprocess.run(("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(place)), check=True)
    return place


def test_start_command_installs_and_starts_a_store(clone: Path, tmp_path: Path) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if trial.connect_ex(("127.0.0.1", 2379)) == 0:
            assert not IN_CI, "port 2379 is taken"
            pytest.skip("port 2379 is taken, and README's command uses it")
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ("bash", "-c", command("start")),
            cwd=clone,
            env=fresh_environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:

        def serves() -> bool:
            assert shell.poll() is None, log.read_text()
            return is_healthy(URL)

        until(serves, "README's command starts a store", START_SECONDS)
        control = clone / ".venv" / "bin" / "netstorectl"
        for words in (("set", "/greeting", "hello"), ("get", "/greeting")):
            outcome = subprocess.run(
                (control, "key", *words), env=clean_environment(), capture_output=True, text=True, check=True
            )
            assert "hello" in outcome.stdout
        assert str(tmp_path / "state") in log.read_text(), "the store does not say where it keeps its data"
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(seconds(30))
    assert "Traceback" not in log.read_text()


def test_test_command_runs_the_suite(clone: Path, tmp_path: Path) -> None:
    """With a narrow selection: the whole of it would run this test again. And with the packages of this
    environment: CI installs them into a clean clone whenever it runs the command.
    """
    own = Path(sys.prefix)
    if not (own / ".ready").exists():
        pytest.skip("this environment was not made by contrib/venv")
    shutil.rmtree(clone / ".venv", ignore_errors=True)
    (clone / ".venv").symlink_to(own)
    for name in ("pyproject.toml", "contrib/lock.txt"):
        os.utime(clone / name, (0, 0))  # as if they were installed
    outcome = subprocess.run(
        ("bash", "-c", f"{command('test')} tests/process/test_badinput.py -k port"),
        cwd=clone,
        env=fresh_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds(START_SECONDS),
        check=False,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout
    assert re.search(r"^(=+ )?\d+ passed", outcome.stdout, re.MULTILINE), outcome.stdout


def test_ci_runs_the_test_command_of_readme(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text(
        "<!-- command: start -->\n```sh\nexit 1\n```\n<!-- command: test -->\n```sh\necho ran; exit 3\n```\n"
    )
    outcome = subprocess.run(
        ("bash", tmp_path / ".ci" / "run"), capture_output=True, text=True, check=False, timeout=seconds(60)
    )
    assert (outcome.returncode, outcome.stdout.splitlines()[-1]) == (3, "ran")
