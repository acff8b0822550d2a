"""A network that is copied from v2 to v3 as the document says has its leases there, for a day."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import start_netstored
from tests.support.documents import block
from tests.support.patience import seconds
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "/kube-centos/network"
CONFIG = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
LEASE = '{"PublicIP":"10.0.0.%d","BackendType":"host-gw"}'
DAY = 86_400


@pytest.mark.peer("etcdctl", "bash")
def test_a_network_is_copied_from_v2_to_v3(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as store:

        def run(script: str, **variables: str) -> None:
            subprocess.run(
                ("bash", "-euc", script), env={**os.environ, **variables}, check=True, timeout=seconds(60)
            )

        write = f'etcdctl --endpoints {store.url} set "$KEY" "$VALUE"'
        run(write, ETCDCTL_API="2", KEY=f"{PREFIX}/config", VALUE=CONFIG)
        for number in (1, 2):
            key = f"{PREFIX}/subnets/172.30.{number}.0-24"
            run(f"{write} --ttl 5000", ETCDCTL_API="2", KEY=key, VALUE=LEASE % number)
        script = block("contrib/doc/network-api.md", "copy")
        assert "URL=http://127.0.0.1:2379" in script
        run(script.replace("URL=http://127.0.0.1:2379", f"URL={store.url}"))
        client = V3Client(store.url)
        start = PREFIX.encode()
        found = client.kv.Range(pb.RangeRequest(key=start, range_end=start + b"\xff")).kvs
        assert {each.key.decode(): each.value.decode() for each in found} == {
            f"{PREFIX}/config": CONFIG,
            f"{PREFIX}/subnets/172.30.1.0-24": LEASE % 1,
            f"{PREFIX}/subnets/172.30.2.0-24": LEASE % 2,
        }
        config, one, two = found
        assert config.lease == 0
        assert one.lease == two.lease != 0
        left = client.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=one.lease))
        assert left.grantedTTL == DAY
        client.close()
