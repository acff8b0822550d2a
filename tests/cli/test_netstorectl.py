"""The program as a process: exit status, pipes, terminals, interruption, start-up, the manual's examples."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest

from netstore import __version__
from netstore.cli import netstorectl
from netstore.cli.commands.failures import Exit, Failure
from netstore.cli.commands.options import SHARED_OPTIONS, Command, Group
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (sys.executable, "-m", "netstore.cli.netstorectl")
DEAD: Final = "http://127.0.0.1:1"
SECONDS: Final = 30.0
"""Bound on every process here; none is waited out."""


def surroundings(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without what would change the program's answers."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("NETSTORE_", "ETCDCTL_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **(more or {})}


def program(
    *words: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        (*PROGRAM, *words),
        input=stdin,
        capture_output=True,
        env=surroundings(environment),
        timeout=seconds(SECONDS),
        check=False,
    )


@pytest.fixture(scope="module", params=[pytest.param("etcd", marks=pytest.mark.peer), "netstored"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    start = start_etcd if request.param == "etcd" else start_netstored
    with start(tmp_path_factory.mktemp(request.param)) as daemon:
        yield daemon.url


# What it ends with


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--help",), 0),
        (("-h",), 0),
        (("--version",), 0),
        (("key", "watch", "-h"), 0),
        ((), 2),
        (("key",), 2),
        (("nonsense",), 2),
        (("key", "nonsense"), 2),
        (("key", "get"), 2),
        (("key", "get", "/a", "/b"), 2),
        (("--output", "yaml", "key", "ls"), 2),
        (("key", "rm", "--with-index", "x", "/a"), 2),
        (("--json",), 2),
        (("--json", "key", "ls"), 2),
        (("--endpoints", DEAD, "--ca-file", "/nonexistent.pem", "key", "ls"), 2),
        (("key", "ls", "--endpoints", DEAD, "--key-file", "/nonexistent.pem"), 2),
        (("--endpoints", DEAD, "key", "ls"), 4),
    ],
)
def test_status_and_that_errors_are_short(words: tuple[str, ...], status: int) -> None:
    told = program(*words)
    assert told.returncode == status
    assert b"Traceback" not in told.stderr
    if status:
        assert told.stdout == b""
    if status and words not in ((), ("key",)):
        assert told.stderr.startswith(b"netstorectl: ")
        assert told.stderr.count(b"\n") == 1


def test_every_status_is_in_the_manual() -> None:
    text = (ROOT / "man" / "netstorectl.1").read_text()
    section = text.partition(".Sh EXIT STATUS\n")[2].partition("\n.Sh ")[0]
    assert {int(number) for number in re.findall(r"^\.It (\d+)$", section, re.MULTILINE)} == set(Exit)


def test_version_is_the_packages() -> None:
    assert program("--version").stdout.decode() == f"netstorectl {__version__}\n"


def test_a_defect_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_settings: object, *_more: object) -> None:
        raise ZeroDivisionError("division by\nzero")

    monkeypatch.setattr("netstore.cli.commands.invocation.Settings.ask", broken)
    assert netstorectl.run(["key", "ls"]) == 70
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(
        r"netstorectl: defect, please report it: ZeroDivisionError at test_netstorectl.py:\d+: "
        r"division by\\nzero\n",
        told.err,
    )


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("several", [KeyboardInterrupt()]), 130),
        (BaseExceptionGroup("several", [BaseExceptionGroup("inner", [KeyboardInterrupt()])]), 130),
        (ExceptionGroup("several", [ValueError("x")]), 70),
        (Failure(Exit.UNKNOWN, "x"), 5),
    ],
)
def test_whatever_is_raised_becomes_a_status(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int
) -> None:
    def broken(_settings: object, *_more: object) -> None:
        raise raised

    monkeypatch.setattr("netstore.cli.commands.invocation.Settings.ask", broken)
    assert netstorectl.run(["key", "ls"]) == status


# What it costs


def test_help_and_usage_errors_load_nothing_slow() -> None:
    script = (
        "import sys\n"
        "from netstore.cli.netstorectl import run\n"
        "for words in ['--help'], ['key', 'watch', '--help'], ['key', 'get'], ['completion', 'bash']:\n"
        "    run(words)\n"
        "print(sorted({'trio', 'httpx', 'rich', 'ssl', 'json.tool'} & set(sys.modules)), file=sys.stderr)\n"
    )
    told = subprocess.run(
        (sys.executable, "-c", script),
        capture_output=True,
        env=surroundings(),
        timeout=seconds(SECONDS),
        check=True,
    )
    assert told.stderr.splitlines()[-1] == b"[]"


def test_rich_is_loaded_for_tables_only(store: str) -> None:
    script = (
        "import sys\n"
        "from netstore.cli.netstorectl import run\n"
        f"run(['--endpoints', {store!r}, '-o', sys.argv[1], 'subnet', 'ls'])\n"
        "print('rich' in sys.modules, file=sys.stderr)\n"
    )
    for form, loaded in (("plain", b"False\n"), ("json", b"False\n"), ("table", b"True\n")):
        told = subprocess.run(
            (sys.executable, "-c", script, form),
            capture_output=True,
            env=surroundings(),
            timeout=seconds(SECONDS),
            check=True,
        )
        assert told.stderr == loaded


# Pipes


def test_a_reader_that_has_gone_is_no_error(store: str) -> None:
    end, beginning = os.pipe()
    os.close(end)
    try:
        told = subprocess.run(
            (*PROGRAM, "--endpoints", store, "status"),
            stdout=beginning,
            stderr=subprocess.PIPE,
            env=surroundings(),
            timeout=seconds(SECONDS),
            check=False,
        )
    finally:
        os.close(beginning)
    assert (told.returncode, told.stderr) == (141, b"")


@pytest.mark.parametrize("words", [("--help",), ("status",), ("key", "set", "/full", "value")])
def test_an_answer_that_does_not_fit_is_told(store: str, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run(
            (*PROGRAM, "--endpoints", store, *words),
            stdout=full,
            stderr=subprocess.PIPE,
            env=surroundings(),
            timeout=seconds(SECONDS),
            check=False,
        )
    assert (told.returncode, told.stderr) == (
        1,
        b"netstorectl: standard output: No space left on device\n",
    )


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}])
def test_a_locale_that_cannot_show_a_value_changes_no_byte_of_it(
    store: str, environment: dict[str, str]
) -> None:
    value = "grüße €"
    told = program("--endpoints", store, "key", "set", "/locale/€", value, environment=environment)
    assert (told.returncode, told.stdout) == (0, f"{value}\n".encode())
    listed = program("--endpoints", store, "key", "ls", "/locale", environment=environment)
    assert listed.returncode == 0
    assert listed.stdout in ("/locale/€\n".encode(), b"/locale/\\u20ac\n")


# Terminals


def on_a_terminal(words: Sequence[str], columns: int = 60) -> tuple[int, str]:
    """Run the program with its output on a terminal of its own: status, and what the terminal got."""
    control, terminal = pty.openpty()
    with subprocess.Popen(
        (*PROGRAM, *words),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.STDOUT,
        env=surroundings({"COLUMNS": str(columns), "TERM": "xterm-256color"}),
    ) as process:
        os.close(terminal)
        pieces: list[bytes] = []
        try:
            while piece := os.read(control, 65536):
                pieces.append(piece)
        except OSError:
            pass  # how Linux tells that the other side of a terminal is closed
        finally:
            os.close(control)
        status = process.wait(seconds(SECONDS))
    return status, b"".join(pieces).decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_table_of_its_width_and_no_active_bytes(store: str) -> None:
    hostile = "\x1b]0;owned\x07 \x9b31m " + "x" * 80
    assert program("--endpoints", store, "key", "set", "/tty/a", hostile).returncode == 0
    status, out = on_a_terminal(("--endpoints", store, "key", "ls", "/tty"))
    assert status == 0
    assert out.startswith("KEY ")
    assert max(map(len, out.splitlines())) <= 60
    assert out.replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07" in out


def test_a_value_on_a_terminal_is_inert_and_in_a_pipe_exact(store: str) -> None:
    value = "line\n\ttab \x1b[31m\x07 \u202e"
    program("--endpoints", store, "key", "set", "/tty/b", value)
    for words in (("key", "get", "/tty/b"), ("network", "get", "--raw", "--prefix", "/tty/net")):
        program("--endpoints", store, "key", "set", "/tty/net/config", value)
        assert program("--endpoints", store, *words).stdout.decode() == f"{value}\n"
        status, out = on_a_terminal(("--endpoints", store, *words))
        assert (status, out.expandtabs()) == (0, "line\n        tab \\x1b[31m\\x07 \\u202e\n")


# Interruption


def test_an_interrupted_watch_ends_quietly(store: str) -> None:
    with subprocess.Popen(
        (*PROGRAM, "--endpoints", store, "--debug", "key", "watch", "--forever", "/quiet"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(),
    ) as process:
        assert process.stderr is not None
        watching = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=seconds(SECONDS))
    assert b"wait=true" in watching
    assert (process.returncode, out, err) == (130, b"", b"")


def test_events_are_printed_as_they_happen(store: str) -> None:
    with subprocess.Popen(
        (*PROGRAM, "--endpoints", store, "--debug", "key", "watch", "--forever", "/live"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(),
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.readline()
        for value in ("one", "two", "three"):
            assert program("--endpoints", store, "key", "set", "/live", value).returncode == 0
            ready, _, _ = select.select([process.stdout], [], [], SECONDS)
            assert ready, "the event is told before the next one happens"
            assert process.stdout.readline().decode().split("\t")[3] == f"{value}\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=seconds(SECONDS))
    assert process.returncode == 130


# The tree of commands


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from commands(inner)


def test_every_command_takes_the_shared_options_and_explains_itself() -> None:
    for command in commands(netstorectl.cli):
        assert isinstance(command, Command | Group)
        assert command.help
        names = {name for option in command.params for name in option.opts}
        shared = {name for make in SHARED_OPTIONS for name in make(False).opts}
        assert shared <= names
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, option.name


def test_help_fits_a_terminal() -> None:
    for command in commands(netstorectl.cli):
        context = click.Context(command, info_name="netstorectl", terminal_width=80)
        assert max(map(len, command.get_help(context).splitlines())) <= 80


# The manual's examples


def examples() -> list[str]:
    text = (ROOT / "man" / "netstorectl.1").read_text()
    section = text.partition("\n.Sh EXAMPLES\n")[2].partition("\n.Sh ")[0]
    blocks = re.findall(r"^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$", section, re.MULTILINE)
    return [block.replace("\\e", "\\") for block in blocks]


def steps(block: str) -> list[tuple[str, str]]:
    """Commands of an example, each with the output shown below it."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        length = 1
        while length < len(lines) and lines[length].startswith("    "):  # goes on: output is never indented
            length += 1
        found.append(("".join(lines[:length]), "".join(lines[length:])))
    return found


@pytest.mark.peer("jq", "bash")
def test_examples_of_the_manual_do_what_it_shows(store: str, tmp_path: Path) -> None:
    shim = tmp_path / "netstorectl"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m netstore.cli.netstorectl "$@"\n')
    shim.chmod(0o755)
    shown = [step for block in examples() for step in steps(block)]
    assert len(shown) >= 10
    mark = "--next--"
    script = f"echo {mark}\n".join(f"{command}" for command, _ in shown)
    told = subprocess.run(
        ("bash", "--norc", "-c", f"exec 2>&1\n{script}"),
        cwd=tmp_path,
        env=surroundings({"NETSTORE_ENDPOINTS": store, "PATH": f"{tmp_path}:{os.environ['PATH']}"}),
        capture_output=True,
        text=True,
        timeout=seconds(2 * SECONDS),
        check=True,
    )
    seen = told.stdout.split(f"{mark}\n")
    assert len(seen) == len(shown)
    for (command, expected), out in zip(shown, seen, strict=True):
        if expected:
            assert out == expected, command
        else:
            assert not out.startswith("netstorectl:"), command


def test_a_closed_standard_output_is_told() -> None:
    done = subprocess.run(
        ("sh", "-c", f"{' '.join(PROGRAM)} key --help >&-"),
        env=surroundings(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=seconds(SECONDS),
    )
    assert done.returncode == Exit.REFUSED
    assert done.stderr == "netstorectl: standard output: is closed; open it, or write to /dev/null\n"
