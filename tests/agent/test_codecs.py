"""pyroute2's message classes without the rest of it."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_agent_does_not_load_the_package() -> None:
    code = "import sys, netstore.agent.netlink; print([name for name in sys.modules if 'iproute' in name])"
    assert run(code) == "[]"


def test_another_user_of_it_gets_all_of_it() -> None:
    for then in ("import pyroute2", "from pyroute2.netlink.generic import wireguard; import pyroute2"):
        assert run(f"import netstore.agent.rtnetlink; {then}; print(pyroute2.IPRoute.__name__)") == "IPRoute"
    assert run("import pyroute2, netstore.agent.wgnetlink; print(pyroute2.IPRoute.__name__)") == "IPRoute"
