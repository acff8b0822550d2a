"""The fake stores, and the subnets in each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from netstore.client.subnets_v2 import V2Subnets
from netstore.client.subnets_v3 import V3Subnets
from netstore.network.lease import SUBNETS
from tests.agent.fake_store import PREFIX, FakeStore
from tests.agent.fake_store_v3 import FakeV3Store

if TYPE_CHECKING:
    from netstore.client.subnetstore import SubnetStore
    from netstore.client.v2 import V2Client
    from netstore.client.v3 import V3Client

APIS: Final = ("v2", "v3")


def fake(api: str) -> FakeStore:
    """An empty store that has this API."""
    return FakeV3Store() if api == "v3" else FakeStore()


def subnets(store: FakeStore, folder: str = SUBNETS) -> SubnetStore:
    """The subnets in a fake store, or another folder of it, by the API that it has."""
    if isinstance(store, FakeV3Store):
        return V3Subnets(cast("V3Client", store), PREFIX, folder)
    return V2Subnets(cast("V2Client", store), PREFIX, folder)
