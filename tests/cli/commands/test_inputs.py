"""Whatever stands in the place of a file that a command reads, it is refused in words, at once."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import pytest

from tests.cli.commands.conftest import DEAD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.commands.conftest import Run

PLACES: Final = {
    "import": ("import", "{}", "--data-dir", "new"),
    "export": ("export", "{}", "--data-dir", "new"),
    "restore": ("snapshot", "restore", "{}", "--data-dir", "new"),
    "status": ("snapshot", "status", "{}"),
    "verify": ("snapshot", "verify", "{}"),
    "network check": ("network", "check", "{}"),
    "network set": ("network", "set", "{}"),
    "network migrate": ("network", "migrate", "{}"),
    "wheel": ("plugin", "admit", "{}"),
    "schema": ("plugin", "admit", "x", "--schema", "{}"),
    "ca": ("--endpoints", "https://127.0.0.1:1", "--ca-file", "{}", "key", "ls"),
    "cert": ("--endpoints", "https://127.0.0.1:1", "--cert-file", "{}", "key", "ls"),
    "doctor": ("doctor", "--config-file", "{}"),
}
"""Where a file is named -> a command line. The wheel's name ends as one."""

WORDS: Final = {
    "fifo.whl": "is a pipe",
    "socket.whl": "is a socket",
    "device.whl": "is a device",
    "folder.whl": "is a folder",
    "none.whl": "No such file or directory",
    "huge.whl": "",
}


TAKEN: Final = {"import": {"folder.whl"}, "export": {"folder.whl", "none.whl"}}
"""What has another answer there, see its own tests."""


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what `WORDS` names."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.whl")
    (tmp_path / "folder.whl").mkdir()
    (tmp_path / "device.whl").symlink_to("/dev/zero")
    with (tmp_path / "huge.whl").open("wb") as file:
        file.truncate((1 << 40) + 32)  # the size of a snapshot with a digest
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.whl")
        yield tmp_path


@pytest.mark.parametrize(
    ("place", "thing"),
    [(place, thing) for place in PLACES for thing in WORDS if thing not in TAKEN.get(place, ())],
)
def test_what_is_no_file_is_refused(run: Run, things: Path, place: str, thing: str) -> None:
    told = run("--endpoints", DEAD, "--timeout", "1", *(word.replace("{}", thing) for word in PLACES[place]))
    assert told.status in (1, 2), told.err
    assert thing in told.err + told.out
    assert WORDS[thing] in told.err + told.out
    assert "defect" not in told.err
    assert not (things / "new").exists()


def test_a_pipe_of_the_shell_is_a_file_to_check(run: Run) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}')
    os.close(writing)
    try:
        told = run("--endpoints", DEAD, "network", "check", f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert told.status == 0, told.err


@pytest.mark.parametrize("depth", [64, 500, 980, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("form", ["json", "table"])
@pytest.mark.parametrize("verb", ["check", "set"])
def test_a_config_that_is_nested_deep_is_refused_in_words(  # noqa: PLR0917 - a table of cases
    run: Run, depth: int, opening: str, closing: str, form: str, verb: str
) -> None:
    nested = opening * depth + "1" + closing * depth
    given = f'{{"Network":"10.1.0.0/16","Backend":{{"Type":"host-gw"}},"x":{nested}}}'
    told = run("--endpoints", DEAD, "-o", form, "network", verb, "-", stdin=given.encode())
    assert told.status == 1
    assert "nested deeper than 64 levels" in told.err or "bytes long" in told.err
    if form == "json" and verb == "check":
        assert told.document["problems"]
        assert told.document["config"] is None


def test_a_long_argument_is_not_repeated(run: Run) -> None:
    for given in ("[" * 100_000, "x" * 100_000):
        told = run("--endpoints", DEAD, "network", "set", given)
        assert told.status == 1
        assert len(told.err) < 600, told.err[:1000]


@pytest.mark.parametrize("place", [*PLACES])
def test_a_file_that_may_not_be_read_is_told_by_who_reads_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "f.whl").write_bytes(b"")
    real = os.open

    def forbidden(path: object, *words: int, **more: int | None) -> int:
        if str(path).endswith("f.whl"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *words, **more)  # type: ignore[arg-type] # whatever it was called with

    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(os, "open", forbidden)
    monkeypatch.chdir(tmp_path)
    told = run(
        "--endpoints", DEAD, "--timeout", "1", *(word.replace("{}", "f.whl") for word in PLACES[place])
    )
    assert "f.whl: Permission denied" in told.err + told.out or "f.whl': Permission denied" in told.out
    assert told.status == (2 if place in {"ca", "cert"} else 1)
    assert "Invalid value" not in told.err


@pytest.mark.parametrize(
    "words",
    [
        ("snapshot", "save", "{}"),
        ("snapshot", "status", "{}"),
        ("import", "{}", "--data-dir", "new"),
        ("export", "{}", "--data-dir", "new"),
        ("archive", "ls", "{}"),
        ("archive", "extract", "folder", "{}", "--to-index", "5"),
        ("member", "token", "--data-dir", "{}"),
        ("subnet", "map", "--svg", "{}"),
    ],
)
def test_a_name_that_the_system_refuses_is_told_as_that(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("netstore.cli.commands.snapshot._is_netstore", lambda _: True)
    monkeypatch.setattr("netstore.cli.commands.subnetviews.surveyed", lambda _: ([], object(), None))
    monkeypatch.setattr("netstore.cli.commands.subnetviews.mapped", lambda *_: None)
    monkeypatch.setattr("netstore.cli.commands.subnetviews.picture", lambda _: "")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0000000000000001.state").touch()
    told = run("--endpoints", DEAD, *(word.replace("{}", "n" * 300) for word in words))
    assert (told.status, "File name too long" in told.err) == (1, True), told.err
    assert told.err.startswith(f"netstorectl: {'n' * 200}"), told.err
    assert "standard output" not in told.err
