"""What is written to the config of a network is checked in both APIs, and nothing else is."""

from __future__ import annotations

import json
import queue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from netstore import codes, errors
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

    from netstore.errors import Fault
    from tests.support.local_member import RecordedExchange

KEY = "/coreos.com/network/config"
GOOD = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}'
TYPO = '{"Network":"10.1.0.0/16","Backend":{"Type":"host-gateway"}}'
OLD = '{"Network":"10.1.0.0/16"}'
SCHEMA: dict[str, Any] = {"properties": {"Port": {"type": "integer"}}}
SECONDS = 20.0


def fail(_: object) -> None:
    """Work that raises, in whichever process."""
    raise ZeroDivisionError


class Site:
    """Both APIs over members that check networks. `settle` makes the calls that threads asked for."""

    def __init__(self, *prefixes: str, **admitted: Plugin) -> None:
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()
        self.lines = Lines()
        self.clock = HandClock()
        self.admitted = {plugin.name: plugin for plugin in admitted.values()}
        beside = Beside(self.calls.put, self.lines)
        self.reads: list[Callable[[Fault | None], None]] = []
        """What is called when this member has caught up with the others."""
        self.lags = False
        self.networks = NetworkWrites(
            prefixes, lambda: self.admitted, beside, self.clock, self.lines, read=self.read
        )
        self.v2 = LocalMember(networks=self.networks)
        self.v3 = Served(networks=self.networks)

    def read(self, done: Callable[[Fault | None], None]) -> None:
        if self.lags:
            self.reads.append(done)
        else:
            done(None)

    def settle(self) -> None:
        self.calls.get(timeout=seconds(SECONDS))()

    def set(self, value: str | None, key: str = KEY, method: str = "PUT", **form: Any) -> RecordedExchange:
        whole = form if value is None else {"value": value, **form}
        return self.v2.send(method, f"/v2/keys{key}", urlencode(whole).encode())

    def put(self, value: str, key: str = KEY, **fields: Any) -> tuple[int | None, str]:
        put = pb.PutRequest(key=key.encode(), value=value.encode(), **fields)
        call = self.v3.call("/etcdserverpb.KV/Put", put)
        return call.status, call.text

    def txn(self, request: pb.TxnRequest) -> tuple[int | None, str]:
        call = self.v3.call("/etcdserverpb.KV/Txn", request)
        return call.status, call.text


@pytest.fixture
def site() -> Site:
    return Site("/coreos.com/network", "/kube-centos/network")


def op(value: str, key: str = KEY, **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value.encode(), **fields))


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"prevExist": "false"},
        {"prevExist": "true"},
        {"prevValue": GOOD},
        {"prevIndex": 1},
        {"ttl": 60},
        {"dir": "true", "prevExist": "true"},
        {"dir": "true", "prevValue": GOOD},
    ],
)
def test_a_set_of_any_kind_is_refused(site: Site, form: dict[str, Any]) -> None:
    before = site.v2.commit_index
    answer = site.set(TYPO, **form)
    told = json.loads(answer.body)
    assert (answer.status, told["errorCode"], told["message"]) == (400, 209, "Invalid field")
    assert told["cause"].startswith("network config: Backend.Type: no backend 'host-gateway' is admitted; ")
    assert told["index"] == site.v2.machine.tree.index > 0
    assert site.v2.commit_index == before, "nothing was proposed"


def test_a_good_config_is_written_in_both_apis(site: Site) -> None:
    assert site.set(GOOD).status == 201
    assert site.set(GOOD, prevValue=GOOD).status == 200
    assert site.set(GOOD, key="/kube-centos/network/config").status == 201
    assert site.put(GOOD) == (codes.OK, "")
    assert site.txn(pb.TxnRequest(success=[op(GOOD)])) == (codes.OK, "")
    assert site.lines.lines == []


def test_what_is_no_config_is_not_looked_at(site: Site) -> None:
    for key in ("/coreos.com/network", "/coreos.com/network/config/x", "/other/config", "/config"):
        assert site.set(TYPO, key=key, method="POST").status == 201
        assert site.put(TYPO, key) == (codes.OK, "")
        assert site.txn(pb.TxnRequest(success=[op(TYPO, key)]))[0] == codes.OK
    site = Site("/coreos.com/network")
    assert site.set(None, dir="true").status == 201, "a directory has no value"


def test_a_refresh_keeps_the_value_and_passes(site: Site) -> None:
    assert site.set(GOOD, ttl=60).status == 201
    assert site.set(None, refresh="true", prevExist="true", ttl=60).status == 200
    assert site.set(None, prevExist="true", ttl=60).status == 400, "this one sets it to an empty value"


def test_a_put_is_refused(site: Site) -> None:
    before = site.v3.member.proposed
    status, text = site.put(TYPO)
    assert status == codes.INVALID_ARGUMENT
    assert text.startswith("network config: Backend.Type: no backend 'host-gateway' is admitted; ")
    assert site.v3.member.proposed == before
    assert site.put(GOOD)[0] == codes.OK
    assert site.put("", ignore_value=True)[0] == codes.OK


@pytest.mark.parametrize(
    "request_",
    [
        pb.TxnRequest(success=[op(TYPO)]),
        pb.TxnRequest(failure=[op(GOOD, "/a"), op(TYPO)]),
        pb.TxnRequest(success=[op(TYPO, lease=0, prev_kv=True)]),
        pb.TxnRequest(success=[pb.RequestOp(request_txn=pb.TxnRequest(failure=[op(GOOD, "/a"), op("{}")]))]),
    ],
)
def test_a_transaction_that_might_write_it_is_refused(site: Site, request_: pb.TxnRequest) -> None:
    before = site.v3.member.proposed
    status, text = site.txn(request_)
    assert status == codes.INVALID_ARGUMENT
    assert text.startswith("network config: ")
    assert site.v3.member.proposed == before


def test_without_prefixes_whatever_is_sent_is_written() -> None:
    site = Site()
    assert site.set(TYPO).status == 201
    assert site.put(TYPO)[0] == codes.OK
    assert site.txn(pb.TxnRequest(success=[op(TYPO)]))[0] == codes.OK


def test_warnings_are_logged_at_a_bounded_rate(site: Site) -> None:
    for _ in range(5):
        assert site.set(OLD).status in (200, 201)
        assert site.put(OLD)[0] == codes.OK
    site.clock.now += 2 * 10**9  # type: ignore[assignment]
    site.put(OLD, "/kube-centos/network/config")
    assert [(event, fields["config"], fields["not_logged"]) for event, fields in site.lines.lines] == [
        ("network_config_warning", KEY, 0),
        ("network_config_warning", "/kube-centos/network/config", 9),
    ]
    assert "Backend: not given, which means udp" in site.lines.lines[0][1]["warnings"]


def test_many_large_configs_in_one_request_are_refused_unread(site: Site) -> None:
    large = GOOD + " " * (MAX_WRITTEN_BYTES // 2 - len(GOOD))
    keys = KEY, "/kube-centos/network/config"
    assert site.txn(pb.TxnRequest(success=[op(large, key) for key in keys]))[0] == codes.OK
    status, text = site.txn(pb.TxnRequest(success=[op(large + " ", key) for key in keys]))
    assert (status, text.partition(";")[0]) == (codes.INVALID_ARGUMENT, "network config: document: too long")


class TestSchemas:
    @pytest.fixture
    def site(self) -> Site:
        return Site("/coreos.com/network", mine=Plugin("mine", schema=SCHEMA), free=Plugin("free"))

    def config(self, port: object, kind: str = "mine") -> str:
        return json.dumps({"Network": "10.1.0.0/16", "Backend": {"Type": kind, "port": port}})

    def test_the_schema_of_a_plugin_is_checked_beside_the_loop(self, site: Site) -> None:
        answer = site.set(self.config("one"))
        assert not answer.status, "it is not answered yet"
        site.settle()
        assert json.loads(answer.body)["cause"].startswith(
            "network config: Backend.Port: 'one' is not of type 'integer'; correct it by the schema"
        )
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

    def test_so_many_checks_wait_and_no_more(self, site: Site) -> None:
        answers = [site.set(self.config(1)) for _ in range(MOST_WAITING + 1)]
        assert [answer.status for answer in answers] == [0] * MOST_WAITING + [500]
        assert b"too many requests" in answers[-1].body
        for _ in answers[:-1]:
            site.settle()
        assert {answer.status for answer in answers[:-1]} == {200, 201}

    def test_a_check_that_fails_is_told_and_logged(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(networks_module, "_finish", fail)
        answer = site.set(self.config(1))
        site.settle()
        site.settle()
        assert answer.status == 500
        assert [event for event, _ in site.lines.lines] == ["schema_not_checked"]
        assert "ZeroDivisionError" in site.lines.lines[0][1]["error"]


def test_a_type_that_is_not_known_here_yet_is_read_about(site: Site) -> None:
    site.lags = True
    exchange = site.set(TYPO)
    assert exchange.status == 0
    site.admitted["host-gateway"] = Plugin("host-gateway")
    site.reads.pop()(None)
    assert exchange.status == 201
    del site.admitted["host-gateway"]
    exchange = site.set(TYPO)
    site.reads.pop()(None)
    assert (exchange.status, b"no backend 'host-gateway'" in exchange.body) == (400, True)
    exchange = site.set(TYPO)
    site.reads.pop()(errors.timed_out())
    assert exchange.status >= 500
    site.set(GOOD)
    assert site.reads == [], "nothing else is read about"
