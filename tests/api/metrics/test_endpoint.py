"""The endpoints for collectors."""

from __future__ import annotations

import json
import subprocess

import pytest

from netstore.api.metrics.endpoint import MOST_WAITING, Variables
from netstore.errors import too_many
from netstore.net.exchange import Request
from tests.support.local_member import RecordedExchange
from tests.support.metered import Metered, values, watched
from tests.support.profiled import profiled


def asked(metered: Metered, method: bytes = b"GET", principal: str = "10.0.0.9") -> RecordedExchange:
    exchange = RecordedExchange(Request(method, b"/metrics"), principal=principal)
    metered.metrics(exchange)
    return exchange


def test_a_scrape_is_made_in_steps_and_shared_by_who_asks_meanwhile() -> None:
    metered = Metered()
    first, second = asked(metered), asked(metered)
    jobs = metered.solo.host.jobs
    assert len(jobs) == 1
    steps = 0
    while len(jobs):
        assert not first.status
        jobs.run(1)
        steps += 1
    assert steps > 1
    assert first.status == second.status == 200
    assert first.body == second.body
    assert b"text/plain; version=0.0.4" in first.fields
    assert values(first.body.decode())["etcd_server_has_leader"] == 1
    assert not asked(metered).status, "the next one is made anew"


def test_who_goes_away_is_not_answered_and_others_are() -> None:
    metered = Metered()
    gone, stays = asked(metered), asked(metered)
    gone.hang_up()
    while len(metered.solo.host.jobs):
        metered.solo.host.jobs.run(1)
    assert (gone.status, stays.status) == (0, 200)


def test_one_client_leaves_room_for_others() -> None:
    metered = Metered()
    jobs = metered.solo.host.jobs
    flood = [asked(metered, principal="10.0.0.8") for _ in range(MOST_WAITING)]
    refused = [each for each in flood if each.status == 503]
    assert len(refused) == MOST_WAITING // 2
    scraper = asked(metered, principal="10.0.0.9")
    gone = next(each for each in flood if not each.status)
    gone.hang_up()
    while len(jobs):
        jobs.run(1)
    assert scraper.status == 200
    assert sum(each.status == 200 for each in flood) == MOST_WAITING // 2 - 1
    again = [asked(metered, principal="10.0.0.8") for _ in range(MOST_WAITING // 2)]
    assert not any(each.status for each in again), "all places were given back"


def test_more_than_may_wait_are_refused() -> None:
    metered = Metered()
    waiting = [asked(metered, principal=f"10.0.0.{number}") for number in range(MOST_WAITING)]
    assert asked(metered, principal="10.0.1.1").status == 503
    while len(metered.solo.host.jobs):
        metered.solo.host.jobs.run(1)
    assert {each.status for each in waiting} == {200}


def test_a_refused_job_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    metered = Metered()
    with monkeypatch.context() as patch:
        patch.setattr(metered.solo.host.jobs, "start", lambda *_: too_many())
        assert {asked(metered).status for _ in range(2 * MOST_WAITING)} == {503}
    assert not asked(metered).status


def test_the_head_alone_may_be_asked_for() -> None:
    metered = Metered()
    exchange = asked(metered, b"HEAD")
    while len(metered.solo.host.jobs):
        metered.solo.host.jobs.run(1)
    assert exchange.status == 200


def test_other_methods_are_refused() -> None:
    assert asked(Metered(), b"POST").status == 405


def test_a_scrape_costs_the_same_whatever_is_watched() -> None:
    metered = Metered()
    metered.exposition()
    with profiled() as few:
        before = metered.exposition()
    watched(metered, 1_000)
    with profiled() as many:
        after = metered.exposition()
    assert values(after)["etcd_debugging_mvcc_watcher_total"] == 1_000
    assert len(after.splitlines()) == len(before.splitlines())
    assert sum(many.values()) <= sum(few.values()) * 1.02


@pytest.mark.peer("promtool")
def test_promtool_finds_nothing_but_names_that_are_those_of_etcd() -> None:
    done = subprocess.run(
        ("promtool", "check", "metrics"),
        input=Metered().exposition(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr  # 3: remarks about names
    remarks = (done.stdout + done.stderr).splitlines()
    assert [line for line in remarks if not line.startswith("etcd_")] == []
    assert all(line.endswith('non-counter metrics should not have "_total" suffix') for line in remarks)


def test_the_variables_are_a_document_of_the_process_and_of_raft() -> None:
    metered = Metered()
    exchange = RecordedExchange(Request(b"GET", b"/debug/vars"))
    Variables(metered.sources)(exchange)
    document = json.loads(exchange.body)
    assert document["file_descriptor_limit"] > 0
    assert len(document["cmdline"]) == 1
    assert document["memstats"]["MaxResident"] > 1_000_000
    assert document["raft.status"]["raftState"] == "StateLeader"
    assert document["raft.status"]["lead"] == document["raft.status"]["id"] == "7"
