"""The backend alloc: a lease and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from netstore_plugins.alloc import Alloc

from netstore.agent.backend import Prepared, Refused, Wanted
from netstore.network.lease import encode_lease
from tests.plugins.hosts import ETH0, ME, host, lease


@pytest.mark.trio
async def test_it_wants_nothing_and_publishes_no_type() -> None:
    backend = Alloc(None)
    prepared = await backend.prepare(host(Path()))
    assert prepared == Prepared(mtu=1500)
    assert await backend.declare(host(Path()), [lease(2, "vxlan"), lease(3, "")]) == Wanted()
    assert backend.declare_peer(host(Path()), lease(2, "vxlan")) == Wanted()
    assert Alloc.manifest.lease_type is not None
    assert (
        encode_lease(ME, Alloc.manifest.lease_type, prepared.backend_data) == '{"PublicIP":"192.168.77.11"}'
    )
    await backend.stop()
    await backend.teardown()


@pytest.mark.trio
async def test_it_refuses_an_interface_without_mtu() -> None:
    with pytest.raises(Refused, match="eth0 has no MTU"):
        await Alloc(None).prepare(host(Path(), link=ETH0._replace(mtu=0)))
