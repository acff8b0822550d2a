"""Full backups over HTTP: sent as the client reads, resumed, and refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from netstore.api.admin import AdminApi, operation
from netstore.api.backup import MOST_UNSENT, PIECE_BYTES, RESUME_SECONDS, BackupApi
from netstore.api.gate import Access, Kind
from netstore.disk.backupfile import Header
from netstore.disk.closer import Closer
from netstore.errors import Fault, Reason, fault_from_text, refusal
from netstore.net.exchange import Request
from netstore.node.backup import FullCopy
from netstore.node.fullbackup import Found
from netstore.node.timekeeper import Deadlines
from tests.support.closing import held, unnamed
from tests.support.local_member import HandClock, LocalMember, RecordedExchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DATA = bytes(range(256)) * (3 * MOST_UNSENT // 256)


class Maker:
    """Makes backups when a test says so."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "backup-full.part"
        self.made = 0
        self._waiting: list[Callable[[FullCopy | Fault], None]] = []
        self.clock = HandClock()
        self.deadlines = Deadlines(self.clock)
        member = LocalMember()
        self.closer = Closer()
        self.backup = BackupApi(self, self.closer, self.deadlines.after)
        self.api = AdminApi(member, member.cluster, backup=self.backup)

    def make_full(self, done: Callable[[FullCopy | Fault], None], folder: Path | None = None) -> None:
        assert folder is None
        self._waiting.append(done)

    def finish(self, fault: Fault | None = None) -> None:
        self.made += 1
        header = Header(
            id=f"id{self.made}",
            cluster="1",
            member="2",
            name="",
            version="",
            made="",
            index=1,
            revision=1,
            compacted=-1,
            v2_index=0,
            level=1,
        )
        found = Found(header=header, size=len(DATA), digest="", records={}, nodes=0, leases=0, members=0)
        self.path.write_bytes(DATA)
        self._waiting.pop()(FullCopy(self.path, found) if fault is None else fault)

    def ask(self, query: str = "", method: str = "GET") -> RecordedExchange:
        request = Request(method.encode(), b"/netstore/backup", query.encode())
        exchange = RecordedExchange(request)
        self.api.handle(exchange)
        return exchange

    def begin(self) -> RecordedExchange:
        exchange = self.ask()
        self.finish()
        return exchange

    def pass_time(self, span: float) -> None:
        self.clock.now = type(self.clock.now)(self.clock.now + int(span * 1e9))
        self.deadlines.run_due()


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[Maker]:
    maker = Maker(tmp_path)
    yield maker
    maker.backup.close()
    maker.closer.stop()


def take_all(exchange: RecordedExchange) -> None:
    while not exchange.done:
        exchange.take()


def refused(exchange: RecordedExchange, status: int, words: str) -> bool:
    return exchange.status == status and words in json.loads(exchange.body)["message"]


def test_a_backup_is_sent_as_the_client_reads(maker: Maker) -> None:
    exchange = maker.ask()
    assert exchange.status == 0, "it is not made yet"
    maker.finish()
    assert exchange.status == 200
    assert exchange.headers["X-Netstore-Backup"] == "id1"
    assert exchange.headers["X-Netstore-Backup-Bytes"] == str(len(DATA))
    assert MOST_UNSENT <= exchange.backlog <= MOST_UNSENT + PIECE_BYTES
    assert not maker.path.exists(), "the file has no name any more"
    take_all(exchange)
    assert exchange.text == DATA


def test_a_transfer_that_broke_is_resumed(maker: Maker) -> None:
    first = maker.begin()
    first.take()
    got = len(first.text)
    first.hang_up()
    second = maker.ask(f"id=id1&from={got - 7}")
    take_all(second)
    assert first.text[: got - 7] + second.text == DATA
    third = maker.ask(f"id=id1&from={len(DATA)}")
    assert (third.status, third.text, third.done) == (200, b"", True)


def test_the_loop_does_not_wait_until_a_backup_is_freed(maker: Maker) -> None:
    first = maker.begin()
    first.hang_up()
    with held(maker.closer):
        maker.ask()
        assert unnamed(maker.path.parent) == [len(DATA)], "the thread has not come to it"
    assert unnamed(maker.path.parent) == []
    maker.finish()
    with held(maker.closer):
        maker.backup.close()
        assert unnamed(maker.path.parent) == [len(DATA)]
    assert unnamed(maker.path.parent) == []


def test_what_cannot_be_resumed_is_refused(maker: Maker) -> None:
    assert refused(maker.ask("id=id1&from=0"), 410, "no such backup to be resumed")
    first = maker.begin()
    assert refused(maker.ask("id=id1&from=0"), 409, "is being sent")
    first.hang_up()
    for offset in ("-1", "x", "", str(len(DATA) + 1), "9" * 30):
        assert refused(maker.ask(f"id=id1&from={offset}"), 400, "from: must be a number of bytes")
    assert refused(maker.ask("id=id2&from=0"), 410, "begin anew")
    second = maker.begin()
    assert second.status == 200
    second.hang_up()
    assert refused(maker.ask("id=id1&from=0"), 410, "begin anew")


def test_a_file_is_kept_for_a_time(maker: Maker) -> None:
    first = maker.begin()
    maker.pass_time(RESUME_SECONDS + 1)
    assert refused(maker.ask(), 409, "is being sent to another client"), "a transfer may take longer"
    first.hang_up()
    maker.pass_time(RESUME_SECONDS - 1)
    second = maker.ask("id=id1&from=5")
    assert second.status == 200
    take_all(second)
    maker.pass_time(RESUME_SECONDS + 1)
    assert refused(maker.ask("id=id1&from=5"), 410, "begin anew")


def test_why_there_is_none_is_told(maker: Maker) -> None:
    for fault, status, words in (
        (refusal(Reason.SNAPSHOT_BUSY), 409, "another snapshot is being made"),
        (refusal(Reason.NO_SPACE), 503, "no space left on device"),
        (fault_from_text("/var: no room for a backup"), 503, "no room for a backup"),
    ):
        exchange = maker.ask()
        maker.finish(fault)
        assert refused(exchange, status, words)


def test_a_client_that_has_gone_leaves_the_file_to_be_resumed(maker: Maker) -> None:
    exchange = maker.ask()
    exchange.room = 0
    maker.finish()
    assert maker.ask("id=id1&from=0").status == 200


def test_only_get_and_under_maintenance(maker: Maker) -> None:
    assert maker.ask(method="POST").status == 405
    assert operation(Request(b"GET", b"/netstore/backup")).accesses == (Access(Kind.MAINTENANCE),)
