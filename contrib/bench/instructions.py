"""What requests cost in counts instead of time, compared with the committed figures.

    python -m contrib.bench.instructions [--renew] [--keep FOLDER] [PATH ...]

Fails when a path (`counted`) costs more than 3 % over `instructions.json`, or so much less that the file
would let the gain be lost; `make instructions` renews that file. Two counts, each the difference between a
run of n requests and one of 2 n, so that what a run costs once falls out:

- bytecodes: the instructions of Python's own machine, and the calls of functions written in C. They depend on
  the minor version of Python and on the locked releases of packages, and on nothing else of a machine: two
  runs agree to the last one, whatever the hash seed. They do not show what C code does within a call.
- instructions: those of the processor, by callgrind; C code is in them, the kernel is not. Two runs agree
  within 0.03 %, but they depend on how Python and the C library were built, so they are compared only where
  both are those of the file.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, Self

from contrib.bench.counted import COUNT, Paths
from contrib.bench.report import Row, Table
from tests.support.peers import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

ROOT: Final = Path(__file__).resolve().parents[2]
FILE: Final = Path(__file__).with_name("instructions.json")
MODULE: Final = "contrib.bench.instructions"
OWN: Final = str(Path(__file__).with_name("counted.py"))
"""The client is in this file; what it does is not counted as bytecodes."""

FIXED: Final = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
"""Of the environment of the process under callgrind."""

MOST: Final = 1.03
"""Times the committed figure: what a change may cost. And times the count: what may be committed."""

WARM: Final = 2
"""Runs before the first that counts: tables have grown, and caches are filled."""

Figures = dict[str, float]
"""Path -> count for each request."""


def version() -> str:
    """What bytecodes depend on."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def build() -> str:
    """What instructions depend on: the interpreter, byte by byte, and the C library."""
    library = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("LDLIBRARY"))
    file = library if library.suffix != ".a" and library.is_file() else Path(os.path.realpath(sys.executable))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    libc = " ".join(platform.libc_ver())
    return f"Python {platform.python_version()} ({digest}), {libc}, {platform.machine()}"


# --- bytecodes


class _Counter:
    """Counts while it runs something. `run` tells the bytecodes of each function apart only where that is
    asked for, which takes four times as long: the hash of a code object is made of all that is in it.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self.bytecodes = self.calls = 0
        self.functions: Counter[CodeType] = Counter()
        """Bytecodes of each; empty if they are not told apart."""
        self._apart = apart

    def run(self, call: Callable[[], None]) -> None:
        bytecodes = calls = 0

        def count(_frame: FrameType, event: str, _: object) -> None:
            nonlocal bytecodes
            if event == "opcode":
                bytecodes += 1

        def count_apart(frame: FrameType, event: str, _: object) -> None:
            if event == "opcode":
                self.functions[frame.f_code] += 1

        within = count_apart if self._apart else count

        def trace(frame: FrameType, _event: str, _: object) -> Any:
            if frame.f_code.co_filename == OWN:
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            return within

        def profile(frame: FrameType, event: str, _: object) -> None:
            nonlocal calls
            if event == "c_call" and frame.f_code.co_filename != OWN:
                calls += 1

        before, profiled = sys.gettrace(), sys.getprofile()
        sys.setprofile(profile)
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
            sys.setprofile(profiled)
        self.bytecodes, self.calls = bytecodes + self.functions.total(), calls


def bytecodes(paths: Paths, name: str) -> tuple[float, float]:
    """Bytecodes and C calls for each request."""
    _warm(paths, name)
    counted = []
    for prepared in _runs(paths, name):
        counter = _Counter()
        counter.run(prepared)
        paths.member.settle()
        counted.append(counter)
    one, two = counted
    return (two.bytecodes - one.bytecodes) / COUNT, (two.calls - one.calls) / COUNT


def by_function(paths: Paths, name: str) -> list[tuple[float, str]]:
    """The functions that a path runs, the dearest first: bytecodes for each request, file and name."""
    _warm(paths, name)
    one, two = Counter[CodeType](), Counter[CodeType]()
    for prepared, functions in zip(_runs(paths, name), (one, two), strict=True):
        counter = _Counter(apart=True)
        counter.run(prepared)
        paths.member.settle()
        functions.update(counter.functions)
    two.subtract(one)
    return sorted(
        (
            (count / COUNT, f"{_short(code.co_filename)} {code.co_qualname}")
            for code, count in two.items()
            if count > 0
        ),
        reverse=True,
    )


def _short(file: str) -> str:
    """Without the folder of the checkout or of the packages."""
    return file.removeprefix(f"{ROOT}/").rpartition("site-packages/")[2]


def _warm(paths: Paths, name: str) -> None:
    for _ in range(WARM):
        paths.run(paths.of[name](COUNT))


def _runs(paths: Paths, name: str) -> Iterator[Callable[[], None]]:
    """The smaller and the larger run. The collector runs between them only: when it would run within one is
    chance, and it is bounded apart (`netstore.collector`).
    """
    enabled = gc.isenabled()
    for number in (COUNT, 2 * COUNT):
        prepared = paths.of[name](number)
        gc.collect()
        gc.disable()
        yield prepared
        if enabled:
            gc.enable()


# --- instructions


def serve() -> None:
    """Under callgrind: for each name, say when both runs are about to begin, and when they are done."""
    gc.disable()
    with Paths() as paths:
        for line in sys.stdin:
            name = line.rstrip("\n")
            _warm(paths, name)
            for prepared in _runs(paths, name):
                print("ready", flush=True)
                sys.stdin.readline()
                prepared()
                print("done", flush=True)
                sys.stdin.readline()
                paths.member.settle()


class Callgrind:
    """A process under callgrind that counts nothing but the runs."""

    def __init__(self, folder: Path) -> None:
        self._out = folder / "callgrind.out"
        words = ("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no")
        self._process = subprocess.Popen(
            (*words, f"--callgrind-out-file={self._out}", sys.executable, "-m", MODULE, "--serve"),
            cwd=ROOT,
            env={**os.environ, **FIXED},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._dumps = 0

    def count(self, name: str) -> float:
        """Instructions for each request. What comes before the runs is not counted: it would take longer."""
        self._say(name)
        one, two = self._one(is_first=True), self._one(is_first=False)
        self._ask("instrumentation", "off")
        return (two - one) / COUNT

    def _one(self, *, is_first: bool) -> int:
        self._wait_for("ready")
        if is_first:
            self._ask("instrumentation", "on")
        self._ask("zero")
        self._say("go")
        self._wait_for("done")
        self._ask("dump")
        self._dumps += 1
        written = self._out.with_name(f"{self._out.name}.{self._dumps}").read_text()
        found = re.search(r"^summary: (\d+)", written, re.MULTILINE)
        self._say("go on")
        if found is None:
            raise RuntimeError("callgrind wrote no sum")
        return int(found[1])

    def _ask(self, *words: str) -> None:
        """By the control that valgrind has for its own processes."""
        command = ("vgdb", f"--pid={self._process.pid}", "--wait=60", *words)
        subprocess.run(command, check=True, capture_output=True, timeout=300)

    def _say(self, line: str) -> None:
        print(line, file=self._process.stdin, flush=True)

    def _wait_for(self, line: str) -> None:
        told = "" if self._process.stdout is None else self._process.stdout.readline().rstrip("\n")
        if told != line:
            raise RuntimeError(f"the counted process said {told!r}, not {line!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its pipes, and waits for its end
            pass


def instructions(names: list[str], folder: Path) -> Figures:
    """Of these paths. What callgrind wrote of each run stays in the folder, for callgrind_annotate."""
    with Callgrind(folder) as callgrind:
        return {name: callgrind.count(name) for name in names}


# --- the committed figures


def kept() -> dict[str, Any]:
    """What `instructions.json` has."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def apart(measured: Figures, committed: Figures, unit: str) -> list[str]:
    """A line for each path that costs more than it may, or so much less that the committed figure no longer
    holds the gain, or that the file does not know.
    """
    lines = []
    for name, now in measured.items():
        before = committed.get(name)
        if before is None:
            lines.append(f"{name}: {now:,.0f} {unit}, and none committed: run make instructions")
        elif now > before * MOST:
            lines.append(f"{name}: {now:,.0f} {unit}, {now / before - 1:+.1%} of the {before:,.0f} committed")
        elif before > now * MOST:
            lines.append(
                f"{name}: {now:,.0f} {unit}, and the {before:,.0f} committed let it lose the gain:"
                " run make instructions"
            )
    return lines


RENEW: Final = (
    "if that is meant, `make instructions` writes the new figures to contrib/bench/instructions.json"
)


def all_names() -> list[str]:
    """Of the paths that are counted."""
    with Paths() as paths:
        return list(paths.of)


def measure_bytecodes(names: list[str]) -> dict[str, Figures]:
    """Kind -> figures."""
    with Paths() as paths:
        counted = {name: bytecodes(paths, name) for name in names}
    return {
        "bytecodes": {name: round(each[0], 1) for name, each in counted.items()},
        "calls of C functions": {name: round(each[1], 1) for name, each in counted.items()},
    }


def _table(kind: str, measured: Figures, committed: Figures, note: str) -> Table:
    rows = []
    for name, now in measured.items():
        before = committed.get(name)
        cells = ("", "") if before is None else (f"{before:,.0f}", f"{now / before - 1:+.1%}")
        rows.append(Row(name, (f"{now:,.0f}", *cells)))
    return Table(kind, note, ("now", "committed", ""), tuple(rows), measured)


def main() -> int:
    """Count and print; 1 when the file has other figures, 2 when callgrind is asked for and not there."""
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.instructions", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a part of the names of those wanted")
    parser.add_argument("--renew", action="store_true", help="write the figures into instructions.json")
    parser.add_argument("--bytecodes", action="store_true", help="count bytecodes alone; needs no valgrind")
    parser.add_argument(
        "--functions", type=int, metavar="N", help="bytecodes of the N dearest functions of each path instead"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what callgrind writes there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    if arguments.keep is not None:
        try:
            arguments.keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--keep: {error}")
    if arguments.renew and (arguments.paths or arguments.bytecodes):
        parser.error("--renew counts all")
    if arguments.functions:
        with Paths() as paths:
            for name in paths.of:
                if any(part in name for part in arguments.paths or [""]):
                    found = by_function(paths, name)
                    print(f"{name}: {sum(count for count, _ in found):,.0f} bytecodes for each request")
                    for count, function in found[: arguments.functions]:
                        print(f"  {count:8,.1f}  {function}")
        return 0
    if not arguments.bytecodes and (reason := missing("valgrind")):
        print(f"{reason}; --bytecodes does without", file=sys.stderr)
        return 2
    names = [name for name in all_names() if any(part in name for part in arguments.paths or [""])]
    file = kept()
    counted = measure_bytecodes(names)
    lines = []
    committed = file["bytecodes"].get(version(), {})
    for kind, figures in counted.items():
        print(_table(kind, figures, committed.get(kind, {}), f"for each request; Python {version()}").text())
        lines += apart(figures, committed.get(kind, {}), kind)
    if not arguments.bytecodes:
        same = file["instructions"]["build"] == build()
        committed = file["instructions"]["figures"]
        with tempfile.TemporaryDirectory() as scratch:
            figures = instructions(names, arguments.keep or Path(scratch))
        note = f"for each request; {build()}" + (
            "" if same else f"; the file is for {file['instructions']['build']}, so they are only shown"
        )
        print(_table("instructions", figures, committed, note).text())
        lines += apart(figures, committed, "instructions") if same else []
        if arguments.renew:
            file["instructions"] = {
                "build": build(),
                "figures": {name: round(each) for name, each in figures.items()},
            }
    if arguments.renew:
        file["bytecodes"][version()] = counted
        FILE.write_text(json.dumps(file, indent=1) + "\n")
        return 0
    if lines:
        print("\n".join([*lines, RENEW]), file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
