"""Network configs are checked when they are written: by real clients of both APIs, at any member."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import Members, get, put, request, write
from tests.support.daemon import start_netstored
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from pathlib import Path

KEY = "coreos.com/network/config"
GOOD = '{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":7}}'
BAD = '{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":"7"}}'
UDP = '{"Network":"10.1.0.0/16"}'
REFUSAL = "network config: Backend.VNI: must be a whole number, not text; correct it"


def run(*words: str, api: str = "2") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env={**os.environ, "ETCDCTL_API": api},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )


@pytest.mark.peer("etcdctl", "curl")
def test_real_clients_are_told_what_is_wrong(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as store:
        url = f"{store.url}/v2/keys/{KEY}"
        sent = run("curl", "-sS", "-XPUT", url, "--data-urlencode", f"value={BAD}")
        assert '"errorCode":209' in sent.stdout
        assert REFUSAL in sent.stdout
        for verb in ("set", "mk"):
            told = run("etcdctl", "--endpoints", store.url, verb, f"/{KEY}", BAD)
            assert (told.returncode != 0, REFUSAL in told.stderr) == (True, True), told.stderr
        told = run("etcdctl", "--endpoints", store.url, "put", f"/{KEY}", BAD, api="3")
        assert (told.returncode != 0, REFUSAL in told.stderr) == (True, True), told.stderr
        transaction = subprocess.run(
            ("etcdctl", "--endpoints", store.url, "txn"),
            input=f'version("/{KEY}") = "0"\n\nput "/{KEY}" {json.dumps(BAD)}\n\n\n',
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds(60),
        )
        assert (transaction.returncode != 0, REFUSAL in transaction.stderr) == (True, True), transaction

        assert run("etcdctl", "--endpoints", store.url, "set", f"/{KEY}", GOOD).returncode == 0
        assert run("etcdctl", "--endpoints", store.url, "put", f"/{KEY}", UDP, api="3").returncode == 0
        until(lambda: "network_config_warning" in store.log, "the warning is logged")
        assert get(store, KEY) == GOOD


@pytest.mark.peer("etcdctl")
def test_a_store_that_does_not_validate_writes_what_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "netstore.toml"
    file.write_text("[network]\nvalidate = false\n")
    with start_netstored(tmp_path, "--config-file", str(file)) as store:
        assert put(store, KEY, BAD).status == 201
        assert run("etcdctl", "--endpoints", store.url, "put", f"/{KEY}", BAD, api="3").returncode == 0


def test_other_prefixes_can_be_named(tmp_path: Path) -> None:
    with start_netstored(tmp_path, "--network-prefixes", "/mine/net") as store:
        assert put(store, "mine/net/config", BAD).status == 400
        assert put(store, KEY, BAD).status == 201


def test_every_member_checks(tmp_path: Path) -> None:
    with Members(tmp_path) as members:
        write(members["a"], "before", "1")
        for name in "abc":
            answer = put(members[name], KEY, BAD)
            assert (answer.status, answer.body["errorCode"]) == (400, 209)
        write(members[members.followers()[0]], KEY, GOOD)
        removed = request(members["a"], "DELETE", f"/v2/keys/{KEY}")
        assert removed.status == 200, "a deletion is no write of a config"
