"""Lines that compare two stores, and the command that prints them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from contrib.bench import __main__ as bench_main
from contrib.bench import cluster, compare, h2load, history, lists, single, soak
from contrib.bench.__main__ import PARTS
from contrib.bench.report import Row, Table
from contrib.bench.stores import beside, in_turn
from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import ROOT, start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def sample(rate: float, cpu: float) -> compare.Sample:
    """One round."""
    return {"calls": rate, "per_second": rate, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": cpu}


def test_a_ratio_is_the_median_of_pairs_and_says_how_far_they_are_apart() -> None:
    figures = {
        "netstored": [sample(100, 10), sample(300, 10), sample(200, 20)],
        "etcd": [sample(100, 20), sample(100, 10), sample(100, 10)],
    }
    row = compare.load_row("put", figures, "a note")
    assert (
        dict(zip(compare.load_columns(["netstored", "etcd"]), row.cells, strict=False))["netstored/s"]
        == "200"
    )
    assert "2.00 (1.00-3.00)" in row.cells
    assert "1.00 (0.50-2.00)" in row.cells
    assert row.ratios == {"rate": 2.0, "p50": 1.0, "p99": 1.0, "cpu": 1.0}
    assert len(row.cells) == len(compare.load_columns(["netstored", "etcd"]))


def test_what_there_should_be_less_of_is_compared_the_other_way() -> None:
    row = compare.value_row("restart", {"netstored": [2.0], "etcd": [4.0]}, "s", "")
    assert row.cells == ("2.0 s", "4.0 s", "2.00")
    assert row.ratios == {"value": 2.0}


def test_each_store_is_first_in_every_other_round() -> None:
    assert [in_turn(["netstored", "etcd"], number)[0] for number in range(3)] == ["etcd", "netstored", "etcd"]


def test_rows_that_share_a_note_are_told_it_once() -> None:
    shared = (Row("a", ("1",), "same"), Row("b", ("2",), "same"), Row("c", ("3",)))
    assert Table("t", "n", ("x",), shared, {}).text().splitlines()[-1] == "  - all: same"
    several = Table("t", "n", ("x",), (*shared, Row("d", ("4",), "own")), {})
    assert several.text().splitlines()[-2:] == ["  - a; b: same", "  - d: own"]


def test_every_load_says_whom_it_flatters() -> None:
    loads = (*single.LOADS, *lists.LOADS, *cluster.LOADS)
    assert [load.name for load in loads if not load.note] == []
    assert [name for name, *_, note in single.V2 if not note] == []


def test_rows_of_lists_say_which_netstored_keeps() -> None:
    whole = [load for load in lists.LOADS if load.name.startswith(("list", "page"))]
    assert whole
    assert [load.name for load in lists.LOADS if lists._KEPT in load.note] == [load.name for load in whole]


TOLD = (
    "requests: 10 total, 12 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout\n"
    "status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx\n"
    "traffic: 1.65KB (1726) total, 1.48KB (1553) headers (space savings 12.90%), 120B (120) data\n"
)


def test_calls_that_were_refused_are_no_successes() -> None:
    h2load.check(TOLD, 12, "put")
    with pytest.raises(RuntimeError, match="put: 10 calls, 120 bytes, 13 for each"):
        h2load.check(TOLD, 13, "put")
    with pytest.raises(RuntimeError, match="put:"):
        h2load.check(TOLD.replace("0 errored", "1 errored"), 12, "put")
    with pytest.raises(RuntimeError, match="put:"):
        h2load.check("Segmentation fault", 0, "put")


def test_an_answer_is_as_long_as_those_that_h2load_counts(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as store:
        assert h2load.answer_bytes(store.url, single.LOADS[0]) > 5 + len(pb.PutResponse().SerializeToString())
        refused = dataclasses.replace(single.LOADS[0], request=pb.PutRequest())
        with pytest.raises(RuntimeError, match="refused"):
            h2load.answer_bytes(store.url, refused)


def test_an_etcd_of_another_place_is_started(tmp_path: Path) -> None:
    program = tmp_path / "etcd"
    program.write_text('#!/bin/sh\necho "$0" "$@" >&2\nexit 3\n')
    program.chmod(0o755)
    with pytest.raises(AssertionError, match=f"status 3.*\n.*{program}"):
        beside(None, str(program)).one["etcd"](tmp_path)


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    return subprocess.run(
        (sys.executable, "-m", "contrib.bench", *words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )


def test_a_soak_needs_two_keys() -> None:
    words = (sys.executable, "-m", "contrib.bench.soak", "--keys", "1")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds(60))
    assert done.returncode == 2
    assert "--keys: 2 or more" in done.stderr


@pytest.mark.parametrize("module", [history, soak])
def test_help_keeps_its_lines(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        module.main()
    assert (module.__doc__ or "").strip() in capsys.readouterr().out


def test_a_checkout_with_changes_has_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"status": " M README.md", "rev-parse": "abc"}
    monkeypatch.setattr(bench_main, "_said", lambda *words: said[words[3]])
    assert bench_main._commit(ROOT) == "abc+"
    said["status"] = ""
    assert bench_main._commit(ROOT) == "abc"


def test_help_names_every_part() -> None:
    told = bench("--help").stdout
    assert [part for part in PARTS if part not in told] == []


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("nothing",), 2, "no part named nothing"),
        (("kube", "--against", "/"), 2, "holds no checkout"),
        (("growth", "--against", str(ROOT)), 2, "does not measure growth"),
        (("kube", "--etcd", "/none/etcd"), 2, "is no program"),
        (("kube", "--etcd", sys.executable), 2, "is no etcd"),
        (("restart", "--restart-keys", "x"), 2, "argument --restart-keys: invalid list of numbers"),
        (("growth", "--keys", "10,0"), 2, "argument --keys: invalid list of numbers"),
        (("large", "--gib", "0"), 2, "argument --gib: invalid number above 0"),
        (("large", "--gib", "1e9"), 2, "--gib: 1,000,000,000 GiB of data need 4,000,000,000 GiB free in "),
        (("kube", "--rounds", "0"), 2, "argument --rounds: invalid number of 1 or more"),
        (("growth", "--folder", "/none"), 2, "--folder: /none is no folder"),
        (("growth", "--json", "/none/file"), 2, "--json: "),
        (("growth", "--svg", "/none/file"), 2, "--svg: "),
        (("single", "--only", "nothing"), 2, "--only: no load has nothing in its name"),
        (("kube", "--etcd", "x", "--against", "y"), 2, "not allowed with"),
    ],
)
def test_what_cannot_be_measured_is_said(words: tuple[str, ...], status: int, text: str) -> None:
    done = bench(*words)
    assert done.returncode == status
    assert text in done.stderr
