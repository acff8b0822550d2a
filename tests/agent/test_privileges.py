"""Whether this process may change the network."""

from __future__ import annotations

import subprocess
import sys

import pytest

CALL = "from netstore.agent import privileges\nprivileges.require()\nprint('may')"


def ask(*before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-c", CALL], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


pytestmark = [pytest.mark.root, pytest.mark.peer("setpriv")]


def test_root_may() -> None:
    assert ask() == "may"


def test_root_without_the_capability_may_not() -> None:
    told = ask("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    assert "CAP_NET_ADMIN" in told


def test_in_a_user_namespace_it_depends_on_whose_the_network_is() -> None:
    assert "CAP_NET_ADMIN" in ask("unshare", "--user", "--map-root-user")
    assert ask("unshare", "--user", "--map-root-user", "--net") == "may"
