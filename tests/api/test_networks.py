"""What is written to the config of a network is checked in both APIs, and nothing else is."""

from __future__ import annotations

import json
import queue
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from netstore import codes
from netstore.api import networks as networks_module
from netstore.api.beside import MOST_WAITING, Beside
from netstore.api.networks import MAX_WRITTEN_BYTES, NetworkWrites
from netstore.network.plugins import Plugin
from netstore.proto import rpc_pb2 as pb
from tests.support.local_member import HandClock, LocalMember
from tests.support.member import Lines
from tests.support.patience import seconds
from tests.support.v3member import Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.local_member import RecordedExchange

KEY = "/coreos.com/network/config"
GOOD = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}'
TYPO = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gateway"}}'
OLD = '{"Network":"10.1.0.0/16"}'
SCHEMA: dict[str, Any] = {"properties": {"Port": {"type": "integer"}}}
SECONDS = 20.0


class Site:
    """Both APIs over members that check networks. `settle` makes the calls that threads asked for."""

    def __init__(self, *prefixes: str, **admitted: Plugin) -> None:
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()
        self.lines = Lines()
        self.clock = HandClock()
        self.admitted = {plugin.name: plugin for plugin in admitted.values()}
        beside = Beside(self.calls.put, self.lines)
        self.networks = NetworkWrites(prefixes, lambda: self.admitted, beside, self.clock, self.lines)
        answer = site.set(self.config(1))
        site.settle()
        assert answer.status == 201
        put = pb.PutRequest(key=KEY.encode(), value=self.config("one").encode())
        call = site.v3.call("/etcdserverpb.KV/Put", put)
        assert call.status is None
        site.settle()
        assert call.status == codes.INVALID_ARGUMENT

    def test_a_plugin_without_a_schema_takes_what_is_given(self, site: Site) -> None:
        assert site.set(self.config({"any": 1}, "free")).status == 201

    def test_so_many_checks_wait_and_no_more(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        free = threading.Event()
        monkeypatch.setattr(networks_module, "finish", lambda _: free.wait(seconds(SECONDS)))
        answers = [site.set(self.config(1)) for _ in range(MOST_WAITING + 1)]
        assert [answer.status for answer in answers] == [0] * MOST_WAITING + [500]
        assert b"too many requests" in answers[-1].body
        free.set()
        for _ in answers[:-1]:
            site.settle()
        assert {answer.status for answer in answers[:-1]} == {200, 201}

    def test_a_check_that_fails_is_told_and_logged(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(networks_module, "finish", fail)
        answer = site.set(self.config(1))
        site.settle()
        site.settle()
        assert answer.status == 500
        assert [event for event, _ in site.lines.lines] == ["schema_not_checked"]
