"""No command ends with status 0 when something it was asked for could not be read or done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import pytest

from netstore.cli import netstorectl
from netstore.cli.commands.failures import Exit, Failure
from tests.cli.commands.conftest import DEAD, answering, http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.commands.conftest import Run

WORDS: Final = {
    "doctor": ("--config-file", "/nonexistent"),
    "key get": ("/a",),
    "key ls": ("/",),
    "key mk": ("/a", "1"),
    "key mkdir": ("/a",),
    "key rm": ("/a",),
    "key rmdir": ("/a",),
    "key set": ("/a", "1"),
    "key watch": ("/a",),
    "member add": ("http://127.0.0.1:2380",),
    "member promote": ("7",),
    "member rm": ("--yes", "7"),
    "member token": ("--data-dir", "/nonexistent"),
    "member update": ("7", "http://127.0.0.1:2380"),
    "move-leader": ("7",),
    "network check": (),
    "network set": ('{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}',),
    "plugin fetch": ("x", "-"),
    "plugin retire": ("x",),
    "plugin show": ("x",),
    "route diff": ("--socket", "/nonexistent"),
    "subnet drain": ("--yes", "192.0.2.1"),
    "subnet history": ("10.1.5.0/24",),
    "subnet move": ("10.1.5.0/24", "10.1.6.0/24"),
    "subnet release": ("--yes", "10.1.5.0/24"),
    "subnet renew": ("10.1.5.0/24",),
    "subnet reserve": ("--public-ip", "192.0.2.1", "10.1.5.0/24"),
    "subnet show": ("10.1.5.0/24",),
}
"""What to give each command; any word for each argument of those that are not here."""

ASKS_NOBODY: Final = {"completion"}


def commands(group: click.Command = netstorectl.cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands, by the words that name them."""
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            yield from commands(command, (*path, name))
    elif path[0] not in ASKS_NOBODY:
        yield path


def words_of(path: tuple[str, ...]) -> tuple[str, ...]:
    """The command line of a command."""
    given = WORDS.get(" ".join(path))
    if given is not None:
        return (*path, *given)
    command: click.Command = netstorectl.cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    needed = [each for each in command.params if isinstance(each, click.Argument) and each.required]
    return (*path, *("x" for _ in needed))


def test_the_table_names_commands_that_are_there() -> None:
    assert set(WORDS) <= {" ".join(path) for path in commands()}


@pytest.mark.parametrize("path", [*commands()], ids=" ".join)
def test_nobody_answers(run: Run, path: tuple[str, ...]) -> None:
    told = run("--endpoints", DEAD, "--timeout", "1", *words_of(path))
    assert told.status != 0, told.out
    assert told.err, "it says why"
    assert told.err.count(DEAD) <= 1, "an endpoint is told once"
    assert "Error(" not in told.err, "no Python exception reaches a user"


@pytest.mark.parametrize("path", [*commands()], ids=" ".join)
def test_something_else_answers(run: Run, path: tuple[str, ...]) -> None:
    with answering(lambda _: http("200 OK", "<html>a web server</html>")) as url:
        told = run("--endpoints", url, "--timeout", "2", *words_of(path))
    assert told.status != 0, told.out
    assert told.err


@pytest.mark.parametrize("words", ["status", "endpoint health", "endpoint status", "doctor"])
def test_one_endpoint_of_two_does_not_answer(run: Run, store: str, words: str) -> None:
    told = run("--endpoints", f"{store},{DEAD}", "--timeout", "2", *words.split())
    assert told.status != 0
    assert DEAD in told.err + told.out


def test_the_network_could_not_be_read(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise Failure(Exit.UNAVAILABLE, "the network: not readable")

    monkeypatch.setattr("netstore.cli.commands.invocation.Settings.ask_network", unreadable)
    told = run("--endpoints", store, "status")
    assert told.status == 4
    assert "the network: not readable" in told.err


def test_a_file_cannot_be_read(run: Run, tmp_path: Path) -> None:
    for words in (("network", "check", str(tmp_path / "none")), ("network", "set", str(tmp_path / "none"))):
        told = run("--endpoints", DEAD, *words)
        assert told.status == 1
        assert "No such file or directory" in told.err
