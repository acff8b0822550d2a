"""netstored killed while v3 clients write: what was acknowledged is there, and the history has no gap."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from netstore.proto.rpc_pb2 import (
    DeleteRangeRequest,
    HashKVRequest,
    LeaseGrantRequest,
    LeaseTimeToLiveRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
    WatchRequest,
)
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLS: Final = 2
WRITERS: Final = 6
ENOUGH: Final = 60
"""Acknowledged writes of one life before it is ended."""


class Writer:
    """One client: puts, deletes and transactions on keys of its own, one after the other."""

    def __init__(self, url: str, number: int, acknowledged: Callable[[], None]) -> None:
        self.url = url
        self.number = number
        self.count = 0
        self.done: dict[int, tuple[bytes, bytes | None]] = {}
        """Revision -> key and value, None for a deletion."""
        self._acknowledged = acknowledged

    def run(self) -> None:
        """Write until the store is gone. A write that was not answered may have been done or not."""
        client = V3Client(self.url)
        try:
            while True:
                self.count += 1
                key, value = b"/w%d/%d" % (self.number, self.count % 10), b"%d" % self.count
                kept: bytes | None = value
                if self.count % 7 == 0:
                    answer = client.kv.DeleteRange(DeleteRangeRequest(key=key))
                    if not answer.deleted:
                        continue
                    kept = None
                elif self.count % 3 == 0:
                    ops = [
                        RequestOp(request_put=PutRequest(key=each, value=value)) for each in (key, key + b"b")
                    ]
                    answer = client.kv.Txn(TxnRequest(success=ops))
                else:
                    answer = client.kv.Put(PutRequest(key=key, value=value))
                self.done[answer.header.revision] = (key, kept)
                self._acknowledged()
        except Refused as refused:
            assert refused.code in {"UNAVAILABLE", "CANCELLED", "UNKNOWN"}, refused  # noqa: PT017 - the only way out
        finally:
            client.close()


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    done: dict[int, tuple[bytes, bytes | None]] = {}
    with start_netstored(tmp_path) as daemon:
        client = V3Client(daemon.url)
        lease = client.lease.LeaseGrant(LeaseGrantRequest(TTL=5000)).ID
        client.kv.Put(PutRequest(key=b"/leased", value=b"x", lease=lease))
        client.close()
        for _ in range(KILLS):
            enough = threading.Semaphore(0)
            writers = [Writer(daemon.url, number, enough.release) for number in range(WRITERS)]
            threads = [threading.Thread(target=writer.run) for writer in writers]
            for thread in threads:
                thread.start()
            for _ in range(ENOUGH):
                assert enough.acquire(timeout=seconds(30))
            daemon.kill()
            for thread in threads:
                thread.join(seconds(30))
            daemon.start_again()
            for writer in writers:
                assert not done.keys() & writer.done.keys(), "a revision was given twice"
                done |= writer.done
            check(daemon.url, done)
        client = V3Client(daemon.url)
        told = client.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=lease, keys=True))
        assert (told.grantedTTL, list(told.keys)) == (5000, [b"/leased"])
        before = client.maintenance.HashKV(HashKVRequest()).hash
        client.close()
        daemon.stop()
        daemon.start_again()
        client = V3Client(daemon.url)
        assert client.maintenance.HashKV(HashKVRequest()).hash == before
        client.close()


def check(url: str, done: dict[int, tuple[bytes, bytes | None]]) -> None:
    """The history holds every acknowledged change at the revision told, and leads to what is there."""
    client = V3Client(url)
    everything = client.kv.Range(RangeRequest(key=b"\0", range_end=b"\0"))
    last = everything.header.revision
    assert last >= max(done)
    history: dict[int, dict[bytes, bytes | None]] = {}
    now: dict[bytes, bytes] = {}
    with client.watch.Watch() as stream:
        wanted = WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=1)
        stream.send(WatchRequest(create_request=wanted))
        while not history or max(history) < last:
            for event in stream.next().events:
                value = None if event.type else event.kv.value
                history.setdefault(event.kv.mod_revision, {})[event.kv.key] = value
                if value is None:
                    del now[event.kv.key]
                else:
                    now[event.kv.key] = value
    assert list(history) == list(range(2, last + 1)), "every revision, in order"
    for revision, (key, value) in done.items():
        assert history[revision][key] == value
    assert {kv.key: kv.value for kv in everything.kvs} == now
    client.close()
