"""`netstorectl history`, `diff` and `undo` on real stores."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shlex
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from netstore.cli.commands import history
from netstore.client import keyspace, origins
from netstore.client.keyspace import KeySpace
from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client, prefix_end
from tests.support.v3kubernetes import Api, Informer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from netstore.client.keyspace import Outcome, Step
    from tests.cli.commands.conftest import Run
    from tests.support.daemon import Daemon


class V3:
    """The v3 keys of the store of a test."""

    def __init__(self, url: str) -> None:
        self.client = V3Client(url)
        self.is_etcd = (
            httpx.get(f"{url}/netstore/status", trust_env=False, timeout=seconds(20)).status_code == 404
        )

    def put(self, key: str, value: str, lease: int = 0) -> int:
        request = pb.PutRequest(key=key.encode(), value=value.encode(), lease=lease)
        revision: int = self.client.kv.Put(request).header.revision
        return revision

    def delete(self, key: str) -> int:
        revision: int = self.client.kv.DeleteRange(pb.DeleteRangeRequest(key=key.encode())).header.revision
        return revision

    def lease(self, ttl: int = 600) -> int:
        id_: int = self.client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=ttl)).ID
        return id_

    def under(self, prefix: str) -> dict[str, str]:
        request = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix.encode()))
        return {each.key.decode(): each.value.decode() for each in self.client.kv.Range(request).kvs}


@pytest.fixture
def v3(store: str) -> Iterator[V3]:
    found = V3(store)
    yield found
    found.client.close()


def test_all_states_of_a_key(ctl: Run, v3: V3, prefix: str) -> None:
    lease = v3.lease()
    first, second = v3.put(prefix, "1"), v3.put(prefix, "two", lease)
    gone = v3.delete(prefix)
    told = ctl("history", prefix)
    assert told.status == 0, told.err
    who = "" if v3.is_etcd else "127.0.0.1"
    assert [[row[0], *row[2:]] for row in told.rows] == [
        [str(first), who, "create", "1", "1", ""],
        [str(second), who, "put", "2", "3", f"{lease:x}"],
        [str(gone), who, "delete", "", "", ""],
    ]
    assert all(bool(row[1]) is not v3.is_etcd for row in told.rows)
    again = v3.put(prefix, "ÿ")
    document = ctl("history", prefix, "--limit", "2", "--values", "-o", "json").document
    assert [(each["revision"], each["change"]) for each in document["states"]] == [
        (gone, "delete"),
        (again, "create"),
    ]
    assert (document["missed"], document["states"][1]["value"]) == (2, "ÿ")
    if not v3.is_etcd:
        when = datetime.fromisoformat(document["states"][1]["time"])
        assert abs((datetime.now(UTC) - when).total_seconds()) < 3600
    told = ctl("history", f"{prefix}-none")
    assert (told.status, "nothing is known of it" in told.err) == (3, True)


def test_a_value_that_is_no_text(ctl: Run, v3: V3, prefix: str) -> None:
    v3.client.kv.Put(pb.PutRequest(key=prefix.encode(), value=b"\xff\0"))
    state = ctl("history", prefix, "--values", "-o", "json").document["states"][0]
    assert (state["valueBase64"], state["bytes"]) == ("/wA=", 2)
    assert ctl("history", prefix, "--values").rows[0][-1] == "/wA="


def test_what_differs_between_two_points(ctl: Run, v3: V3, prefix: str) -> None:
    kept, changed = v3.put(f"{prefix}/a", "1"), v3.put(f"{prefix}/b", "1")
    before = v3.put(f"{prefix}/c", "1")
    later = v3.put(f"{prefix}/b", "2")
    v3.delete(f"{prefix}/c")
    v3.put(f"{prefix}/c", "2")
    deleted = v3.delete(f"{prefix}/c")
    added = v3.put(f"{prefix}/d", "1")
    who = "" if v3.is_etcd else "127.0.0.1"
    wanted = [
        [f"{prefix}/b", "changed", str(changed), str(later), who],
        [f"{prefix}/c", "removed", str(before), "", who],
        [f"{prefix}/d", "added", "", str(added), who],
    ]
    for points in ((before,), (before, added)):
        told = ctl("diff", *(word for each in points for word in ("--at", str(each))), f"{prefix}/")
        assert told.status == 0, told.err
        assert [[*row[:4], row[5]] for row in told.rows] == wanted
        assert all(bool(row[4]) is not v3.is_etcd for row in told.rows), "also of the deletion"
    if not v3.is_etcd:
        (past,) = (
            each["time"]
            for each in ctl("history", f"{prefix}/c", "-o", "json").document["states"]
            if each["revision"] == deleted
        )
        assert ctl("diff", "--at", str(before), f"{prefix}/c").rows[0][4] == past, "the last deletion"
        assert (
            ctl("diff", "--at", str(before), "--at", str(deleted - 1), f"{prefix}/c").rows[0][1] == "changed"
        )
    document = ctl("diff", "--at", str(added), "--at", str(before), f"{prefix}/", "-o", "json").document
    assert [each["change"] for each in document["keys"]] == ["changed", "added", "removed"]
    assert (document["count"], kept < before) == (3, True)
    assert ctl("diff", "--at", str(added), "--at", str(added), f"{prefix}/").out == ""
    assert ctl("undo", "--to-revision", str(before), f"{prefix}/").status == 0
    left = ctl("diff", "--at", str(before), f"{prefix}/").rows
    assert [row[:2] for row in left] == [[f"{prefix}/{each}", "rewritten"] for each in "bc"]
    leased = v3.put(f"{prefix}/a", "1", v3.lease())
    assert ctl("diff", "--at", str(leased - 1), f"{prefix}/a").rows[0][1] == "changed", "it has a lease now"
    for words in ((), ("--at", "1") * 3):
        assert "give it once or twice" in ctl("diff", *words, prefix).err
    told = ctl("diff", "--at", str(added + 1000), prefix)
    newest = ctl("diff", "--at", str(added), f"{prefix}/", "-o", "json").document["to"]
    assert told.status == 3
    assert f"revision {added + 1000} is later than the store's newest, {newest}\n" in told.err


def test_a_deleted_namespace_comes_back_before_the_eyes_of_its_informers(
    ctl: Run, v3: V3, store: str
) -> None:
    """The shape of Kubernetes: pods in a namespace beside another one, with an informer on all of them."""
    chance = random.Random(7)  # noqa: S311 - repeatable
    api = Api(store)
    values: dict[bytes, bytes] = {}
    for number in range(200):
        key = b"/registry/pods/shop/web-%03d" % number
        values[key] = b"k8s\0" + chance.randbytes(chance.randint(500, 4000))
        assert api.create(key, values[key])
    assert api.create(b"/registry/pods/other/web", b"k8s\0other")
    updated = next(iter(values))
    values[updated] = b"k8s\0updated"
    assert api.update(updated, values[updated], api.get(updated).mod_revision)  # type: ignore[union-attr]  # it is there
    informer = Informer(store, "pods")
    target = api.now(b"/registry/pods/")
    for key in values:
        api.delete(key, api.get(key).mod_revision)  # type: ignore[union-attr]  # it is there
    assert api.create(b"/registry/pods/shop/late", b"k8s\0late")
    other = b"/registry/pods/other/web"
    assert api.update(other, b"k8s\0changed", api.get(other).mod_revision)  # type: ignore[union-attr]  # it is there

    words = ("undo", "--to-revision", str(target), "/registry/pods/shop/")
    told = ctl(*words, "--dry-run", "-o", "json")
    assert told.document["counts"] == {"would be done": 201}
    assert api.now(b"/registry/pods/") == told.document["fromRevision"], "nothing was written"
    told = ctl(*words, "-o", "json")
    assert (told.status, told.document["counts"]) == (0, {"done": 201}), told.err
    assert told.document["lastRevision"] - told.document["fromRevision"] == 4, "of 64 keys each"

    found, _ = api.list(b"/registry/pods/shop/")
    assert {key: each.value for key, each in found.items()} == values
    seen, _ = informer.reach(told.document["lastRevision"], ask=False)
    assert {key: each.value for key, each in seen.items()} == values | {
        b"/registry/pods/other/web": b"k8s\0changed"
    }
    assert informer.told == 200 + 2 + 201
    informer.close()
    told = ctl(*words, "-o", "json")
    assert told.document["counts"] == {}, "it is as it was"
    for key in (*values, b"/registry/pods/other/web"):
        v3.delete(key.decode())
    api.close()


def test_a_key_that_is_changed_meanwhile_is_left_alone(
    ctl: Run, v3: V3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{prefix}/{name}" for name in "abcd"]
    for key in keys[:3]:
        v3.put(key, "old")
    target = v3.put(f"{prefix}/e", "old")
    v3.delete(keys[0])
    for key in keys[1:]:
        v3.put(key, "new")
    real = KeySpace.write
    todo = [lambda: v3.put(keys[0], "mine"), lambda: v3.delete(keys[1]), lambda: v3.put(keys[3], "mine")]

    async def disturbed(self: KeySpace, batch: Sequence[Step]) -> AsyncIterator[Outcome]:
        while todo:
            todo.pop()()
        async for outcome in real(self, batch):
            yield outcome

    monkeypatch.setattr(KeySpace, "write", disturbed)
    told = ctl("undo", "--to-revision", str(target), f"{prefix}/")
    assert told.status == 1
    assert "3 of 4 keys were left alone; look at them with netstorectl diff --at" in told.err
    assert [(row[0], row[1], row[4]) for row in told.rows] == [
        (keys[0], "create", "left alone: it was changed meanwhile"),
        (keys[1], "put", "left alone: it was changed meanwhile"),
        (keys[2], "put", "done"),
        (keys[3], "delete", "left alone: it was changed meanwhile"),
    ]
    wanted = {keys[0]: "mine", keys[2]: "old", keys[3]: "mine", f"{prefix}/e": "old"}
    assert v3.under(f"{prefix}/") == wanted


def test_batches_are_bounded(ctl: Run, v3: V3, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "BATCH_BYTES", 3000)
    monkeypatch.setattr(keyspace, "PAGE_BYTES", 2000)
    for number in range(40):
        target = v3.put(f"{prefix}/{number:02}", "x" * (5000 if number == 5 else 900))
    before = v3.under(prefix)
    v3.client.kv.DeleteRange(
        pb.DeleteRangeRequest(key=prefix.encode(), range_end=prefix_end(prefix.encode()))
    )
    document = ctl("undo", "--to-revision", str(target), prefix, "-o", "json").document
    assert document["counts"] == {"done": 40}
    assert document["lastRevision"] - document["fromRevision"] == 15, "5 keys, the long one, 34 keys"
    assert v3.under(prefix) == before


@pytest.mark.parametrize("start", [pytest.param(start_etcd, marks=pytest.mark.peer("etcd")), start_netstored])
def test_what_a_store_takes_in_no_transaction_keeps_no_other_key_back(
    run: Run, tmp_path: Path, start: Callable[..., Daemon]
) -> None:
    most, long = 20 * 1024, "l" * 900
    with start(tmp_path, "--max-txn-ops", "10", "--max-request-bytes", str(most)) as daemon:
        v3 = V3(daemon.url)
        for number in range(30):
            v3.put(f"/a/{number:02}", "x")
        # Two writes fit one plain put each. The first also fits a transaction that names its key twice.
        v3.put(f"/b/{long}", "x" * (most - 2 * len(long) - 100))
        v3.put(f"/c/{long}", "x" * (most - len(long) - 100))
        lease = v3.lease()
        v3.put("/d", "leased", lease)
        target = v3.put("/z", "x")
        before = v3.under("/")
        for first, end in (("/", "/d"), ("/e", "0")):
            v3.client.kv.DeleteRange(pb.DeleteRangeRequest(key=first.encode(), range_end=end.encode()))
        v3.put("/d", "changed", lease)
        told = run("--endpoints", daemon.url, "undo", "--to-revision", str(target), "/", "-o", "json")
        document = json.loads(told.out)
        assert document["counts"] == {"done": 33, "left alone: the store refuses it": 1}, told.err
        [left] = [each for each in document["keys"] if each["result"] != "done"]
        assert left["key"] == f"/c/{long}"
        assert left["result"].startswith(
            "left alone: the store refuses it: etcdserver: request is too large: a write of "
        )
        assert left["result"].endswith(" bytes; start its members with --max-request-bytes 22528 or more")
        assert (told.status, "1 of 34 keys were left alone; look at them with" in told.err) == (1, True)
        del before[f"/c/{long}"]
        assert v3.under("/") == before
        v3.client.close()


def test_a_lease_that_ends_while_keys_come_back_keeps_no_other_key_back(
    ctl: Run, v3: V3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = v3.lease()
    v3.put(f"{prefix}/a", "1")
    v3.put(f"{prefix}/b", "1", lease)
    target = v3.put(f"{prefix}/c", "1")
    for name in "abc":
        v3.put(f"{prefix}/{name}", "2")
    real = KeySpace.is_alive

    async def ending(self: KeySpace, asked: int) -> bool:
        is_alive = await real(self, asked)
        v3.client.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease))
        return is_alive

    monkeypatch.setattr(KeySpace, "is_alive", ending)
    told = ctl("undo", "--to-revision", str(target), f"{prefix}/")
    assert [(row[0], row[4]) for row in told.rows] == [
        (f"{prefix}/a", "done"),
        (f"{prefix}/b", "left alone: the store refuses it: etcdserver: requested lease not found"),
        (f"{prefix}/c", "done"),
    ]
    assert told.status == 1


def test_leases_of_keys_that_come_back(ctl: Run, v3: V3, prefix: str) -> None:
    alive, ended = v3.lease(), v3.lease()
    v3.put(f"{prefix}/alive", "v", alive)
    target = v3.put(f"{prefix}/ended", "v", ended)
    v3.client.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=ended))
    v3.delete(f"{prefix}/alive")
    words = ("undo", "--to-revision", str(target), prefix)
    told = ctl(*words)
    assert told.status == 1
    assert [(row[0], row[4]) for row in told.rows] == [
        (f"{prefix}/ended", "left alone: its lease has ended"),
        (f"{prefix}/alive", "done"),
    ]
    leased = v3.client.kv.Range(pb.RangeRequest(key=f"{prefix}/alive".encode())).kvs[0]
    assert leased.lease == alive
    assert ctl(*words, "--without-leases").status == 0
    kept = v3.client.kv.Range(pb.RangeRequest(key=f"{prefix}/ended".encode())).kvs[0]
    assert (kept.value, kept.lease) == (b"v", 0)
    told = ctl(*words, "--without-leases", "-o", "json")
    assert (told.status, told.document["counts"], told.document["keys"]) == (0, {}, []), "all is undone"


@pytest.mark.parametrize("begin", ["", "-"])
def test_what_is_left_alone_is_shown_by_the_command_that_is_named(
    ctl: Run, v3: V3, prefix: str, begin: str
) -> None:
    key = f"{begin}{prefix}/a b"
    target = v3.put(key, "1", v3.lease(1))
    v3.client.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=_lease_of(v3, key)))
    told = ctl("undo", "--to-revision", str(target), "--", key)
    assert told.status == 1
    [command] = re.findall(r"look at them with netstorectl (.*)", told.err)
    assert command == f"diff --at {target} {'-- ' if begin else ''}'{key}'"
    assert [row[0] for row in ctl(*shlex.split(command)).rows] == [key]
    assert history._word(b"") == "''"
    for raw in (b"a\xff'b", b"a\nb", b"$(x)", b"/a"):
        said = subprocess.run(
            ["bash", "-c", f"printf %s {history._word(raw)}"],
            check=True,
            capture_output=True,
        )
        assert said.stdout == raw


def _lease_of(v3: V3, key: str) -> int:
    id_: int = v3.client.kv.Range(pb.RangeRequest(key=key.encode())).kvs[0].lease
    return id_


def test_keys_that_are_no_text_are_told_without_loss(ctl: Run, v3: V3, prefix: str) -> None:
    raw = prefix.encode() + b"/\xff"
    before = v3.put(f"{prefix}/a", "1")
    v3.client.kv.Put(pb.PutRequest(key=raw, value=b"1"))
    shown, coded = f"{prefix}/\\xff", base64.b64encode(raw).decode()
    document = ctl("history", os.fsdecode(raw), "-o", "json").document
    assert (document["key"], document["keyBase64"]) == (shown, coded)
    assert "keyBase64" not in ctl("history", f"{prefix}/a", "-o", "json").document
    document = ctl("diff", "--at", str(before), prefix, "-o", "json").document
    assert [(each["key"], each["keyBase64"]) for each in document["keys"]] == [(shown, coded)]
    told = ctl("undo", "--to-revision", str(before), prefix, "-o", "json")
    assert [(each["key"], each["keyBase64"]) for each in told.document["keys"]] == [(shown, coded)]


def test_back_to_an_instant(ctl: Run, v3: V3, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = v3.put(f"{prefix}/a", "1")
    if v3.is_etcd:
        told = ctl("undo", "--since", "1m", prefix)
        assert told.status == 1
        assert "1m: this store does not keep times: it is etcd" in told.err
        return
    monkeypatch.setattr(origins, "WINDOW", 2)
    time = ctl("history", f"{prefix}/a", "-o", "json").document["states"][0]["time"]
    while True:  # times are told to the millisecond: until one has passed
        second = v3.put(f"{prefix}/a", "2")
        if ctl("history", f"{prefix}/a", "-o", "json").document["states"][-1]["time"] > time:
            break
    for _ in range(10):
        v3.put(f"{prefix}/b", "3")
    # The instant is told cut to a millisecond, so the first write may be after it: one more includes it.
    instant = datetime.fromisoformat(time).timestamp() + 0.001
    after = datetime.fromtimestamp(instant, UTC).isoformat()
    told = ctl("undo", "--since", after, prefix, "-o", "json")
    assert told.status == 0, told.err
    assert first <= told.document["toRevision"] < second
    assert f"{prefix}/b" not in v3.under(prefix)
    told = ctl("undo", "--since", "2001-01-01T00:00:00Z", prefix)
    assert told.status == 3
    assert "the oldest revision whose time is known is" in told.err
    told = ctl("diff", "--at", "2101-01-01T00:00:00Z", prefix)
    assert (told.status, told.out) == (0, ""), "the present state"


def test_what_was_compacted(ctl: Run, v3: V3, prefix: str) -> None:
    first = v3.put(prefix, "1")
    second = v3.put(prefix, "2")
    third = v3.put(prefix, "3")
    v3.client.kv.Compact(pb.CompactionRequest(revision=second))
    told = ctl("history", prefix)
    assert [row[0] for row in told.rows] == [str(second), str(third)], told.err
    for words in (("diff", "--at", str(first)), ("undo", "--to-revision", str(first))):
        told = ctl(*words, prefix)
        assert told.status == 3
        assert (
            f"revision {first}: the store has compacted its history; the oldest revision that it can read is"
            f" {second}; an archive goes back further" in told.err
        )
    assert ctl("diff", "--at", str(second), prefix).rows[0][0] == prefix, "the one that is named can be read"


def test_usage(ctl: Run, prefix: str) -> None:
    for words in (("undo",), ("undo", "--since", "1m", "--to-revision", "5")):
        told = ctl(*words, prefix)
        assert (told.status, "give either --since or --to-revision" in told.err) == (2, True)
    told = ctl("undo", "--to-revision", str(2**60), prefix)
    assert (told.status, "later than the store's newest" in told.err) == (3, True)


def test_a_store_that_answers_nonsense(run: Run) -> None:
    told = run("--endpoints", "http://127.0.0.1:1", "history", "/k")
    assert (told.status, "no endpoint answered" in told.err) == (4, True)
