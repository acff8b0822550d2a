"""What requests cost in counts: no path may be more than 3 % apart from the committed figures. Nothing
here looks at a clock.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from contrib.bench import instructions
from contrib.bench.counted import COUNT, Paths
from tests.support.daemon import ROOT
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIXED = {"a": 100.0, "b": 200.0}


def bytecodes_of(names: list[str], seed: str) -> dict[str, dict[str, float]]:
    """Counted in a process of its own, with this hash seed."""
    script = (
        "import json, sys; from contrib.bench.instructions import measure_bytecodes;"
        " print(json.dumps(measure_bytecodes(json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        (sys.executable, "-c", script, json.dumps(names)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds(300),
    )
    counted: dict[str, dict[str, float]] = json.loads(done.stdout)
    return counted


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_path_costs_more_bytecodes_than_it_may() -> None:
    committed = instructions.kept()["bytecodes"].get(instructions.version())
    if committed is None:
        pytest.skip(f"no figures for Python {instructions.version()}; `make instructions` adds them")
    counted = bytecodes_of(instructions.all_names(), seed="0")
    lines = [
        line
        for kind, figures in counted.items()
        for line in instructions.apart(figures, committed[kind], kind)
    ]
    assert lines == [], instructions.RENEW
    assert {kind: set(figures) for kind, figures in committed.items()} == {
        kind: set(figures) for kind, figures in counted.items()
    }, "a path is gone; `make instructions`"


@pytest.mark.slow
@pytest.mark.peer("valgrind")
@pytest.mark.timeout(600)
def test_no_path_costs_more_instructions_than_it_may(tmp_path: Path) -> None:
    committed = instructions.kept()["instructions"]
    if committed["build"] != instructions.build():
        pytest.skip(f"the figures are of {committed['build']}, this is {instructions.build()}")
    names = [name for name in committed["figures"] if not name.endswith((" alone", ", serializable"))]
    counted = instructions.instructions(names, tmp_path)
    assert instructions.apart(counted, committed["figures"], "instructions") == [], instructions.RENEW


def test_the_folder_to_keep_what_callgrind_wrote_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "missing", lambda *_: "no valgrind")
    folder = tmp_path / "a" / "b"
    monkeypatch.setattr(sys, "argv", ["instructions", "--keep", str(folder)])
    assert instructions.main() == 2
    assert folder.is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["instructions", "--keep", str(tmp_path / "file" / "c")])
    with pytest.raises(SystemExit):
        instructions.main()
    assert "--keep" in capsys.readouterr().err


def test_bytecodes_do_not_depend_on_the_hash_seed() -> None:
    names = ["v3 range", "v2 get"]
    assert bytecodes_of(names, seed="1") == bytecodes_of(names, seed="2")


def test_every_request_of_every_path_is_answered() -> None:
    with Paths() as paths:
        for make in paths.of.values():
            paths.run(make(COUNT // 2))


def test_a_request_without_an_answer_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Paths() as paths:
        monkeypatch.setattr(paths.member.host, "propose", lambda *_: None)
        prepared = paths.of["v3 put"](COUNT)
        with pytest.raises((AssertionError, BlockingIOError)):
            paths.run(prepared)


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ({"a": 103.0, "b": 194.2}, []),
        ({"a": 103.2, "b": 200.0}, ["a: 103 calls, +3.2% of the 100 committed"]),
        (
            {"b": 194.1},
            ["b: 194 calls, and the 200 committed let it lose the gain: run make instructions"],
        ),
        ({"c": 5.0}, ["c: 5 calls, and none committed: run make instructions"]),
    ],
)
def test_three_percent_more_is_apart(now: dict[str, float], lines: list[str]) -> None:
    assert instructions.apart(now, FIXED, "calls") == lines


@dataclasses.dataclass
class Toy:
    """A path that costs the same for each request, and something once."""

    each: int
    once: int
    settled: int = 0

    @property
    def of(self) -> dict[str, Callable[[int], Callable[[], None]]]:
        return {"toy": lambda count: lambda: self._work(self.once + self.each * count)}

    @property
    def member(self) -> Toy:
        return self

    def settle(self) -> None:
        self.settled += 1

    def run(self, prepared: Callable[[], None]) -> None:
        prepared()

    def _work(self, times: int) -> None:
        for _ in range(times):
            len(())


def test_what_a_run_costs_once_is_not_counted() -> None:
    cheap, dear = (instructions.bytecodes(Toy(each, once), "toy") for each, once in ((1, 5), (1, 500)))  # type: ignore[arg-type]  # it has what is used
    assert cheap == dear
    assert cheap[1] == 1.0
    assert instructions.bytecodes(Toy(3, 5), "toy")[1] == 3.0  # type: ignore[arg-type]  # the same


def test_functions_are_named_with_what_they_cost() -> None:
    found = instructions.by_function(Toy(2, 50), "toy")  # type: ignore[arg-type]  # as above
    assert len(found) == 1
    [(count, function)] = found
    assert function == "tests/bench/test_instructions.py Toy._work"
    assert count == instructions.bytecodes(Toy(2, 50), "toy")[0]  # type: ignore[arg-type]  # as above


def test_tracers_that_were_there_are_back() -> None:
    seen = []

    def tracer(*_: object) -> None:
        seen.append(1)

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        instructions.bytecodes(Toy(1, 1), "toy")  # type: ignore[arg-type]  # as above
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
