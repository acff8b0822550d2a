"""What a Kubernetes control plane sends a store, with its own checks (v3 API, what Kubernetes sends).

Writers create, update and delete objects as kube-apiserver does: a transaction that compares mod_revision,
with a read for the case that it loses. Informers list page by page at one revision and then follow, each
keeping a copy of its resource; every event has to fit that copy. A compactor forgets history behind them.
While all that goes on, and at the end, the copy of an informer must be what the store lists at the revision
that it has been told of.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from netstore.proto.kv_pb2 import Event, KeyValue
from netstore.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
)
from tests.support.patience import Deadline, seconds
from tests.support.v3client import Refused, V3Client, prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = 50
"""Objects of a page; kube-apiserver asks for 500 or 10,000."""

RESOURCES: Final = ("minions", "leases/kube-node-lease", "pods", "events")
COMPACT_KEY: Final = b"compact_rev_key"
LIMIT: Final = 30.0


def prefix_of(resource: str) -> bytes:
    return b"/registry/%b/" % resource.encode()


class Api:
    """The calls of kube-apiserver's storage layer."""

    def __init__(self, url: str) -> None:
        self.client = V3Client(url)
        self.took: dict[str, list[float]] = {}
        """Seconds of each call, by what it was."""

    def _timed(self, what: str, call: Callable[[Any], Any], request: Any) -> Any:
        began = time.perf_counter()
        answer = call(request)
        self.took.setdefault(what, []).append(time.perf_counter() - began)
        return answer

    def create(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Create an object; its revision, 0 when it exists."""
        answer = self._timed(
            "create",
            self.client.kv.Txn,
            TxnRequest(
                compare=[Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=0)],
                success=[RequestOp(request_put=PutRequest(key=key, value=value, lease=lease))],
            ),
        )
        assert len(answer.responses) == answer.succeeded
        revision: int = answer.header.revision if answer.succeeded else 0
        return revision

    def update(self, key: bytes, value: bytes, revision: int) -> int | KeyValue | None:
        """Replace an object as of a revision: its new revision, else what it is now, None when it is gone."""
        op = RequestOp(request_put=PutRequest(key=key, value=value))
        return self._guarded("update", key, revision, op)

    def delete(self, key: bytes, revision: int) -> int | KeyValue | None:
        """Delete an object as of a revision; as `update`."""
        op = RequestOp(request_delete_range=DeleteRangeRequest(key=key))
        return self._guarded("delete", key, revision, op)

    def _guarded(self, what: str, key: bytes, revision: int, op: RequestOp) -> int | KeyValue | None:
        answer = self._timed(
            what,
            self.client.kv.Txn,
            TxnRequest(
                compare=[Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=revision)],
                success=[op],
                failure=[RequestOp(request_range=RangeRequest(key=key))],
            ),
        )
        if answer.succeeded:
            now: int = answer.header.revision
            return now
        kvs = answer.responses[0].response_range.kvs
        return kvs[0] if kvs else None

    def get(self, key: bytes) -> KeyValue | None:
        answer = self._timed("get", self.client.kv.Range, RangeRequest(key=key, limit=1))
        return answer.kvs[0] if answer.kvs else None

    def list(self, prefix: bytes, revision: int = 0) -> tuple[dict[bytes, KeyValue], int]:
        """All objects at one revision, page by page, and that revision."""
        found: dict[bytes, KeyValue] = {}
        key, end, total = prefix, prefix_end(prefix), -1
        while True:
            request = RangeRequest(key=key, range_end=end, limit=PAGE, revision=revision)
            answer = self._timed("list", self.client.kv.Range, request)
            revision = revision or answer.header.revision
            assert answer.header.revision >= revision, "the header tells the present"
            found |= {kv.key: kv for kv in answer.kvs}
            total = answer.count if total < 0 else total
            assert answer.more == (len(answer.kvs) < answer.count)
            assert len(found) - len(answer.kvs) + answer.count == total, "what is left, from this page on"
            if not answer.more:
                return found, revision
            key = answer.kvs[-1].key + b"\0"

    def now(self, prefix: bytes) -> int:
        """The present revision, as asked for before a list from the cache."""
        request = RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=1)
        revision: int = self._timed("revision", self.client.kv.Range, request).header.revision
        return revision

    def count(self, prefix: bytes, revision: int) -> int:
        request = RangeRequest(key=prefix, range_end=prefix_end(prefix), count_only=True, revision=revision)
        number: int = self._timed("count", self.client.kv.Range, request).count
        return number

    def close(self) -> None:
        self.client.close()


class Informer:
    """A copy of one resource, kept by watching. `failure` is the first thing that did not fit."""

    def __init__(self, url: str, resource: str) -> None:
        self.prefix = prefix_of(resource)
        self.failure: BaseException | None = None
        self.told = 0
        self._api = Api(url)
        self._changed = threading.Condition()
        self.copy, self.revision = self._api.list(self.prefix)
        self._stream = self._api.client.watch.Watch(metadata=(("hasleader", "true"),), timeout=seconds(600))
        self._stream.send(
            WatchRequest(
                create_request=WatchCreateRequest(
                    key=self.prefix,
                    range_end=prefix_end(self.prefix),
                    start_revision=self.revision + 1,
                    prev_kv=True,
                    progress_notify=True,
                )
            )
        )
        made = self._stream.next()
        assert made.created
        assert not made.canceled
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while True:
                answer = self._stream.next(limit=600)
                with self._changed:
                    self._take(answer)
                    self._changed.notify_all()
        except (EOFError, Refused) as ended:
            if not isinstance(ended, Refused) or ended.code != "CANCELLED":
                self._fail(ended)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to show it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def _take(self, answer: Any) -> None:
        assert not answer.canceled, answer
        assert answer.header.revision >= self.revision, "revisions of a watch never go back"
        revisions = [event.kv.mod_revision for event in answer.events]
        assert revisions == sorted(revisions)
        if revisions:
            assert revisions[0] > self.revision, "a revision is told once, and whole"
            assert answer.header.revision >= revisions[-1]
        for event in answer.events:
            self._fit(event)
        self.told += len(answer.events)
        self.revision = answer.header.revision if not answer.events else revisions[-1]

    def _fit(self, event: Event) -> None:
        key = event.kv.key
        known = self.copy.get(key)
        if event.type == Event.DELETE:
            assert known is not None
            assert event.prev_kv == known
            del self.copy[key]
            return
        if event.kv.create_revision == event.kv.mod_revision:
            assert known is None
            assert not event.HasField("prev_kv")
        else:
            assert event.prev_kv == known
            assert known is not None
            assert event.kv.version == known.version + 1
        self.copy[key] = event.kv

    def reach(self, revision: int, *, ask: bool) -> tuple[dict[bytes, KeyValue], int]:
        """The copy at this revision or a later one, and that; asks for progress as kube-apiserver does."""
        deadline = Deadline(LIMIT)
        with self._changed:
            while self.revision < revision:
                if self.failure is not None:
                    raise AssertionError(f"informer of {self.prefix!r}") from self.failure
                assert not deadline.passed(), f"{self.prefix!r}: at {self.revision}, not {revision}"
                if ask:
                    self._stream.send(WatchRequest(progress_request=WatchProgressRequest()))
                self._changed.wait(0.1)  # fixed: then it asks again
            return dict(self.copy), self.revision

    def close(self) -> None:
        self._stream.cancel()
        self._api.close()
        if self.failure is not None:
            raise AssertionError(f"informer of {self.prefix!r}") from self.failure


@dataclass
class Writer:
    """A controller and its share of the nodes; it knows what each of its objects must be."""

    api: Api
    number: int
    nodes: list[int]
    chance: random.Random
    own: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    conflicts: int = 0
    shared: int = 0

    def value(self, least: int, most: int) -> bytes:
        return b"k8s\0" + self.chance.randbytes(self.chance.randint(least, most))

    def begin(self) -> None:
        """Every node joins: its object and its lease."""
        for node in self.nodes:
            self.create(b"/registry/minions/node-%04d" % node, self.value(800, 3000))
            self.create(b"/registry/leases/kube-node-lease/node-%04d" % node, self.value(200, 300))

    def round(self, number: int) -> None:
        """Heartbeats, pods that come, change and go, events that expire."""
        lease = self.api.client.lease.LeaseGrant(LeaseGrantRequest(TTL=3600)).ID
        for node in self.nodes:
            self.update(b"/registry/leases/kube-node-lease/node-%04d" % node, self.value(200, 300))
            pod = b"/registry/pods/default/web-%04d-%d" % (node, number)
            self.create(pod, self.value(1000, 4000))
            for _ in range(2):  # scheduled, running
                self.update(pod, self.value(1000, 4000))
            event = b"/registry/events/default/web-%04d.%d" % (node, number)
            self.create(event, self.value(300, 800), lease)
            if number >= 2:
                self.remove(b"/registry/pods/default/web-%04d-%d" % (node, number - 2))
            if self.chance.random() < 0.2:
                self.stale(pod)
        self.count_up(b"/registry/minions/shared")

    def create(self, key: bytes, value: bytes, lease: int = 0) -> None:
        revision = self.api.create(key, value, lease)
        assert revision, f"{key!r} existed"
        assert not self.api.create(key, b"again")
        self.own[key] = (value, revision)

    def update(self, key: bytes, value: bytes) -> None:
        revision = self.api.update(key, value, self.own[key][1])
        assert isinstance(revision, int)
        assert revision > self.own[key][1]
        self.own[key] = (value, revision)

    def remove(self, key: bytes) -> None:
        assert isinstance(self.api.delete(key, self.own.pop(key)[1]), int)
        assert self.api.update(key, b"late", 7) is None, "nothing is left of it"

    def stale(self, key: bytes) -> None:
        """An update that comes too late gets what is there instead."""
        value, revision = self.own[key]
        now = self.api.update(key, b"late", revision - 1)
        assert isinstance(now, KeyValue)
        assert (now.value, now.mod_revision) == (value, revision)

    def count_up(self, key: bytes) -> None:
        """All writers add one to the same object: none of it may be lost."""
        while True:
            current = self.api.get(key)
            if current is None:
                if self.api.create(key, b"1"):
                    break
            elif isinstance(
                self.api.update(key, b"%d" % (int(current.value) + 1), current.mod_revision), int
            ):
                break
            self.conflicts += 1
        self.shared += 1


def compact(api: Api, known: tuple[int, int]) -> tuple[int, int]:
    """One turn of kube-apiserver's compactor: (version of the key, revision) seen before and now."""
    version, revision = known
    answer = api.client.kv.Txn(
        TxnRequest(
            compare=[Compare(key=COMPACT_KEY, target=Compare.VERSION, result=Compare.EQUAL, version=version)],
            success=[RequestOp(request_put=PutRequest(key=COMPACT_KEY, value=b"%d" % revision))],
            failure=[RequestOp(request_range=RangeRequest(key=COMPACT_KEY))],
        )
    )
    now: int = answer.header.revision
    if not answer.succeeded:
        return answer.responses[0].response_range.kvs[0].version, now
    if revision:
        try:
            api.client.kv.Compact(CompactionRequest(revision=revision))
        except Refused as refused:
            assert "has been compacted" in refused.text  # noqa: PT017 - it is the only refusal allowed
    return version + 1, now


@dataclass
class Outcome:
    """What a run did."""

    seconds: float
    calls: int
    events: int
    conflicts: int
    took: dict[str, list[float]]


def run(
    url: str,
    *,
    nodes: int,
    rounds: int,
    writers: int = 4,
    informers: int = 2,
    seed: int = 1,
    trust_progress: bool = True,
) -> Outcome:
    """Run a control plane of so many nodes and check all it sees. `informers` follow each resource."""
    apis = [Api(url) for _ in range(writers)]
    plane = [
        Writer(api, number, list(range(nodes))[number::writers], random.Random(seed + number))  # noqa: S311 - a workload, not a secret
        for number, api in enumerate(apis)
    ]
    watching = [Informer(url, resource) for resource in RESOURCES for _ in range(informers)]
    checks = Api(url)
    failures: list[BaseException] = []
    began = time.monotonic()
    seen = (0, 0)
    _together(plane, Writer.begin)
    for number in range(rounds):
        reader = threading.Thread(target=_compare_all, args=(checks, watching, trust_progress, failures))
        reader.start()
        _together(plane, partial(Writer.round, number=number))
        reader.join()
        if failures:
            raise failures[0]
        seen = compact(apis[0], seen)
    seconds = time.monotonic() - began
    for resource in RESOURCES:
        _check_resource(apis[0], resource, plane)
    shared = apis[0].get(b"/registry/minions/shared")
    assert shared is not None
    assert int(shared.value) == writers * rounds
    last = [apis[0].create(prefix_of(resource) + b"zz-last", b"k8s\0") for resource in RESOURCES]
    for informer, revision in zip(watching, [each for each in last for _ in range(informers)], strict=True):
        copy, _ = informer.reach(revision, ask=False)
        assert copy == apis[0].list(informer.prefix)[0]
        informer.close()
    checks.close()
    took: dict[str, list[float]] = {}
    for api in apis:
        for what, times in api.took.items():
            took.setdefault(what, []).extend(times)
        api.close()
    calls = sum(len(times) for times in took.values())
    events = sum(informer.told for informer in watching)
    return Outcome(seconds, calls, events, sum(writer.conflicts for writer in plane), took)


def _compare_all(api: Api, watching: list[Informer], ask: bool, failures: list[BaseException]) -> None:
    """Consistent lists from the caches, while writers write, are what the store has."""
    try:
        for informer in watching:
            wanted = api.now(informer.prefix) if ask else 0
            copy, revision = informer.reach(wanted, ask=ask)
            assert copy == api.list(informer.prefix, revision)[0]
            assert api.count(informer.prefix, revision) == len(copy)
    except BaseException as error:  # noqa: BLE001 - handed to the caller
        failures.append(error)


def _check_resource(api: Api, resource: str, plane: list[Writer]) -> None:
    prefix = prefix_of(resource)
    wanted = {
        key: value for writer in plane for key, (value, _) in writer.own.items() if key.startswith(prefix)
    }
    found = {key: kv.value for key, kv in api.list(prefix)[0].items() if not key.endswith(b"/shared")}
    assert found == wanted


def _together(plane: list[Writer], work: Callable[[Writer], None]) -> None:
    failures: list[BaseException] = []

    def one(writer: Writer) -> None:
        try:
            work(writer)
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failures.append(error)

    threads = [threading.Thread(target=one, args=(writer,)) for writer in plane]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
