"""Commands of the operator: their time, their output, and what is left of them."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path

import pytest
import trio
from netstore_plugins.command import Failed, run

from tests.support.patience import seconds, until

LONG = 60.0
ENVIRONMENT = {"PATH": os.environ["PATH"], "COLOUR": "blue"}


async def told(command: str, *, stdin: bytes = b"\n", limit: int = 100_000) -> bytes:
    return await run(command, ENVIRONMENT, stdin, seconds(LONG), limit)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or it is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "XZ"
    except FileNotFoundError:
        return True


def all_gone(pids: Path) -> None:
    """Wait until the processes whose numbers are in the file are gone."""
    for pid in pids.read_text().split():
        until(lambda pid=pid: is_gone(int(pid)), f"process {pid} is gone")  # type: ignore[misc] # a lambda's default has no type


async def exists(path: Path) -> None:
    """Wait until there is such a file."""
    await trio.to_thread.run_sync(until, path.exists, f"{path} exists")


@pytest.mark.trio
async def test_a_shell_runs_it_with_input_and_environment_and_both_outputs_are_one() -> None:
    assert await told('read line; echo "$line $COLOUR" | tr a-z A-Z; echo two >&2', stdin=b"sky\n") == (
        b"SKY BLUE\ntwo\n"
    )


@pytest.mark.trio
async def test_it_has_nothing_but_the_environment_it_is_given() -> None:
    names = {line.partition(b"=")[0] for line in (await told("env")).splitlines()}
    assert names - {b"PWD", b"SHLVL", b"_", b"OLDPWD"} == {b"PATH", b"COLOUR"}


@pytest.mark.trio
async def test_input_and_output_may_be_longer_than_a_pipe_holds() -> None:
    data = bytes(range(97, 123)) * 20_000
    assert await told("cat", stdin=data, limit=len(data)) == data


@pytest.mark.trio
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo no such peer; exit 3", "^ended with 3: no such peer$"),
        ("exit 1", "^ended with 1$"),
        ("kill -TERM $$", "^was ended by SIGTERM$"),
        ("/nonexistent/program", "^ended with 127: .*not found"),
        (r"printf 'a\033[31mb'; exit 1", "^ended with 1$"),
    ],
)
async def test_a_failure_is_told_in_words_with_the_end_of_the_output(command: str, words: str) -> None:
    with pytest.raises(Failed, match=words):
        await told(command)


@pytest.mark.trio
async def test_only_the_end_of_a_long_output_is_told() -> None:
    with pytest.raises(Failed) as caught:
        await told("seq 1 2000; exit 1")
    assert len(str(caught.value)) < 250
    assert str(caught.value).endswith(" 1999 2000")


@pytest.mark.trio
async def test_endless_output_is_cut_off() -> None:
    with pytest.raises(Failed, match="printed more than 1000 bytes"):
        await told("yes", limit=1000)


@pytest.mark.trio
@pytest.mark.parametrize("count", [1000, 1001])
async def test_output_of_just_the_limit_is_taken(count: int) -> None:
    command = f"head -c {count} /dev/zero"
    if count > 1000:
        with pytest.raises(Failed, match="more than 1000"):
            await told(command, limit=1000)
    else:
        assert await told(command, limit=1000) == bytes(count)


@pytest.mark.trio
async def test_a_command_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; echo waiting; wait"
    for limit in (0.5, 2.0, 8.0, 32.0):  # on a slow machine the first may be over before the shell has begun
        with pytest.raises(Failed, match=rf"did not end within {limit:g} s and was killed"):
            await run(command, ENVIRONMENT, b"", limit, 1000)
        if pids.exists():
            break
    all_gone(pids)


@pytest.mark.trio
async def test_a_call_that_is_cancelled_kills_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told, f"sleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait")
        await exists(pids)
        nursery.cancel_scope.cancel()
    all_gone(pids)


@pytest.mark.trio
async def test_a_process_that_is_left_behind_does_not_hold_up_the_call_and_lives_on(tmp_path: Path) -> None:
    released = tmp_path / "go"
    done = tmp_path / "done"
    script = f"(while [ ! -e {released} ]; do sleep 0.02; done; touch {done}) & echo started"
    assert await told(script) == b"started\n"
    assert not done.exists()
    released.touch()
    await exists(done)


def held() -> int:
    """Pipes, files in memory and handles of processes that are open: what a command needs."""
    kinds, found = ("pipe:", "/memfd:", "anon_inode:[pidfd]"), 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(each.readlink()).startswith(kinds)
    return found


@pytest.mark.trio
async def test_no_file_descriptor_is_left_open() -> None:
    gc.collect()  # what earlier tests have left is not closed meanwhile
    before = held()
    for command in ("true", "false", "yes"):
        try:
            await told(command, limit=100)
        except Failed:
            assert command != "true"
    assert held() == before
