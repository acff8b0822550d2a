"""Programs that are run for a moment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.agent import programs
from netstore.agent.programs import ProgramError, ProgramMissingError, reason, run
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.trio
async def test_input_and_output_pass() -> None:
    assert await run(("cat",), b"x" * 300_000) == b"x" * 300_000


@pytest.mark.trio
async def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETSTORE_AGENT_PASSWORD", "secret")
    monkeypatch.setenv("LD_PRELOAD", "/nothing.so")
    words = (sys.executable, "-c", "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))")
    assert await run(words) == b"['LC_ALL', 'PATH']\n"


@pytest.mark.trio
async def test_no_shell_reads_the_words() -> None:
    assert await run(("echo", "$HOME; false", "`id`")) == b"$HOME; false `id`\n"


@pytest.mark.trio
async def test_a_program_that_is_missing_is_told_with_its_package() -> None:
    with pytest.raises(
        ProgramMissingError, match="no-such-program is not installed; install the package this"
    ):
        await run(("no-such-program",), package="this")


@pytest.mark.trio
async def test_a_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(ProgramError, match="cannot be started: Permission denied"):
        await run((str(file),))


@pytest.mark.trio
async def test_a_failure_is_told_in_the_programs_words() -> None:
    with pytest.raises(ProgramError, match=r"^sh failed: it went wrong$"):
        await run(("sh", "-c", "echo it went wrong >&2; exit 3"))
    with pytest.raises(ProgramError, match=r"^sh failed: exit status 3$"):
        await run(("sh", "-c", "exit 3"))


@pytest.mark.trio
async def test_a_program_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "TIMEOUT", 0.2)
    with pytest.raises(ProgramError, match="sleep was not done within"):
        await run(("sleep", "1000"))


@pytest.mark.trio
@pytest.mark.parametrize("end", ["wait", "exit 0"])
async def test_what_a_program_started_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    file, pipe = tmp_path / "number", tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 3>{pipe}; sleep 1000 & echo $! >{file}.new; mv {file}.new {file}; {end}"
    for limit in (0.5, 2.0, 8.0, 32.0):  # on a slow machine the first may be over before the shell has begun
        monkeypatch.setattr(programs, "TIMEOUT", limit)
        with pytest.raises(ProgramError, match="sh was not done within"):
            await run(("sh", "-c", script))
        if file.exists():
            break
    number = int(file.read_text())
    try:
        with trio.fail_after(seconds(5)):
            await trio.lowlevel.wait_readable(held)  # the end of the file: nobody has it open for writing
    finally:
        os.close(held)
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.mark.trio
async def test_output_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MAX_OUTPUT_BYTES", 100_000)
    with pytest.raises(ProgramError, match="printed more than 100000 bytes"):
        await run(("head", "-c", "5000000", "/dev/zero"))
    assert len(await run(("head", "-c", "100000", "/dev/zero"))) == 100_000


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("# Warning: legacy tables\n\niptables: No chain\n", "iptables: No chain"),
        ("Error: Operation not permitted\n", "Error: Operation not permitted; the agent needs CAP_NET_ADMIN"),
        (
            "x: Permission denied (you must be root)",
            "x: Permission denied (you must be root); the agent needs",
        ),
        ("Error: Operation not supported", "the kernel may lack a module"),
        ("", "exit status 9"),
        ("a\x1b[31mb" + "c" * 1000, "a[31mb" + "c" * 194),
    ],
)
def test_reasons(told: str, text: str) -> None:
    assert text in reason(told, 9)
    assert reason(told, 9).isprintable()
