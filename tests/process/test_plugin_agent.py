"""A real agent installs an admitted plugin from a real store, runs it, and reports it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import exchange, get
from tests.support.daemon import start_netstored
from tests.support.netns import Keys, RunningAgent, Wire
from tests.support.patience import until
from tests.support.wheels import wheel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]

CODE = b"""
import msgspec
from netstore_plugins.hostgw import HostGateway

class Options(msgspec.Struct, frozen=True, rename="pascal"):
    color: str

class Mine(HostGateway):
    manifest = msgspec.structs.replace(
        HostGateway.manifest, name="my-net", version="1.2", options=Options
    )

    def __init__(self, options):
        print("plugin_options", options.color, flush=True)
        super().__init__(options)
"""
CONFIG = '{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"my-net"}}'


def send(store: Daemon, path: str, body: str | bytes, kind: str = "application/octet-stream") -> None:
    def taken() -> bool:
        answer = exchange(store, "PUT", f"/netstore/plugins/my-net{path}", body, {"Content-Type": kind})
        assert answer.status == 200 or b"feature level" in answer.raw, answer.raw
        return answer.status == 200

    until(taken, "the store takes it")  # a new cluster needs a moment to raise its feature level


def admit(store: Daemon, data: bytes, settings: dict[str, object]) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    kept = {"file": "mine-1.2-py3-none-any.whl", "sha256": sha256, "size": len(data)}
    schema = {"properties": {"Color": {"type": "string"}}, "required": ["Color"]}
    document = {"versions": ">=1,<2", "schema": schema, "settings": settings, "wheel": kept}
    send(store, "", json.dumps(document), "application/json")
    return sha256


def test_an_agent_installs_what_the_cluster_admits(tmp_path: Path) -> None:
    data = wheel(files={"mine/mine.py": CODE}, backends="my-net = mine.mine:Mine\n")
    with (
        Wire(nodes=1) as wire,
        start_netstored(
            tmp_path, "--allow-insecure-http", host=wire.store_address, port=2379, netns=wire.switch
        ) as store,
    ):
        keys = Keys(wire.switch, store.url)
        sha256 = admit(store, data, {"color": "blue"})
        keys.set_config(CONFIG)
        folder = tmp_path / "installed"
        flags = ("--endpoints", store.url, "--plugins-folder", str(folder))
        agent = RunningAgent(wire.members[0], tmp_path, flags).start()
        try:
            agent.told("waiting", reason="no backend 'my-net' on this node")
            assert not folder.exists(), "it may not install anything"
            agent.stop()
            agent = RunningAgent(wire.members[0], tmp_path, (*flags, "--plugins-install")).start()
            agent.told("waiting", reason="0 of")
            send(store, f"/wheel/{sha256}/0", data)
            agent.subnet()
            assert "plugin_options blue" in agent.log
            assert [path.name for path in folder.iterdir()] == [f"my-net-{sha256}"]
            key = f"coreos.com/network/plugins/{wire.members[0].address}"
            report = json.loads(until(lambda: get(store, key) or "", "the agent reports"))
            assert report["running"] == "my-net"
            assert {"name": "my-net", "version": "1.2", "wheel": sha256} in report["installed"]
        finally:
            agent.end()
