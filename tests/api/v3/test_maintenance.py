"""Maintenance, Cluster, health: what is shown, what is passed on, how a copy goes out."""

from __future__ import annotations

import hashlib
from typing import cast

import pytest

from netstore import codes
from netstore.api.v3 import maintenance
from netstore.api.v3.maintenance import MOST_UNSENT, PIECE_BYTES
from netstore.api.v3.version import CLUSTER_VERSION, VERSION
from netstore.errors import Reason, refusal
from netstore.proto import rpc_pb2 as pb
from netstore.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from netstore.state.v3.commands import NOSPACE, SetAlarm
from netstore.types import NodeId
from tests.support.v3member import CANCELLED, FakeCall, FakeCopy, Served


@pytest.fixture
def served() -> Served:
    return Served()


def test_status_without_a_leader(served: Served) -> None:
    served.member.leader = NodeId(0)
    call = served.call("/etcdserverpb.Maintenance/Status", pb.StatusRequest())
    answer = pb.StatusResponse.FromString(call.messages[0])
    assert list(answer.errors) == ["etcdserver: no leader"]
    served.member.own_problems = {"log cannot be written: full": "free disk space"}
    served.member.differing = "states differ"
    again = pb.StatusResponse.FromString(
        served.call("/etcdserverpb.Maintenance/Status", pb.StatusRequest()).messages[0]
    )
    assert list(again.errors) == ["etcdserver: no leader", "log cannot be written: full", "states differ"]
    assert (answer.leader, answer.dbSize, answer.dbSizeInUse) == (0, 2_000_000, 1_000_000)


@pytest.mark.parametrize("kind", [0, 7, -1])
def test_an_alarm_of_no_known_kind_is_not_raised_and_needs_no_clearing(served: Served, kind: int) -> None:
    before, me = served.member.proposed, served.member.id

    def ask(action: pb.AlarmRequest.AlarmAction, id_: int) -> FakeCall:
        request = pb.AlarmRequest(action=action, memberID=id_, alarm=cast("pb.AlarmType", kind))
        return served.call("/etcdserverpb.Maintenance/Alarm", request)

    call = ask(pb.AlarmRequest.ACTIVATE, me)
    assert (call.status, call.text) == (codes.INVALID_ARGUMENT, "etcdserver: unknown alarm")
    call = ask(pb.AlarmRequest.ACTIVATE, 2**64 - 1)
    assert (call.status, call.text) == (codes.NOT_FOUND, "etcdserver: member not found")
    for id_ in (me, 2**64 - 1):
        call = ask(pb.AlarmRequest.DEACTIVATE, id_)
        assert call.status == codes.OK
        assert not pb.AlarmResponse.FromString(call.messages[0]).alarms
    assert served.member.proposed == before


@pytest.mark.parametrize("action", [9, -1])
def test_an_action_that_there_is_not_is_refused(served: Served, action: int) -> None:
    before = served.member.proposed
    for kind in (pb.NONE, pb.NOSPACE):
        call = set_alarm(served, cast("pb.AlarmRequest.AlarmAction", action), served.member.id, kind)
        assert (call.status, call.text) == (codes.INVALID_ARGUMENT, "etcdserver: unknown action of an alarm")
    assert served.member.proposed == before


def test_a_copy_goes_out_as_fast_as_it_is_read(served: Served) -> None:
    data = bytes(range(256)) * 2 * 400
    served.copy = copy = FakeCopy(data)
    call, receiver = served.open("/etcdserverpb.Maintenance/Snapshot")
    call.backlog = MOST_UNSENT
    receiver.received(b"")
    receiver.half_closed()
    assert call.messages == []
    call.drain()
    answers = [pb.SnapshotResponse.FromString(message) for message in call.messages]
    assert b"".join(answer.blob for answer in answers[:-1]) == data
    assert answers[-1].blob == hashlib.sha256(data).digest()
    assert {len(answer.blob) for answer in answers[:-2]} == {PIECE_BYTES}
    assert [answer.remaining_bytes for answer in answers[-2:]] == [0, 0]
    assert not answers[0].HasField("header")
    assert call.status == codes.OK
    assert copy.closed


def test_a_copy_is_closed_when_its_client_goes_away(served: Served) -> None:
    served.copy = copy = FakeCopy(bytes(512))
    call, receiver = served.open("/etcdserverpb.Maintenance/Snapshot")
    call.backlog = MOST_UNSENT
    receiver.received(b"")
    call.finish(CANCELLED)
    receiver.cancelled()
    assert copy.closed
    served.copy = late = FakeCopy(bytes(512))
    call, receiver = served.open("/etcdserverpb.Maintenance/Snapshot")
    call.finish(CANCELLED)
    receiver.received(b"")
    assert late.closed, "made for nobody"


def test_a_copy_that_cannot_be_made(served: Served) -> None:
    served.copy = refusal(Reason.SNAPSHOT_BUSY)
    call, receiver = served.open("/etcdserverpb.Maintenance/Snapshot")
    receiver.received(b"")
    assert (call.status, call.text) == (codes.UNKNOWN, "etcdserver: another snapshot is being made")


def test_one_request_and_no_more(served: Served) -> None:
    call, receiver = served.open("/etcdserverpb.Maintenance/Snapshot")
    receiver.half_closed()
    assert call.status == codes.INTERNAL
    call, receiver = served.open("/grpc.health.v1.Health/Watch")
    receiver.received(b"")
    receiver.received(b"")
    assert call.status == codes.INTERNAL


def test_members_are_asked_and_answered(served: Served) -> None:
    url = "http://10.0.0.2:2380"
    added = served.call(
        "/etcdserverpb.Cluster/MemberAdd", pb.MemberAddRequest(peerURLs=[url + "/"], isLearner=True)
    )
    answer = pb.MemberAddResponse.FromString(added.messages[0])
    assert (answer.member.ID, list(answer.member.peerURLs), answer.member.isLearner) == (1, [url], True)
    assert [each.ID for each in answer.members] == [served.member.id]
    for name, request in (
        ("MemberRemove", pb.MemberRemoveRequest(ID=7)),
        ("MemberUpdate", pb.MemberUpdateRequest(ID=7, peerURLs=[url])),
        ("MemberPromote", pb.MemberPromoteRequest(ID=7)),
    ):
        assert served.call(f"/etcdserverpb.Cluster/{name}", request).status == codes.OK
    moved = pb.MoveLeaderRequest(targetID=7)
    assert served.call("/etcdserverpb.Maintenance/MoveLeader", moved).messages == [b""]
    assert served.members.asked == [
        ("add", (url,), True),
        ("remove", 7),
        ("update", 7, (url,)),
        ("promote", 7),
        ("transfer", 7),
    ]
    assert len(served.members.askers) == 4
    assert b"" not in served.members.askers


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["ftp://h:1"],
        ["http://h"],
        ["http://h:1/path"],
        ["http://h:1", "h:2"],
        ["http://h:123456"],
        ["http://h..b:1"],
        ["http://[1]:1"],
        [f"http://h:{port}" for port in range(1, 18)],
    ],
)
def test_urls_that_no_member_can_have(served: Served, urls: list[str]) -> None:
    for path, request in (
        ("MemberAdd", pb.MemberAddRequest(peerURLs=urls)),
        ("MemberUpdate", pb.MemberUpdateRequest(ID=7, peerURLs=urls)),
    ):
        call = served.call(f"/etcdserverpb.Cluster/{path}", request)
        assert (call.status, call.text) == (
            codes.INVALID_ARGUMENT,
            "etcdserver: given member URLs are invalid",
        )
    assert served.members.asked == []


@pytest.mark.parametrize("reason", Reason)
def test_refusals_of_members_have_the_words_of_the_api(served: Served, reason: Reason) -> None:
    served.members.fault = refusal(reason)
    for path, request in (
        ("/etcdserverpb.Cluster/MemberAdd", pb.MemberAddRequest(peerURLs=["http://h:1"])),
        ("/etcdserverpb.Cluster/MemberRemove", pb.MemberRemoveRequest(ID=7)),
        ("/etcdserverpb.Cluster/MemberPromote", pb.MemberPromoteRequest(ID=7)),
        ("/etcdserverpb.Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=7)),
    ):
        call = served.call(path, request)
        assert (call.status, call.text) == (reason.grpc_code, reason.v3_text)
        assert call.messages == []


def test_health(served: Served) -> None:
    call = served.call("/grpc.health.v1.Health/Check", HealthCheckRequest())
    assert HealthCheckResponse.FromString(call.messages[0]).status == HealthCheckResponse.SERVING
    call, receiver = served.open("/grpc.health.v1.Health/Watch")
    receiver.received(b"")
    receiver.half_closed()
    assert call.open, "the status may still change"
    assert HealthCheckResponse.FromString(call.messages[0]).status == HealthCheckResponse.SERVING
    receiver.cancelled()


def set_alarm(
    served: Served, action: pb.AlarmRequest.AlarmAction, id_: int, kind: pb.AlarmType = pb.NOSPACE
) -> FakeCall:
    return served.call(
        "/etcdserverpb.Maintenance/Alarm", pb.AlarmRequest(action=action, memberID=id_, alarm=kind)
    )


def test_alarms_are_raised_of_members_that_there_are(served: Served) -> None:
    """So there are as many as members and kinds, whatever numbers a client makes up."""
    activate, me = pb.AlarmRequest.ACTIVATE, served.member.id
    before = served.member.proposed
    for id_ in (0, 5, me + 1, 2**64 - 1):
        call = set_alarm(served, activate, id_)
        assert (call.status, call.text) == (codes.NOT_FOUND, "etcdserver: member not found")
    assert served.member.proposed == before, "nothing of it is in the log"
    for kind in (pb.NOSPACE, pb.CORRUPT):
        assert set_alarm(served, activate, me, kind).status == codes.OK
    assert served.member.machine.alarms.active == [(me, pb.NOSPACE), (me, pb.CORRUPT)]


def test_an_alarm_of_a_member_that_was_removed_can_be_cleared(served: Served) -> None:
    served.member.machine.alarms.set(SetAlarm(5, NOSPACE, active=True))
    call = set_alarm(served, pb.AlarmRequest.DEACTIVATE, 5)
    assert [each.memberID for each in pb.AlarmResponse.FromString(call.messages[0]).alarms] == [5]
    assert served.member.machine.alarms.active == []


def test_a_client_raises_only_so_many_alarms(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told in one answer, each time somebody asks for the status; removed members leave theirs."""
    monkeypatch.setattr(maintenance, "MOST_ALARMS", 3)
    for removed in (1, 2, 3):
        served.member.machine.alarms.set(SetAlarm(removed, NOSPACE, active=True))
    call = set_alarm(served, pb.AlarmRequest.ACTIVATE, served.member.id)
    assert (call.status, call.text) == (codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
    assert set_alarm(served, pb.AlarmRequest.DEACTIVATE, 1).status == codes.OK
    assert set_alarm(served, pb.AlarmRequest.ACTIVATE, served.member.id).status == codes.OK


DOWNGRADE = "/etcdserverpb.Maintenance/Downgrade"


@pytest.mark.parametrize(
    ("action", "version", "code", "text"),
    [
        ("VALIDATE", "3.4", codes.OK, ""),
        ("VALIDATE", "3.4.7", codes.OK, ""),
        ("VALIDATE", "3.3", codes.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"),
        ("VALIDATE", "3.5.0", codes.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"),
        ("VALIDATE", "3", codes.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"),
        ("VALIDATE", "", codes.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"),
        ("ENABLE", "x", codes.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"),
        ("ENABLE", "3.6", codes.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"),
        ("ENABLE", "3.4", codes.FAILED_PRECONDITION, Reason.NO_DOWNGRADE.v3_text),
        ("CANCEL", "", codes.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job"),
    ],
)
def test_a_downgrade_is_judged_and_never_begun(
    served: Served, action: str, version: str, code: int, text: str
) -> None:
    served.member.machine.roster.cluster_version = "3.5.0"
    request = pb.DowngradeRequest(action=action, version=version)
    before = served.member.proposed
    call = served.call(DOWNGRADE, request)
    assert (call.status, call.text) == (code, text)
    if code == codes.OK:
        assert pb.DowngradeResponse.FromString(call.messages[0]).version == "3.5.0"
    assert served.member.proposed == before


def test_a_downgrade_needs_a_version_of_the_cluster_and_a_known_action(served: Served) -> None:
    served.member.machine.roster.cluster_version = ""
    call = served.call(DOWNGRADE, pb.DowngradeRequest(version="3.4"))
    assert (call.status, call.text) == (
        codes.UNAVAILABLE,
        "etcdserver: cluster version not found during downgrade",
    )
    unknown = cast("pb.DowngradeRequest.DowngradeAction", 9)
    call = served.call(DOWNGRADE, pb.DowngradeRequest(action=unknown, version="3.4"))
    assert (call.status, call.text) == (codes.UNKNOWN, "etcdserver: unknown method")


def test_there_are_no_users(served: Served) -> None:
    call = served.call("/etcdserverpb.Auth/AuthStatus", pb.AuthStatusRequest())
    answer = pb.AuthStatusResponse.FromString(call.messages[0])
    assert (answer.enabled, answer.authRevision) == (False, 1)
    assert answer.header.revision == served.member.machine.mvcc.revision
    call = served.call("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest(name="root"))
    assert (call.status, call.text) == (
        codes.FAILED_PRECONDITION,
        "etcdserver: authentication is not enabled",
    )


def test_the_version_is_one_that_kubeadm_takes() -> None:
    """At least 3.5.24, and none of a minor release whose methods are not served."""
    major, minor, patch = map(int, VERSION.split("."))
    assert (major, minor) == (3, 5)
    assert patch >= 24
    assert CLUSTER_VERSION == "3.5.0"
