"""`make demo` does what it shows, and leaves nothing behind even when it is interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import seconds

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "ping", "ps"), pytest.mark.timeout(180)]

COMMAND = (sys.executable, "-m", "contrib.demo")


def namespaces_of(pid: int) -> list[str]:
    """Network namespaces that the demo with this process id made and did not take away."""
    listed = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split() if name.startswith(f"netstore-demo-{pid}-")]


def programs_of(pid: int) -> list[str]:
    """Command lines of the programs it started that still run; all have its folder in them."""
    listed = subprocess.run(("ps", "-eo", "args"), capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"netstore-demo-{pid}-" in line]


def test_demo() -> None:
    with subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        shown, _ = demo.communicate(timeout=seconds(120))
    assert demo.returncode == 0, shown
    assert len(re.findall(r"^pod[123] -> pod[123] 172\.30\.\d+\.2: answers$", shown, re.MULTILINE)) == 7
    routes = re.findall(
        r"^node([123]): (172\.30\.\d+\.0/24) via (192\.168\.77\.1[123]) ", shown, re.MULTILINE
    )
    assert len(routes) == 6, shown
    assert len({subnet for _, subnet, _ in routes}) == 3
    assert re.search(r"back within \d+ ms", shown), shown
    assert namespaces_of(demo.pid) == []
    assert programs_of(demo.pid) == []


@pytest.mark.parametrize("act", ["An agent on every node", "and points a route"])
def test_interrupted_demo_cleans_up(act: str) -> None:
    with subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if act in line:
                break
        assert len(namespaces_of(demo.pid)) == 7
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=seconds(60))
    assert demo.returncode == 128 + signal.SIGTERM
    assert namespaces_of(demo.pid) == []
    assert programs_of(demo.pid) == []
