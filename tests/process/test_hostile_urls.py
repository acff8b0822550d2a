"""Peer URLs that nobody can be called at: refused in words, and harmless where a log holds them already."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from netstore.proto import rpc_pb2 as pb
from netstore.state.commands import AddMember, encode
from netstore.state.envelope import seal
from tests.support.cluster import exchange, put
from tests.support.daemon import start_netstored
from tests.support.patience import until
from tests.support.stopped import append_to_log
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

JSON: Final = {"Content-Type": "application/json"}

HOSTILE: Final = (
    *("http://a..b:2380", "http://[1]:2380", f"http://{'h' * 64}:2380", "http://.:1", "http://.a:1"),
    *("http://xn--\u00e9:1", "http://[:::]:1", "http://a\u2100b:1"),
)

IN_A_LOG: Final = (
    *HOSTILE,
    "https://.a:1",
    "http://h:99999999",
    "http://a\x00b:1",
    "",
    "http://[",
    "x" * 9999,
)


def were_tried(daemon: Daemon, turns: int) -> bool:
    return daemon.log.count('"peer_not_reached"') >= turns * len(IN_A_LOG)


def test_a_request_is_told_the_field_and_the_fix_and_the_member_lives(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon, closing(V3Client(daemon.url)) as client:
        (own,) = client.cluster.MemberList(pb.MemberListRequest()).members
        for url in HOSTILE:
            for method, path in (("POST", ""), ("PUT", f"/{own.ID:x}")):
                asked = json.dumps({"peerURLs": [url]})
                refused = exchange(daemon, method, f"/v2/members{path}", asked, JSON)
                assert refused.status == 400
                assert "write http://HOST:PORT" in refused.body["message"]
            for call, request in (
                (client.cluster.MemberAdd, pb.MemberAddRequest(peerURLs=[url])),
                (client.cluster.MemberUpdate, pb.MemberUpdateRequest(ID=own.ID, peerURLs=[url])),
            ):
                with pytest.raises(
                    Refused, match="INVALID_ARGUMENT: etcdserver: given member URLs are invalid"
                ):
                    call(request)
        assert put(daemon, "alive", "1").status == 201


def test_a_log_that_holds_them_is_served_and_starts_again(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        assert put(daemon, "before", "1").status == 201
        assert daemon.stop() == 0
        added = [AddMember(number, (url,), learner=True) for number, url in enumerate(IN_A_LOG, 1)]
        append_to_log(daemon.data_dir, [seal(encode(each)) for each in added])
        for turn in (1, 2):
            daemon.start_again()
            until(partial(were_tried, daemon, turn), "every one of them was called")
            assert put(daemon, "after", "1").status in {200, 201}
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log
