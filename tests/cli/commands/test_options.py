"""The options that every command takes, wherever they stand, and usage errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.cli.commands.failures import Exit
from tests.cli.commands.conftest import DEAD, answering, served

if TYPE_CHECKING:
    from tests.cli.commands.conftest import Run


@pytest.mark.parametrize(
    "words",
    [
        ("--endpoints", "{}", "key", "get", "/a"),
        ("key", "--endpoints", "{}", "get", "/a"),
        ("key", "get", "--endpoints", "{}", "/a"),
        ("key", "get", "/a", "--endpoints={}"),
        ("--endpoints", DEAD, "key", "get", "/a", "--endpoints", "{}"),
    ],
)
def test_shared_options_go_anywhere_and_the_last_one_counts(run: Run, words: tuple[str, ...]) -> None:
    with answering(lambda _head: served()) as url:
        told = run(*(word.format(url) for word in words))
    assert (told.status, told.out, told.err) == (0, "1\n", "")


def test_an_option_beats_the_environment_wherever_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETSTORE_ENDPOINTS", DEAD)
    monkeypatch.setenv("NETSTORE_PREFIX", "/elsewhere")
    with answering(lambda head: served() if b"/v2/keys/here/config?" in head else b"") as url:
        for words in (
            ("--endpoints", url, "--prefix", "/here", "network", "get", "--raw"),
            ("network", "get", "--raw", "--endpoints", url, "--prefix", "here/"),
        ):
            assert run(*words).out == "1\n"


@pytest.mark.parametrize("timeout", ["0", "-1", "x", "nan", "inf", "3601"])
def test_bad_time_limits_are_a_usage_error(run: Run, timeout: str) -> None:
    told = run("--timeout", timeout, "key", "ls")
    assert told.status == 2
    assert "--timeout" in told.err


@pytest.mark.parametrize("words", [("--timeout", "0", "status"), ("key", "set", "/a"), ("bogus",)])
def test_a_usage_error_ends_before_the_help_is_named(run: Run, words: tuple[str, ...]) -> None:
    told = run(*words)
    assert told.status == Exit.USAGE
    assert ". See 'netstorectl" in told.err


@pytest.mark.parametrize("words", [("alarm", "list"), ("put", "/a", "x"), ("get", "/a")])
def test_who_looks_for_what_etcdctl_has_is_told(run: Run, words: tuple[str, ...]) -> None:
    told = run(*words)
    assert told.status == Exit.USAGE
    assert f"ETCDCTL_API=3 etcdctl {words[0]}. See" in told.err
    assert "etcdctl" not in run("member", "get").err, "only where no noun was given"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("member remove x", "; 'member rm' does that."),
        ("member list", "; 'member ls' does that."),
        ("subnet delete x", "; 'subnet release' does that."),
        ("subnet unreserve x", "; 'subnet release' does that."),
        ("plugin remove x", "; 'plugin retire' does that."),
        ("network show", "; 'network get' does that."),
        ("snapshot create x", "; 'snapshot save' does that."),
        ("set /a b", ": 'key set' writes keys of the v2 API"),
        ("cluster-health", ": 'endpoint health --cluster' asks"),
        ("restore x", ": 'snapshot restore FILE' makes"),
        ("version", ": --version prints"),
        ("endpoint hashkv", ": etcdctl has it: ETCDCTL_API=3 etcdctl endpoint hashkv"),
        ("user list", ": netstore has no users"),
        ("make-mirror x", ": 'mirror' copies"),
        ("memebr ls", ". Did you mean 'member'?"),
        ("snap save x", ". Did you mean 'snapshot'?"),
        ("lock x", "; etcdctl has it: ETCDCTL_API=3 etcdctl lock."),
    ],
)
def test_a_wrong_command_leads_to_the_one_of_its_meaning(run: Run, words: str, meant: str) -> None:
    told = run(*words.split())
    assert told.status == Exit.USAGE
    assert f"'{meant}" in told.err
    assert "?." not in told.err
    assert ".." not in told.err


@pytest.mark.parametrize(
    "words", ["member demote x", "key unset /a", "member unpromote x", "endpoint list", "sett"]
)
def test_no_command_is_named_for_its_letters_alone(run: Run, words: str) -> None:
    told = run(*words.split())
    assert told.status == Exit.USAGE
    assert "Did you mean" not in told.err
