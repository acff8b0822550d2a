"""Bounds on time grow with the load of the machine, and no test sleeps where it could wait.

A call that takes a bound gets it from `tests.support.patience`, or a comment on one of its lines or above
it says why not: `# fixed: REASON`. Where trio's clock jumps (`autojump_clock`) seconds cost nothing.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest

from tests.support import patience
from tests.support.patience import Deadline, seconds, slowness, until

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS: Final = Path(__file__).resolve().parents[1]

DEMO: Final = TESTS.parent / "contrib" / "demo"
"""Runs in a test."""

SIMULATED: Final = TESTS / "sim"
"""Has a time of its own."""

FREE: Final = "# fixed: "

BOUND_AT: Final = {
    "acquire": 1,
    "alarm": 0,
    "create_connection": 1,
    "fail_after": 0,
    "join": 0,
    "move_on_after": 0,
    "result": 0,
    "setitimer": 1,
    "settimeout": 0,
    "sleep": 0,
    "wait": 0,
}
"""Where calls of these names have their bound, when it is not the argument `timeout`."""

OWN_BOUND: Final = {
    f"httpx.{name}" for name in ("Client", "delete", "get", "post", "put", "request", "stream")
}
"""Have a bound also when none is given."""

CLOCKS: Final = {"monotonic", "perf_counter", "time"}


def name_of(function: ast.expr) -> str:
    """`wait` for both `wait` and `process.wait`."""
    return getattr(function, "attr", getattr(function, "id", ""))


def bounds(node: ast.AST) -> Iterator[ast.expr]:
    """What this node gives as a bound."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.left, ast.Call):
        if name_of(node.left.func) in CLOCKS:
            yield node.right
    elif isinstance(node, ast.Call):
        given_by_name = [each.value for each in node.keywords if each.arg == "timeout"]
        if ast.unparse(node.func) in OWN_BOUND and not given_by_name:
            yield node.func
        yield from given_by_name
        name = name_of(node.func)
        place = BOUND_AT.get(name, len(node.args))
        if isinstance(node.func, ast.Attribute):
            given = node.args[place : place + 1]
            yield from (each for each in given if name not in {"alarm", "join", "wait"} or is_time(each))
    elif isinstance(node, ast.Dict):
        named = zip(node.keys, node.values, strict=True)
        yield from (value for key, value in named if isinstance(key, ast.Constant) and key.value == "timeout")


def grows(bound: ast.expr) -> bool:
    """It is made by the patience of tests, or is none."""
    if isinstance(bound, ast.Constant):
        return bound.value in (None, 0)
    return any(isinstance(each, ast.Call) and name_of(each.func) == "seconds" for each in ast.walk(bound))


def is_time(bound: ast.expr) -> bool:
    """It is a number, or named as one of seconds; `alarm`, `join` and `wait` also take other things."""
    if isinstance(bound, ast.BinOp):
        return is_time(bound.left) and is_time(bound.right)
    if isinstance(bound, ast.Constant):
        return isinstance(bound.value, int | float)
    return re.search(r"SECONDS|PATIENCE|WAIT|limit", name_of(bound), re.IGNORECASE) is not None


def jumps(function: ast.AST) -> bool:
    """Trio's clock jumps in this test."""
    if not isinstance(function, ast.AsyncFunctionDef):
        return False
    return any(each.arg == "autojump_clock" for each in function.args.args)


def rigid(path: Path) -> list[str]:
    """The bounds of a file that neither grow nor say why not."""
    text = path.read_text()
    lines = text.splitlines()
    own_wait = "    def wait(" in text  # of a clock that the test moves
    found = []

    def look(node: ast.AST) -> None:
        if jumps(node) or (own_wait and isinstance(node, ast.Call) and name_of(node.func) == "wait"):
            return
        for bound in bounds(node):
            written = "\n".join(lines[node.lineno - 2 : node.end_lineno])  # type: ignore[attr-defined]
            if not (grows(bound) or FREE in written):
                found.append(f"{path}:{bound.lineno}: {ast.unparse(bound)}")
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(text))
    return found


def test_bounds_grow() -> None:
    files = [
        path for path in sorted((*TESTS.rglob("*.py"), *DEMO.glob("*.py"))) if SIMULATED not in path.parents
    ]
    found = [line for path in files for line in rigid(path)]
    assert found == [], "give seconds(...) of tests.support.patience, or say why not: # fixed: REASON"


def test_a_rigid_bound_is_found(tmp_path: Path) -> None:
    place = tmp_path / "test_it.py"
    place.write_text(
        """
SECONDS = 3
async def test_of_a_jumping_clock(autojump_clock):
    await trio.sleep(1)
def test():
    time.sleep(1)
    time.sleep(2)  # fixed: a reason
    trio.fail_after(seconds(1))
    trio.move_on_after(3)
    process.wait(4)
    process.wait(SECONDS)
    ", ".join(words)
    thread.join(SECONDS)
    thread.join()
    subprocess.run(words, timeout=5)
    subprocess.run(words, timeout=None)
    call(**{"timeout": 6})
    end = time.monotonic() + 7
    sock.settimeout(2 * limit)
    httpx.get(url)
    httpx.get(url, timeout=seconds(8))
"""
    )
    found = [line.rpartition(": ")[2] for line in rigid(place)]
    assert found == ["1", "3", "4", "SECONDS", "SECONDS", "5", "6", "7", "2 * limit", "httpx.get"]


def test_bounds_follow_the_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = tmp_path / "loadavg"
    monkeypatch.setattr(patience, "_LOAD", load)
    monkeypatch.setattr(patience, "CORES", 2)
    load.write_text("0.10 9.00 9.00 1/300 4711\n")
    assert seconds(2) == 2 * patience.MARGIN
    load.write_text("0.10 0.00 0.00 20/300 4711\n")
    assert slowness() == 10 * patience.MARGIN, "those that run now"
    load.write_text("20.00 0.00 0.00 1/300 4711\n")
    assert seconds(2) == 20 * patience.MARGIN, "those that ran in the last minute"


def test_a_wait_goes_on_for_longer_when_the_load_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slow = [0.0], [4.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: now.__setitem__(0, now[0] + 1.0))
    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr(patience, "slowness", lambda: slow[0])
    deadline = Deadline(10)
    now[0] = 36.0
    assert not deadline.passed()
    slow[0] = 20.0
    now[0] = 55.0
    assert not deadline.passed()
    now[0] = 57.0
    assert deadline.passed()
    slow[0] = 4.0
    with pytest.raises(
        AssertionError, match=r"not within 10 s .40 s on this busy machine.: it happens; last: 0"
    ):
        until(lambda: 0, "it happens", 10)
    assert until(lambda: now[0] > 100 and "told", "it happens") == "told"
