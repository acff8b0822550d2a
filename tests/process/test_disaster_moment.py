"""The runbooks of contrib/doc/disaster.md for a wrong delete that is undone, or restored from an archive."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from netstore.proto import rpc_pb2 as pb
from tests.support import documents
from tests.support.archives import shown, wait_until_archived
from tests.support.cluster import put, request
from tests.support.daemon import start_netstored
from tests.support.documents import bash, with_ports
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.timeout(600), pytest.mark.peer("bash")]

block = partial(documents.block, "contrib/doc/disaster.md")
LIMIT: Final = 120.0
ALL: Final = pb.RangeRequest(key=b"/v3/", range_end=b"/v30")


def test_a_wrong_delete_is_undone_or_shown_beside(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    flags = ("--archive-folder", str(folder), "--archive-lag-seconds", "1")
    with start_netstored(tmp_path, *flags) as daemon, closing(V3Client(daemon.url)) as client:
        assert put(daemon, "a/b", "precious").status == 201
        for number in range(3):
            client.kv.Put(pb.PutRequest(key=b"/v3/%d" % number, value=b"value %d" % number))
        moment = shown(time.time_ns())
        assert request(daemon, "DELETE", "/v2/keys/a/b").status == 200
        client.kv.DeleteRange(pb.DeleteRangeRequest(key=ALL.key, range_end=ALL.range_end))
        client.kv.Put(pb.PutRequest(key=b"/other", value=b"kept"))
        variables = {"SINCE": moment, "PREFIX": "/v3/", "NETSTORE_ENDPOINTS": daemon.url}
        told = bash(block("undo"), tmp_path, variables, limit=LIMIT)
        assert told.count("removed") == 3
        assert told.count("would be done") == 3
        found = client.kv.Range(ALL).kvs
        assert [each.value for each in found] == [b"value 0", b"value 1", b"value 2"]
        assert client.kv.Range(pb.RangeRequest(key=b"/other")).kvs[0].value == b"kept"

        client.kv.DeleteRange(pb.DeleteRangeRequest(key=ALL.key, range_end=ALL.range_end))
        revision = client.kv.Range(ALL).header.revision
        client.kv.Compact(pb.CompactionRequest(revision=revision, physical=True))
        wait_until_archived(daemon)
        variables |= {
            "ARCHIVE": str(folder),
            "MOMENT": moment,
            "BESIDE": str(tmp_path / "beside"),
            "KEY": "/a/b",
        }
        look = 'netstorectl --endpoints http://127.0.0.1:2389 key get "$KEY"\n'
        told = bash(with_ports(block("moment") + look), tmp_path, variables, limit=LIMIT)
        assert told.splitlines()[-1] == "precious"
