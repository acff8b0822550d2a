"""The systemd units: accepted by systemd, and as confined as they say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).parents[2]
UNITS = ("netstored.service", "netstore-agent.service")


def values(unit: str) -> dict[str, list[str]]:
    text = (ROOT / "contrib/systemd" / unit).read_text()
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def checked(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit as systemd can check it on a machine where nothing of the project is installed."""
    text = (ROOT / "contrib/systemd" / request.param).read_text()
    text = re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", text, flags=re.MULTILINE)
    copy = tmp_path / str(request.param)
    copy.write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    return copy


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


@pytest.mark.peer("systemd-analyze")
@pytest.mark.parametrize("checked", UNITS, indirect=True)
def test_systemd_accepts_the_unit(checked: Path) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(checked))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.peer("systemd-analyze")
@pytest.mark.parametrize(
    ("checked", "exposure"), [("netstored.service", 12), ("netstore-agent.service", 22)], indirect=["checked"]
)
def test_exposure_does_not_grow(checked: Path, exposure: int) -> None:
    """The score of systemd-analyze security, times ten: 0 is best, 100 worst."""
    done = analyze("security", "--offline=true", f"--threshold={exposure}", str(checked))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_each_starts_an_installed_program_and_waits_for_it(unit: str) -> None:
    scripts = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (start,) = values(unit)["ExecStart"]
    assert Path(start).name in scripts
    assert values(unit)["Type"] == ["notify"]
    assert values(unit)["RestartPreventExitStatus"] == ["2"]


def test_only_the_agent_may_touch_the_network() -> None:
    store, agent = map(values, UNITS)
    assert store["CapabilityBoundingSet"] == [""]
    assert agent["CapabilityBoundingSet"] == ["CAP_NET_ADMIN"]
    assert "AF_NETLINK" not in store["RestrictAddressFamilies"][0].split()
    assert "AF_NETLINK" in agent["RestrictAddressFamilies"][0].split()
