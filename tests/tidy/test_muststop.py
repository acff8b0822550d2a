"""What a member must not survive passes every `except` clause of the rooms that run on its loop."""

from __future__ import annotations

import ast
from typing import Final

from tests.support.daemon import ROOT

ROOMS: Final = ("api", "net", "node", "raft", "watch")

WIDE: Final = {"BaseException", "Exception", "NetstoreError", "NoRestart", "CorruptData", "UnknownCommand"}
"""What `CannotApply`, `StateDamaged` and `InvariantBroken` are beside `MustStop`."""

DECODING: Final = {
    ("netstore/api/beside.py", "_work"): "checks documents in a thread, and reads no state",
    ("netstore/api/tracing.py", "write_ended"): "reads a command's bytes",
    ("netstore/net/tls.py", "_refresh"): "reads certificates",
    (
        "netstore/node/archive.py",
        "_run",
    ): "copies the state to a folder of its own, in a thread; damage shows when a copy is used",
    ("netstore/node/backup.py", "_run"): "damage that it finds is handed to the loop",
    ("netstore/node/etcdsource.py", "open_folder"): "reads an etcd's folder for a command; no member runs",
    ("netstore/node/etcdsource.py", "_is_shown_by_log"): "reads what an etcd left, in a command",
    ("netstore/node/fullbackup.py", "_restored"): "runs in a process of its own, or in a command's",
    ("netstore/node/fullbackup.py", "main"): "is a process of its own",
    ("netstore/node/membership.py", "_asked"): "reads a command's bytes",
    ("netstore/node/proposing.py", "_only_removes"): "reads a command's bytes",
    ("netstore/node/forwards.py", "take"): "reads a command's bytes",
    ("netstore/node/identity.py", "replace"): "asks other members; log and state are not open",
    ("netstore/node/inspection.py", "_payload"): "reads a command's bytes",
    ("netstore/node/recovery.py", "recover"): "handles damage found at the start, before anything is served",
}
"""Functions that need no clause for it, and why."""


def caught(clause: ast.expr | None) -> set[str]:
    """The names of the exceptions of a clause."""
    if clause is None:
        return {"BaseException"}
    if isinstance(clause, ast.Tuple):
        return set().union(*(caught(each) for each in clause.elts))
    return {ast.unparse(clause).rpartition(".")[2]}


def swallowed(source: str) -> list[tuple[str, int]]:
    """Function and line of each clause that would catch a `MustStop`: it neither comes after one that lets it
    pass, nor ends by raising it again.
    """
    found: list[tuple[str, int]] = []

    def look(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Try | ast.TryStar):
            passed = False
            for handler in node.handlers:
                last = handler.body[-1]
                again = isinstance(last, ast.Raise) and last.exc is None
                passed |= again and "MustStop" in caught(handler.type)
                if caught(handler.type) & WIDE and not passed and not again:
                    found.append((function, handler.lineno))
        for child in ast.iter_child_nodes(node):
            look(child, function)

    look(ast.parse(source), "")
    return found


def test_nothing_on_the_loop_catches_what_a_member_must_not_survive() -> None:
    found = {
        (str(path.relative_to(ROOT)), function): line
        for room in ROOMS
        for path in sorted((ROOT / "netstore" / room).rglob("*.py"))
        for function, line in swallowed(path.read_text())
    }
    assert {place: line for place, line in found.items() if place not in DECODING} == {}
    assert set(DECODING) <= set(found), "an exception that is needed no more"


def test_the_test_sees_what_swallows() -> None:
    attempt = "def f():\n  try:\n    g()\n"
    assert swallowed(f"{attempt}  except Exception as e:\n    log(e)") == [("f", 4)]
    assert swallowed(f"{attempt}  except (OSError, errors.NetstoreError):\n    pass") == [("f", 4)]
    assert swallowed(f"{attempt}  except MustStop:\n    pass\n  except Exception:\n    pass") == [("f", 6)]
    assert swallowed(f"{attempt}  except MustStop:\n    raise\n  except Exception:\n    pass") == []
    assert swallowed(f"{attempt}  except Exception:\n    h()\n    raise") == []
    assert swallowed(f"{attempt}  except OSError:\n    pass") == []
