"""The Tab key: what it offers, what it costs, and that the shipped hooks are the ones click makes."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from netstore.cli import netstorectl
from netstore.cli.commands import completion
from netstore.cli.commands.completion import MOST, VARIABLE
from netstore.cli.netstorectl import cli
from tests.cli.commands.conftest import Terminal, answering
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.commands.conftest import Run

ROOT: Final = Path(__file__).resolve().parents[3]
SHIPPED: Final = {"bash": "netstorectl.bash", "zsh": "_netstorectl", "fish": "netstorectl.fish"}


@pytest.fixture
def offers(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What bash is offered for the last of these words, by a store that is waited for."""
    monkeypatch.setattr(completion, "LIMIT", seconds(10))

    def asked(*words: str) -> list[str]:
        monkeypatch.setenv(VARIABLE, "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["netstorectl", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        told = ctl()
        monkeypatch.delenv(VARIABLE)
        assert (told.status, told.err) == (0, "")
        return [line.partition(",")[2] for line in told.out.splitlines() if line]

    return asked


def test_words_are_offered(offers: Callable[..., list[str]]) -> None:
    assert offers("") == sorted(cli.commands)
    assert {"completion", "history", "member", "subnet"} <= set(offers(""))
    assert offers("member", "") == ["add", "ls", "promote", "rm", "token", "update"]
    assert offers("key", "m") == ["mk", "mkdir"]
    assert offers("subnet", "reserve", "--pu") == ["--public-ip"]
    assert offers("-o", "") == ["table", "plain", "json"]
    assert offers("completion", "") == ["bash", "zsh", "fish"]
    assert "--endpoints" in offers("key", "ls", "--")


def test_keys_are_offered_level_by_level(offers: Callable[..., list[str]], ctl: Run, prefix: str) -> None:
    for name in ("a/x", "ab", "b", "_hidden"):
        ctl("key", "set", f"{prefix}/{name}", "1")
    assert offers("key", "get", f"{prefix}/") == [f"{prefix}/a/", f"{prefix}/ab", f"{prefix}/b"]
    assert offers("key", "rm", f"{prefix}/a") == [f"{prefix}/a/", f"{prefix}/ab"]
    assert offers("key", "watch", f"{prefix}/a/") == [f"{prefix}/a/x"]
    assert offers("key", "ls", prefix) == [f"{prefix}/"]
    assert offers("key", "get", f"{prefix}/none/") == []
    assert offers("key", "get", f"{prefix}/b/") == []


def test_a_key_without_a_slash_in_front_is_offered_with_one(
    offers: Callable[..., list[str]], ctl: Run, prefix: str
) -> None:
    ctl("key", "set", f"{prefix}/a", "1")
    assert offers("key", "get", prefix.lstrip("/")) == [f"{prefix}/"]


def test_subnets_are_offered_bad_records_too(offers: Callable[..., list[str]], ctl: Run, prefix: str) -> None:
    assert offers("subnet", "show", "") == []
    for name in ("172.30.5.0-24", "172.30.6.0-24", "something"):
        ctl("key", "set", f"{prefix}/subnets/{name}", '{"PublicIP":"192.168.77.11"}')
    assert offers("subnet", "show", "") == ["172.30.5.0/24", "172.30.6.0/24", "something"]
    assert offers("subnet", "release", "172.30.6") == ["172.30.6.0/24"]


def test_nodes_are_offered_by_address_and_by_name(
    offers: Callable[..., list[str]], ctl: Run, prefix: str
) -> None:
    named = '{"PublicIP":"192.168.77.12","NodeName":"node7"}'
    for name, value in (("10.1.5.0-24", '{"PublicIP":"192.168.77.11"}'), ("10.1.6.0-24", named), ("x", "{}")):
        ctl("key", "set", f"{prefix}/subnets/{name}", value)
    ctl("key", "set", f"{prefix}/drained/node9", "{}")
    assert offers("subnet", "drain", "") == ["192.168.77.11", "192.168.77.12", "node7"]
    assert offers("subnet", "drain", "n") == ["node7"]
    assert offers("subnet", "move", "1") == ["10.1.5.0/24", "10.1.6.0/24", "192.168.77.11", "192.168.77.12"]
    assert offers("subnet", "undrain", "") == ["node9"]


def test_options_before_the_word_count(offers: Callable[..., list[str]], ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/other/subnets/10.1.5.0-24", '{"PublicIP":"192.168.77.11"}')
    assert offers("--prefix", f"{prefix}/other", "subnet", "renew", "") == ["10.1.5.0/24"]
    assert offers("--endpoints", "http://127.0.0.1:1", "subnet", "renew", "") == []
    assert offers("--endpoints", "http://127.0.0.1:1", "plugin", "admit", "x.w") == ["x.w"], "a file"


@pytest.mark.parametrize(
    "words",
    [
        ("--endpoints", "nonsense://", "key", "get", "/"),
        ("--endpoints", "http://127.0.0.1:1", "key", "get", "/"),
        ("--username", "ann", "key", "get", "/"),
        ("--timeout", "x", "key", "get", "/"),
    ],
)
def test_what_is_wrong_offers_nothing_and_says_nothing(
    offers: Callable[..., list[str]], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NETSTORE_ENDPOINTS")
    assert offers(*words) == []


def test_the_tab_key_never_asks_for_a_password(
    ctl: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_prompt: str) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr("getpass.getpass", refuse)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setenv(VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "netstorectl --username ann key get /")
    monkeypatch.setenv("COMP_CWORD", "5")
    assert netstorectl.run([]) == 0
    assert capsys.readouterr().out.strip() == ""


def test_a_store_that_says_nothing_is_not_waited_for(
    offers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "LIMIT", 0.05)
    given_up = threading.Event()

    def silent(_head: bytes) -> bytes:
        given_up.wait(seconds(30))
        return b""

    with answering(silent) as url:
        assert offers("--endpoints", url, "key", "get", "/") == []
        given_up.set()


def test_offers_are_bounded(
    offers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, ctl: Run, prefix: str
) -> None:
    assert MOST >= 100
    monkeypatch.setattr(completion, "MOST", 3)
    for number in range(5):
        ctl("key", "set", f"{prefix}/{number}", "1")
    assert len(offers("key", "get", f"{prefix}/")) == 3


@pytest.mark.parametrize("shell", SHIPPED)
def test_the_shipped_hook_is_the_generated_one(run: Run, shell: str) -> None:
    file = ROOT / "contrib" / "completion" / SHIPPED[shell]
    told = run("completion", shell)
    assert told.status == 0
    click = importlib.metadata.version("click")
    assert told.out == file.read_text(), f"repeat: netstorectl completion {shell} > {file} (click {click})"


def test_a_hook_for_an_unknown_shell_is_a_usage_error(run: Run) -> None:
    assert run("completion", "tcsh").status == 2
    told = run("completion")
    assert told.status == 2
    assert told.err == (
        "netstorectl: Missing argument 'SHELL': give one of bash, zsh, fish."
        " See 'netstorectl completion --help'.\n"
    )


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "netstorectl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m netstore.cli.netstorectl "$@"\n')
    program.chmod(0o755)
    script = (
        f"source {ROOT}/contrib/completion/netstorectl.bash\n"
        "COMP_WORDS=(netstorectl subnet re); COMP_CWORD=2\n"
        "_netstorectl_completion netstorectl re subnet\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
        "complete -p netstorectl\n"
    )
    told = subprocess.run(
        ("/bin/bash", "--norc", "-c", script),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=seconds(60),
    )
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        "release",
        "renew",
        "reserve",
        "complete -o nosort -F _netstorectl_completion netstorectl",
    ]
