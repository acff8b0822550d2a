"""A real member that a signal stopped starts with the keys that it saved; one that was killed reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.keptindex import KEPT_FILE
from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import start_netstored
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = pb.RangeRequest(key=b"\0", range_end=b"\0")


def put(client: V3Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        client.kv.Put(pb.PutRequest(key=b"/k/%04d" % (number % 500), value=b"%d" % number))


def test_a_start_after_a_stop_and_after_a_kill_has_all_keys(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        client = V3Client(daemon.url)
        file = daemon.data_dir / "state" / KEPT_FILE
        put(client, 0, 700)
        client.kv.Compact(pb.CompactionRequest(revision=100, physical=True))
        client.kv.DeleteRange(pb.DeleteRangeRequest(key=b"/k/0007"))
        before = client.kv.Range(EVERYTHING).kvs
        assert daemon.stop() == 0
        assert file.exists()
        for end in (daemon.kill, daemon.stop):
            daemon.start_again()
            assert client.kv.Range(EVERYTHING).kvs == before
            put(client, 700, 50)
            before = client.kv.Range(EVERYTHING).kvs
            end()
        file.write_bytes(file.read_bytes()[:-1])
        daemon.start_again()
        assert client.kv.Range(EVERYTHING).kvs == before
        assert "saved_keys_ignored" in daemon.log
        client.close()
