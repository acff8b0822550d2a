"""The manual and the code name the same options, variables and keys, and the manual is clean mdoc.

A page is compared with the declarations of its program, whatever library they are written for:
`ops.layers`, click or argparse.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
import textwrap
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
import pytest
import tomli

from netstore.api.admin import AdminApi
from netstore.cli.commands.endpoint import Standing, _content, status
from netstore.client.cluster import MemberStatus
from netstore.disk.archivefile import Listing
from netstore.limits import SMALLEST, Shares
from netstore.meter import Meter
from netstore.net.exchange import Request
from netstore.node.backupschedule import BackupState
from netstore.node.pacing import Behind
from netstore.ops.agent import AGENT
from netstore.ops.layers import OWN_FLAGS, Layered
from netstore.ops.settings import Setting, default_words
from netstore.ops.store import STORE
from netstore.types import Index, NodeId
from tests.support.daemon import clean_environment, start_netstored
from tests.support.links import Quiet
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
MAN = ROOT / "man"

PROGRAMS: Final = {
    "netstored.8": ("netstore.ops.store", "STORE"),
    "netstore-agent.8": ("netstore.ops.agent", "AGENT"),
    "netstorectl.1": ("netstore.cli.netstorectl", "cli"),
}
"""Page -> where its program's options are declared."""

PAGES: Final = (*PROGRAMS, "netstore-backends.7", "netstore-cni.8", "netstore.toml.5")

OTHERS: Final = frozenset(
    {
        "sd_notify 3",
        "systemd.exec 5",
        "systemd.service 5",
        "systemd 1",
        "ip-link 8",
        "ip-route 8",
        "etcd 1",
        "nft 8",
        "iptables 8",
    }
)
"""Pages of other projects that ours refer to, and a machine may lack."""


# What the code declares


def declared_options(program: object) -> set[str]:
    """Every option of a program and its subcommands as typed, dashes included."""
    match program:
        case Layered():
            named = {f"--{flag}" for each in program.settings() for flag in each.flags}
            tools = {f"--{words.split()[0]}" for words in program.tools}
            return named | tools | {f"--{flag}" for flag in OWN_FLAGS} | {"-h"}
        case click.Command():
            return {
                option for each in _click_options(program) for option in (*each.opts, *each.secondary_opts)
            }
        case argparse.ArgumentParser():
            return {
                option
                for parser in _parsers(program)
                for each in parser._actions
                for option in each.option_strings
            }
    raise TypeError(program)


def declared_commands(program: object) -> set[str]:
    """Every subcommand, as typed after the program's name."""
    if isinstance(program, click.Command):
        return {path for path, _ in _click_commands(program) if path}
    return set()


def declared_variables(program: object) -> set[str]:
    """Environment variables that a page must name. Those of `ops.layers` are in netstore.toml(5)."""
    if isinstance(program, click.Command):
        return {name for each in _click_options(program) for name in _envvars(each)}
    return set()


def _click_commands(command: click.Command, path: str = "") -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            if not each.hidden:
                found += _click_commands(each, f"{path} {name}".strip())
    return found


def _click_options(command: click.Command) -> list[click.Option]:
    return [
        each
        for path, one in _click_commands(command)
        for each in one.get_params(click.Context(one, info_name=path))
        if isinstance(each, click.Option) and not each.hidden
    ]


def _envvars(option: click.Option) -> list[str]:
    named: Any = option.envvar or getattr(option, "variables", None) or ()
    return [named] if isinstance(named, str) else list(named)


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for each in parser._actions:
        if isinstance(each, argparse._SubParsersAction):
            for one in each.choices.values():
                found += _parsers(one)
    return found


# What the manual says


@dataclass(frozen=True)
class Entry:
    """One `.It` of a page: its head line, and all its text with macros taken out."""

    head: str
    text: str
    section: str


def source(page: str) -> str:
    return (MAN / page).read_text()


def plain(line: str) -> str:
    """A line without macros and escapes, its words one space apart, punctuation joined to the word before."""
    if line.startswith("."):
        line = " ".join(
            word for word in line[1:].split() if not re.fullmatch(r"[A-Z][a-z]|Ns|No|Oo|Oc", word)
        )
    line = line.replace("\\(dq", '"').replace("\\e", "\\").replace("\\&", "").replace("\\-", "-")
    return re.sub(r" ([,.;:])(?= |$)", r"\1", line)


def sections(text: str) -> list[str]:
    return re.findall(r"^\.Sh (.+)$", text, re.MULTILINE)


def entries(text: str) -> list[Entry]:
    """Every item of every list of a page, in order."""
    found: list[tuple[str, list[str], str]] = []
    section = ""
    for line in text.splitlines():
        if line.startswith(".Sh "):
            section = line[4:]
        if line.startswith(".It"):
            found.append((line, [], section))
        elif line.startswith((".El", ".Sh", ".Ss")):
            found.append(("", [], section))
        elif found:
            found[-1][1].append(plain(line))
    return [Entry(head, " ".join(lines), section) for head, lines, section in found if head]


def documented_options(text: str) -> set[str]:
    """Options in the heads of items: the words after `Fl`, which stands for one dash."""
    found: set[str] = set()
    for each in entries(text):
        for words in re.findall(r"\bFl ((?:-?[\w][\w-]*)(?: \| -?[\w][\w-]*)*)", each.head):
            found |= {f"-{word}" for word in words.split(" | ")}
    return found


def load(page: str) -> object:
    module, name = PROGRAMS[page]
    return getattr(importlib.import_module(module), name)


# The comparison


def test_variables_of_the_command_do_not_stop_the_store() -> None:
    """A shell may hold both. Those of certificates are refused: the store must not seem to serve TLS."""
    named = {each for each in declared_variables(load("netstorectl.1")) if each.startswith("NETSTORE_")}
    for name in named - {"NETSTORE_CA_FILE", "NETSTORE_CERT_FILE", "NETSTORE_KEY_FILE"}:
        assert STORE.load([], {name: "1"}).sources == STORE.load([], {}).sources


@pytest.mark.parametrize("page", PROGRAMS)
def test_options_of_page_and_program_are_the_same(page: str) -> None:
    text, program = source(page), load(page)
    documented, declared = documented_options(text), declared_options(program)
    assert documented - declared == set(), "the manual names options that do not exist"
    assert declared - documented == set(), "options that the manual does not explain"


@pytest.mark.parametrize("page", PROGRAMS)
def test_commands_and_variables_are_in_the_page(page: str) -> None:
    text, program = source(page), load(page)
    words = " ".join(plain(line) for line in text.splitlines())
    assert {each for each in declared_commands(program) if each not in words} == set()
    named = set(re.findall(r"\b(?:NETSTORE|NETSTORECTL|ETCDCTL)_[A-Z_]+", words))
    assert declared_variables(program) - named == set()


@pytest.mark.parametrize("layered", [STORE, AGENT], ids=["store", "agent"])
def test_keys_of_page_and_table_are_the_same(layered: Layered[Any]) -> None:
    settings = layered.settings()
    tables = {each.table.upper() for each in settings}
    page = [each for each in entries(source("netstore.toml.5")) if each.section in tables]
    assert [(each.section, each.head.split()[2]) for each in page] == [
        (each.table.upper(), each.name) for each in settings
    ]
    for entry, each in zip(page, settings, strict=True):
        assert _told(each) in entry.text, f"{each.key}: the page tells another default"
        named = re.findall(r"\b[A-Z]+_[A-Z_0-9]+\b", entry.text.partition("Environment:")[2])
        assert named == list(each.variables), f"{each.key}: the page tells other variables"


def _told(each: Setting) -> str:
    return f"Default: {default_words(each)}."


@pytest.mark.parametrize("page", PAGES)
def test_sections_are_complete_and_in_order(page: str) -> None:
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"]
    if page in PROGRAMS:
        wanted[3:3] = ["OPTIONS", "ENVIRONMENT", "FILES", "EXIT STATUS"]
    assert [each for each in sections(source(page)) if each in wanted] == wanted


@pytest.mark.peer("mandoc")
@pytest.mark.parametrize("page", PAGES)
def test_page_is_clean_mdoc(page: str) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", f"man/{page}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    ours = {" ".join(name.rsplit(".", 1)) for name in PAGES}
    found = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if f"man/{page}:" in line and not _elsewhere(line, ours | OTHERS)
    ]
    assert found == []


def _elsewhere(line: str, known: frozenset[str] | set[str]) -> bool:
    """The linter looks for other pages among those installed on the machine, where ours need not be."""
    match = re.search(r"referenced manual not found: Xr (\S+ \d)", line)
    return match is not None and match[1] in known


# The examples


def examples(page: str) -> list[str]:
    """The literal blocks of a page's examples."""
    text = source(page).partition("\n.Sh EXAMPLES\n")[2].partition("\n.Sh ")[0]
    blocks = re.findall(r"^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$", text, re.MULTILINE)
    return [textwrap.dedent(block).replace("\\e", "\\") for block in blocks]


@pytest.mark.parametrize(("page", "load_config"), [("netstored", STORE.load), ("netstore-agent", AGENT.load)])
def test_examples_of_the_daemons_are_accepted(page: str, load_config: Callable[..., object]) -> None:
    commands = [block.removeprefix("$ ").replace("\\\n", "") for block in examples(f"{page}.8")]
    assert len(commands) >= 3
    for command in commands:
        program, *argv = shlex.split(command)
        assert program == page
        load_config(argv, {})


def test_examples_of_the_file_are_accepted(tmp_path: Path) -> None:
    documents = [block for block in examples("netstore.toml.5") if not block.startswith("$")]
    assert documents
    shipped = ROOT / "contrib/examples/netstore.toml"
    for text in (*documents, shipped.read_text()):
        file = tmp_path / "netstore.toml"
        file.write_text(text)
        STORE.load([], {"NETSTORE_CONFIG_FILE": str(file)})
        AGENT.load([], {"NETSTORE_CONFIG_FILE": str(file)})


@pytest.mark.parametrize("layered", [STORE, AGENT], ids=["store", "agent"])
def test_the_shipped_file_shows_every_key_with_its_default(layered: Layered[Any], tmp_path: Path) -> None:
    text = (ROOT / "contrib/examples/netstore.toml").read_text()
    shown = re.sub(r"^#(?=[a-z0-9_]+ = )", "", text, flags=re.MULTILINE)
    document = tomli.loads(shown)
    for table in {each.table for each in layered.settings()}:
        assert list(document[table]) == [each.name for each in layered.settings() if each.table == table]
    file = tmp_path / "netstore.toml"
    file.write_text(shown)
    uncommented = layered.load([f"--config-file={file}"], {}).config
    for each in layered.settings():
        if each.default is not None and not each.default_words:
            assert getattr(uncommented, each.key) == each.default, each.key


@pytest.mark.parametrize("layered", [STORE, AGENT], ids=["store", "agent"])
def test_the_shipped_file_says_of_every_key_what_help_says(layered: Layered[Any]) -> None:
    text = (ROOT / "contrib/examples/netstore.toml").read_text()
    parts = re.split(r"^\[([a-z]+)\]\n", text, flags=re.MULTILINE)[1:]
    tables = dict(zip(parts[::2], parts[1::2], strict=True))
    for each in layered.settings():
        shown = re.search(rf"((?:^# .+\n)+)^#{each.name} = ", tables[each.table], re.MULTILINE)
        assert shown, each.key
        said = " ".join(line.removeprefix("# ") for line in shown[1].splitlines())
        default = ""
        if each.default_words:
            default = f" Default: {each.default_words}."
        elif each.default is None:
            default = " Not set by default."
        assert said == each.about + default


# The readers themselves


def test_every_declaration_can_be_read() -> None:
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument("-v", "--verbose")
    parser.add_subparsers().add_parser("y").add_argument("--deep")
    assert declared_options(parser) == {"-h", "--help", "-v", "--verbose", "--deep"}

    @click.group()
    @click.option("--on/--off", envvar="X_ON")
    def tool() -> None: ...

    @tool.command()
    @click.option("-w", "--output")
    @click.option("--unseen", hidden=True)
    def show() -> None: ...

    assert declared_options(tool) == {"--help", "--on", "--off", "-w", "--output"}
    assert declared_commands(tool) == {"show"}
    assert declared_variables(tool) == {"X_ON"}
    assert {"--name", "--config-file", "--help", "-h"} <= declared_options(STORE)
    assert {"--etcd-prefix", "--prefix"} <= declared_options(AGENT)


def test_a_page_can_be_read() -> None:
    text = """\
.Sh OPTIONS
.Bl -tag
.It Fl h , Fl -help
Help
.It Fl w Ar x
.Ql \\(dqa\\(dq .
.El
.Sh NEXT
.Ic b
"""
    assert documented_options(text) == {"-h", "--help", "-w"}
    assert [(each.text, each.section) for each in entries(text)] == [("Help", "OPTIONS"), ('"a".', "OPTIONS")]


def test_what_a_member_tells_of_itself_is_listed_field_by_field() -> None:
    text = (MAN / "netstorectl.1").read_text()
    begin = text.index(".It Ic endpoint status")
    middle, end = (text.index(f".It Li GET /netstore/{each}") for each in ("status", "members"))
    member, exchange = LocalMember(), RecordedExchange(Request(b"GET", b"/netstore/status"))
    member.others_behind = [Behind(NodeId(5), gets_snapshot=True, sent=1, size=2, entries=3, counts=True)]
    meter = Meter(lambda: 1.0, Quiet())
    AdminApi(
        member,
        member.cluster,
        meter,
        Scrubbed(),
        Shares.of(SMALLEST),
        archive=Archived(),
        scheduled=BackupState(60.0),
    ).handle(exchange)
    whole = json.loads(exchange.body)
    shown = _content(Standing("http://a", msgspec.convert(whole, MemberStatus)))
    for listed, told in ((text[begin:middle], shown), (text[begin:end], whole)):
        heads = re.findall(r"^\.It Li (.*)$", listed, re.MULTILINE)
        assert told.keys() <= {name for head in heads for name in head.split(" , ")}
    elsewhere = {"behind"}  # of the first page, which says so
    for listed, told in (
        (text[begin:middle], {**shown, **dict.fromkeys(elsewhere)}),
        (text[middle:end], whole),
    ):
        for head, inner in told.items():
            if names := set(_names(inner)):
                _, below = listed.split(f"\n.It Li {head}\n")
                below = below.split("\n.It ")[0]
                assert names <= set(re.findall(r"^\.Li (\w+)", below, re.MULTILINE)), head


class Scrubbed:
    rounds, verified_bytes = 3, 4096


class Archived:
    folder, archived, wall, waiting = Path("/archive"), Index(7), 0, 0
    oldest, keep_seconds, removed = 0, 0.0, 0
    listing = Listing(folder)
    stopped = False

    @staticmethod
    def lag_seconds() -> float:
        return 0.0

    @staticmethod
    def fixes() -> dict[str, str]:
        return {}


def test_the_page_names_every_field_that_a_member_with_archive_and_backups_tells(tmp_path: Path) -> None:
    text = (MAN / "netstorectl.1").read_text()
    (tmp_path / "backups").mkdir(mode=0o700)
    flags = ("--archive-folder", str(tmp_path / "archive"), "--backup-folder", str(tmp_path / "backups"))
    with start_netstored(tmp_path, *flags) as daemon:
        with urllib.request.urlopen(f"{daemon.url}/netstore/status", timeout=seconds(20)) as answer:  # noqa: S310
            told = json.load(answer)
        done = subprocess.run(
            (
                sys.executable,
                "-m",
                "netstore.cli.netstorectl",
                "--endpoints",
                daemon.url,
                "status",
                "-o",
                "json",
            ),
            env=clean_environment(),
            capture_output=True,
            check=True,
            timeout=seconds(20),
        )
    assert {"archive", "backup", "scrub", "loop", "memory"} <= told.keys()
    begin = text.index(".It Ic endpoint status")
    assert set(_names(told)) <= named_fields(text[begin : text.index(".It Li GET /netstore/members")])
    told = json.loads(done.stdout)
    for each in ("archive", "backup"):
        assert told["endpoints"][0].pop(each) is not None, "it is described once, with that of the member"
    begin = text.index("\n.It Ic status\n")
    assert set(_names(told)) <= named_fields(text[begin : text.index(".It Ic doctor")])


def named_fields(text: str) -> set[str]:
    """The fields that a part of a page names."""
    heads = re.findall(r"^\.It Li (.*)$", text, re.MULTILINE)
    documents = re.findall(r'"(\w+)":', text)
    inner = re.findall(r"^\.Li (\w+)", text, re.MULTILINE)
    return {*inner, *documents, *(name for head in heads for name in head.split(" , "))}


def _names(told: object) -> Iterator[str]:
    """The names of fields at all depths."""
    if isinstance(told, list):
        for each in told:
            yield from _names(each)
    elif isinstance(told, dict):
        for name, inner in told.items():
            yield name
            yield from _names(inner)


def test_the_help_of_endpoint_status_names_what_a_leader_waits_for() -> None:
    told = " ".join((status.help or "").split())
    assert "WAITS FOR" in told
    assert "paced" in told
