"""The flags of a real etcd are known, each as a setting or as one that has none."""

from __future__ import annotations

import re
import subprocess

import pytest

from netstore.ops.etcd_flags import ETCD_ONLY
from netstore.ops.store import STORE


@pytest.mark.peer("etcd")
def test_every_flag_of_etcd_is_known() -> None:
    usage = subprocess.run(["etcd", "--help"], capture_output=True, text=True, check=True)
    theirs = set(re.findall(r"^  --([a-z0-9-]+)", usage.stdout + usage.stderr, re.MULTILINE))
    ours = {flag for each in STORE.settings() for flag in each.flags} | set(ETCD_ONLY)
    assert theirs - {"version", "config-file"} <= ours
    assert len(theirs) > 50
