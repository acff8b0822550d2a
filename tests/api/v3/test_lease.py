"""The Lease service: what is granted, and what is told of a lease."""

from __future__ import annotations

import pytest

from netstore.proto import rpc_pb2 as pb
from tests.support.v3member import Served


@pytest.fixture
def served() -> Served:
    return Served()


def test_an_id_is_drawn_until_it_is_free(served: Served) -> None:
    def grant() -> int:
        call = served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60))
        return pb.LeaseGrantResponse.FromString(call.messages[0]).ID

    served.draws = [5, 5, 5, 6]
    assert (grant(), grant()) == (6, 7)
    assert served.draws == []


def test_the_keys_of_a_lease_that_ended_meanwhile_are_not_told(served: Served) -> None:
    call = served.call("/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=77, keys=True))
    answer = pb.LeaseTimeToLiveResponse.FromString(call.messages[0])
    assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (77, -1, 0, [])
