"""Every request of both APIs passes the gate before anything is read or proposed.

The routes and methods are enumerated from the tables that the daemon serves: one that is added without the
gate fails here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import pytest

from netstore import codes
from netstore.api.admin import AdminApi
from netstore.api.gate import Access, Api, Gate, Kind, Operation
from netstore.api.routes import routes
from netstore.api.v2.form import PIECE_BYTES
from netstore.api.v3 import operations
from netstore.errors import permission_denied
from netstore.net.exchange import Request
from netstore.node.lessor import Lessor
from netstore.proto import rpc_pb2 as pb
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.profiled import profiled
from tests.support.v3member import Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.api.http.router import Router
    from netstore.errors import Fault
    from netstore.net.grpc.protocols import Services
    from netstore.node.member import Replica

FIRST_MESSAGES: Final = {
    b"/etcdserverpb.Watch/Watch": pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a")),
    b"/etcdserverpb.Lease/LeaseKeepAlive": pb.LeaseKeepAliveRequest(ID=7),
    b"/etcdserverpb.Maintenance/Snapshot": pb.SnapshotRequest(),
    b"/grpc.health.v1.Health/Watch": pb.SnapshotRequest(),
}
"""What is sent on each stream. The requests of the last two have no field that matters."""

MANY_MESSAGES: Final = {b"/etcdserverpb.Watch/Watch", b"/etcdserverpb.Lease/LeaseKeepAlive"}
"""Streams with more than one message of the client; on the others a second one is an error."""

METHODS: Final = (b"GET", b"HEAD", b"PUT", b"POST", b"DELETE")
FORM: Final = b"application/x-www-form-urlencoded"
FORBIDDEN: Final = ("machine", "hub", "jobs", "stats", "read", "propose", "status", "problems", "behind")
"""What the handlers read and propose with."""


class Refusing:
    """A policy that refuses everything and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Operation, str]] = []

    def __call__(self, operation: Operation, principal: str) -> Fault | None:
        self.asked.append((operation, principal))
        return permission_denied()


class Untouchable:
    """Stands for a part of the member that must not be used."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} was used before the gate was passed")

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("it was used before the gate was passed")


def forbid(owner: object, names: tuple[str, ...] = FORBIDDEN) -> None:
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, Untouchable())


def http(policy: Callable[[Operation, str], Fault | None]) -> tuple[LocalMember, Router]:
    """The routes of the daemon, over a member that is used by no request that the gate refuses."""
    member = LocalMember()
    router = routes(
        member,
        member.cluster,
        Lessor(cast("Replica", member), 1.0),
        member.deadlines,
        gate=Gate(policy),
        statistics=member.stats,
        admin_api=AdminApi(member, member.cluster),
        set_level=Untouchable(),
        enable_v2=True,
    )
    return member, router


def grpc() -> tuple[Served, Services, Refusing]:
    served, policy = Served(), Refusing()
    served.gate.policy = policy
    return served, served.services, policy


_, _ROUTER = http(Refusing())
ROUTES: Final = sorted({*_ROUTER.exact, *_ROUTER.below, *(path + b"/a/b" for path in _ROUTER.below)})
UNARY: Final = sorted(Served().services.unary)
STREAMS: Final = sorted(Served().services.stream)


@pytest.mark.parametrize("method", METHODS, ids=bytes.decode)
@pytest.mark.parametrize("path", ROUTES, ids=bytes.decode)
def test_every_route_is_refused_by_the_gate(path: bytes, method: bytes) -> None:
    policy = Refusing()
    member, router = http(policy)
    forbid(member)
    forbid(member.cluster, ("add", "remove", "promote", "update", "transfer"))
    for part in ("_machine", "_hub"):
        for handler in (each.handler for each in router.below.values()):
            forbid(getattr(handler, "__self__", None), (part,))
    exchange = RecordedExchange(Request(method, path, b"", b"value=v", FORM), principal="somebody")
    router.handle(exchange)
    assert exchange.status == 401, (exchange.status, exchange.body)
    [(operation, principal)] = policy.asked
    assert principal == "somebody"
    assert operation.api in (Api.V2, Api.ADMIN)
    assert operation.name == method + b" " + path
    assert operation.accesses
    assert method == b"HEAD" or b"Insufficient credentials" in exchange.body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/v2/members", Kind.MEMBER),
        (b"/v2/machines", Kind.MEMBER),
        (b"/netstore/members", Kind.MEMBER),
        (b"/netstore/members/1/promote", Kind.MEMBER),
        (b"/netstore/leader", Kind.MAINTENANCE),
        (b"/netstore/status", Kind.ADMIN),
        (b"/config/local/log", Kind.ADMIN),
        (b"/health", Kind.PUBLIC),
    ],
)
def test_routes_of_all_apis_agree_on_what_is_accessed(path: bytes, kind: Kind) -> None:
    _, router = http(policy := Refusing())
    router.handle(RecordedExchange(Request(b"POST", path)))
    [(operation, _)] = policy.asked
    assert (operation.accesses, operation.may_write) == ((Access(kind),), True)


@pytest.mark.parametrize("query", [b"wait=true", b"quorum=true", b"recursive=true", b"wait=true&stream=true"])
def test_reads_and_watches_of_keys_are_refused_alike(query: bytes) -> None:
    _, router = http(policy := Refusing())
    exchange = RecordedExchange(Request(b"GET", b"/v2/keys/a", query))
    router.handle(exchange)
    assert exchange.status == 401
    assert json.loads(exchange.body) == {
        "errorCode": 110,
        "message": "The request requires user authentication",
        "cause": "Insufficient credentials",
        "index": 0,
    }
    assert len(policy.asked) == 1


def test_a_form_that_is_read_in_pieces_passes_the_gate_too() -> None:
    member, router = http(policy := Refusing())
    body = b"value=%41" + b"v" * (3 * PIECE_BYTES)
    exchange = RecordedExchange(Request(b"PUT", b"/v2/keys/a", b"", body, FORM))
    router.handle(exchange)
    while member.jobs.ready:
        member.jobs.run()
    assert exchange.status == 401
    assert len(policy.asked) == 1
    assert member.send("GET", "/v2/keys/a").status == 404


@pytest.mark.parametrize("path", UNARY, ids=bytes.decode)
def test_every_unary_method_is_refused_by_the_gate(path: bytes) -> None:
    served, _, policy = grpc()
    untouched(served)
    call = served.call(path.decode(), b"")
    assert (call.status, call.text) == (codes.PERMISSION_DENIED, "etcdserver: permission denied")
    assert call.messages == []
    [(operation, principal)] = policy.asked
    assert (operation.api, operation.name, principal) == (Api.V3, path, "127.0.0.1")
    assert operation.accesses or path == operations.TXN, "an empty transaction accesses nothing"
    assert served.members.asked == []


def test_a_transaction_that_is_too_large_is_refused_before_the_gate() -> None:
    served, _, policy = grpc()
    untouched(served)
    request = pb.TxnRequest(success=[pb.RequestOp()] * 100_000)
    with profiled() as counted:
        call = served.call("/etcdserverpb.KV/Txn", request)
    assert (call.status, policy.asked) == (codes.INVALID_ARGUMENT, [])
    assert call.text == "etcdserver: too many operations in txn request"
    assert counted.total() < 1_000


@pytest.mark.parametrize("path", STREAMS, ids=bytes.decode)
def test_every_stream_is_refused_by_the_gate(path: bytes) -> None:
    served, _, policy = grpc()
    made: list[object] = []
    served.make = made.append  # type: ignore[method-assign,assignment]  # copies
    call, receiver = served.open(path.decode())
    message = FIRST_MESSAGES[path].SerializeToString()
    receiver.received(message)
    [(operation, principal)] = policy.asked
    assert (operation.api, operation.name, principal) == (Api.V3, path, "127.0.0.1")
    assert operation.accesses
    if path == operations.WATCH:
        [answer] = [pb.WatchResponse.FromString(each) for each in call.messages]
        assert answer.created
        assert answer.canceled
        assert (answer.watch_id, answer.cancel_reason) == (-1, "etcdserver: permission denied")
        assert call.status is None, "other watches of the stream go on"
        assert served.member.watches.count == 0
    else:
        assert (call.status, call.text) == (codes.PERMISSION_DENIED, "etcdserver: permission denied")
        assert call.messages == []
    assert (made, served.member.readers, served.member.writers) == ([], [], [])


@pytest.mark.parametrize("path", STREAMS, ids=bytes.decode)
def test_each_later_message_of_a_stream_passes_the_gate(path: bytes) -> None:
    """Or ends the stream, where the method takes only one."""
    served, _, refusing = grpc()
    served.gate.policy = None
    served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(ID=7, TTL=60))
    admitted: list[bytes] = []

    def first_only(operation: Operation, principal: str) -> Fault | None:
        if admitted:
            return refusing(operation, principal)
        admitted.append(operation.name)
        return None

    served.gate.policy = first_only
    served.make = lambda done: None  # type: ignore[method-assign]  # a copy that is never finished
    call, receiver = served.open(path.decode())
    message = FIRST_MESSAGES[path].SerializeToString()
    receiver.received(message)
    assert (admitted, refusing.asked, call.status) == ([path], [], None)
    answers, watches, written = len(call.messages), served.member.watches.count, len(served.member.writers)
    receiver.received(message)
    if path in MANY_MESSAGES:
        [(operation, _)] = refusing.asked
        assert operation.name == path
        refused = [pb.WatchResponse.FromString(each) for each in call.messages[answers:]]
        assert call.status == codes.PERMISSION_DENIED or [each.canceled for each in refused] == [True]
    else:
        assert (call.status, len(call.messages)) == (codes.INTERNAL, answers)
    assert (served.member.watches.count, len(served.member.writers)) == (watches, written)


def untouched(served: Served) -> None:
    """What a refused call must not use. Whether the member is a learner is looked up before."""
    member: Any = served.member
    members = member.machine.members
    forbid(member, ("hub", "jobs", "read", "propose", "status", "problems", "behind"))
    member.machine = Untouchable()
    member.machine.__dict__["members"] = members
    member.settle = lambda: None
    forbid(served.lessor, ("keep_alive", "time_to_live"))
    forbid(served.members, ("add", "remove", "promote", "update", "transfer"))


def test_each_request_of_a_stream_passes_the_gate() -> None:
    served, _, policy = grpc()
    seen: list[bytes] = []

    def only_a(operation: Operation, principal: str) -> Fault | None:
        key = operation.accesses[0].key
        seen.append(key)
        return None if key == b"a" else policy(operation, principal)

    served.gate.policy = only_a
    call, receiver = served.open("/etcdserverpb.Watch/Watch")
    for key in (b"a", b"b", b"a"):
        create = pb.WatchCreateRequest(key=key)
        receiver.received(pb.WatchRequest(create_request=create).SerializeToString())
    assert seen == [b"a", b"b", b"a"]
    answers = [pb.WatchResponse.FromString(each) for each in call.messages]
    assert [each.canceled for each in answers] == [False, True, False]
    assert served.member.watches.count == 2


def test_a_watch_is_refused_by_the_gate_as_by_the_store() -> None:
    served, _, policy = grpc()
    served.gate.policy = None
    served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a", value=b"v"))
    call, receiver = served.open("/etcdserverpb.Watch/Watch")
    create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"b", range_end=b"a"))
    receiver.received(create.SerializeToString())
    served.gate.policy = policy
    receiver.received(create.SerializeToString())
    by_store, by_gate = [pb.WatchResponse.FromString(each) for each in call.messages]
    assert by_gate.header.revision == served.member.machine.mvcc.revision > 0
    assert by_gate.cancel_reason == "etcdserver: permission denied"
    by_gate.cancel_reason = by_store.cancel_reason
    assert by_gate == by_store


def test_each_renewal_passes_the_gate() -> None:
    served, _, policy = grpc()
    served.gate.policy = None
    served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(ID=7, TTL=60))
    call, receiver = served.open("/etcdserverpb.Lease/LeaseKeepAlive")
    message = pb.LeaseKeepAliveRequest(ID=7).SerializeToString()
    receiver.received(message)
    assert (len(call.messages), call.status) == (1, None)
    served.gate.policy = policy
    written = len(served.member.writers)
    receiver.received(message)
    assert (len(call.messages), call.status) == (1, codes.PERMISSION_DENIED)
    assert len(served.member.writers) == written
    assert policy.asked[0][0].accesses == (Access(Kind.LEASE, lease=7),)


def test_a_policy_that_admits_changes_no_answer() -> None:
    """And a policy that is set while the member runs is in force at the next request."""
    asked: list[Operation] = []

    def admit(operation: Operation, _: str) -> None:
        asked.append(operation)

    served = Served()
    for policy in (None, admit):
        served.gate.policy = policy
        put = served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a", value=b"v"))
        got = served.call("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"a"))
        assert (put.status, got.status) == (codes.OK, codes.OK)
        [kv] = pb.RangeResponse.FromString(got.messages[0]).kvs
        assert kv.value == b"v"
    assert [each.accesses[0].kind for each in asked] == [Kind.WRITE, Kind.READ]
    member = LocalMember()
    for policy in (None, admit):
        member.gate.policy = policy
        assert member.send("PUT", "/v2/keys/a?value=v").status in (200, 201)
        assert member.send("GET", "/v2/keys/a").status == 200
    assert len(asked) == 4


def test_an_open_gate_makes_no_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "check", Untouchable())
    served, member = Served(), LocalMember()
    for path in UNARY:
        served.call(path.decode(), b"")
    for path in (b"/v2/keys/a", b"/v2/members", b"/netstore/status", b"/version"):
        member.send("GET", path.decode())


def test_the_gate_admits_without_a_policy() -> None:
    operation = Operation(Api.V3, b"/x", (Access(Kind.READ, b"a"),))
    assert Gate().check(operation, "") is None
    fault = Gate(Refusing()).check(operation, "")
    assert fault is not None
    assert (fault.code, fault.http_status, fault.outcome_known) == (110, 401, True)
