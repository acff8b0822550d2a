"""The command line of netstorectl: its arguments, the options that every command takes, nouns and verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from netstore.cli.commands.invocation import (
    DEFAULT_ENDPOINTS,
    DEFAULT_STORE_API,
    DEFAULT_TIMEOUT,
    PROGRAM,
    Settings,
    clean,
)
from netstore.cli.output import Form
from netstore.network.config import DEFAULT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_TIMEOUT: Final = 3600.0

OF_ETCDCTL: Final = frozenset(
    (
        "alarm",
        "compact",
        "compaction",
        "defrag",
        "del",
        "elect",
        "get",
        "lease",
        "lock",
        "put",
        "txn",
        "watch",
    )
)
"""Commands of etcdctl for the v3 API, which work with netstored, so netstorectl does not have them."""


OTHERS: Final = {
    "auth": "netstore has no users and passwords; client certificates say who may use it",
    "backup": "it copied a stopped etcd's folder; here 'snapshot save FILE' saves everything, keys of the v2"
    " API too, while the store runs, and 'snapshot restore FILE' makes a data folder of it",
    "check": "'doctor' checks this machine and the store, 'network check' a network config",
    "cluster-health": "'endpoint health --cluster' asks all members",
    "endpoint hashkv": "etcdctl has it: ETCDCTL_API=3 etcdctl endpoint hashkv",
    "hashkv": "etcdctl has it: ETCDCTL_API=3 etcdctl endpoint hashkv",
    "key unset": "'key rm' removes a file",
    "key update": "'key set' writes a file that exists, too",
    "ls": "'key ls' lists keys of the v2 API, and ETCDCTL_API=3 etcdctl get --prefix those of v3",
    "make-mirror": "'mirror' copies the keys of one store into another",
    "mk": "'key mk' creates a file (v2 API)",
    "mkdir": "'key mkdir' creates a directory (v2 API)",
    "restore": "'snapshot restore FILE' makes a data folder of a backup",
    "rm": "'key rm' removes a file (v2 API), and ETCDCTL_API=3 etcdctl del keys of the v3 API",
    "rmdir": "'key rmdir' removes an empty directory (v2 API)",
    "role": "netstore has no users and roles; client certificates say who may use it",
    "set": "'key set' writes keys of the v2 API, and ETCDCTL_API=3 etcdctl put those of v3",
    "snapshot backup": "'snapshot save FILE' makes a backup",
    "update": "'key set' writes a file that exists, too (v2 API), and ETCDCTL_API=3 etcdctl put a v3 key",
    "user": "netstore has no users and passwords; client certificates say who may use it",
    "version": "--version prints that of this command, and 'status' those of the members",
}
"""Commands below the program that are another one here, and which: of etcdctl, or guessed."""

SAME: Final = (
    ("rm", "remove", "delete", "del", "release", "unreserve", "retire", "unadmit"),
    ("ls", "list"),
    ("set", "put", "write"),
    ("show", "get", "cat", "info"),
    ("add", "admit", "reserve", "create"),
    ("save", "create"),
    ("mk", "create"),
    ("verify", "check"),
)
"""Verbs of one meaning: who gives one that a noun does not have is told of those that it has."""

LIKENESS: Final = 0.75
"""From which ratio of `difflib` on a word is taken for another one, mistyped."""


PATH: Final = click.Path(path_type=Path, readable=False)
"""The name of a file or folder. Whether it can be read is told by who reads it, with exit status 1."""

NAME: Final = click.Path(readable=False, allow_dash=True)
"""Same, as text; or `-`."""


def key_of(word: str) -> str:
    """A key given as an argument, normalized as by every etcd client."""
    if not is_text(word):
        raise click.BadParameter("a key must be UTF-8 text")
    return clean(word)


def is_text(word: str) -> bool:
    """Whether an argument is UTF-8; bytes that are not are surrogates in it."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of an argument that is a whole number in these bounds."""

    def number(word: str | int) -> int:
        try:
            value = int(word)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise click.BadParameter(f"{word!r} is not a whole number from {low} to {high}")
        return value

    return number


def seconds(word: str | float) -> float:
    """Parse an argument that is a time limit."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_TIMEOUT:
        raise click.BadParameter(f"{word!r} is not a number of seconds, above 0 and at most {MAX_TIMEOUT:g}")
    return value


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    assert option.name is not None  # noqa: S101 - all options below have one; for the type checker
    source = context.get_parameter_source(option.name)
    if source is not click.core.ParameterSource.DEFAULT:
        setattr(settings, option.name, value)
    if source is click.core.ParameterSource.COMMANDLINE:
        settings.flags.add(option.opts[-1])


def _shared(*declaration: str, variables: Sequence[str] = (), **more: Any) -> Callable[[bool], click.Option]:
    def option(outermost: bool) -> click.Option:
        # Only the outermost command reads the environment, so a flag given there wins over it everywhere.
        return click.Option(
            declaration,
            envvar=list(variables) if outermost else None,
            show_envvar=outermost,
            expose_value=False,
            callback=_remember,
            **more,
        )

    return option


def flags_given(*names: str) -> list[str]:
    """Those of these options of the running command that stand on its command line."""
    context = click.get_current_context()
    options = {each.name: each.opts[-1] for each in context.command.params}
    given = click.core.ParameterSource.COMMANDLINE
    return [options[name] for name in names if context.get_parameter_source(name) is given]


SHARED_OPTIONS: Final = (
    _shared(
        "--endpoints",
        variables=("NETSTORE_ENDPOINTS", "ETCDCTL_ENDPOINTS"),
        metavar="URL[,URL...]",
        help=f"Where the store listens.  [{DEFAULT_ENDPOINTS}]",
    ),
    _shared(
        "--prefix",
        variables=("NETSTORE_PREFIX",),
        metavar="KEY",
        help=f"Where the network lies in the store.  [{DEFAULT_PREFIX}]",
    ),
    _shared(
        "--store-api",
        variables=("NETSTORECTL_STORE_API",),
        type=click.Choice(["auto", "v2", "v3"]),
        help="The API that keeps the network; auto: the one that has its config, v2 if both do."
        f"  [{DEFAULT_STORE_API}]",
    ),
    _shared(
        "-o",
        "--output",
        type=click.Choice([form.value for form in Form]),
        help="Form of the answer.  [table on a terminal, else plain]",
    ),
    _shared(
        "--ca-file",
        variables=("NETSTORECTL_CACERT", "ETCDCTL_CACERT", "ETCDCTL_CA_FILE"),
        type=NAME,
        help="Certificates that may have signed the store's.",
    ),
    _shared(
        "--cert-file",
        variables=("NETSTORECTL_CERT", "ETCDCTL_CERT", "ETCDCTL_CERT_FILE"),
        type=NAME,
        help="Our own certificate.",
    ),
    _shared(
        "--key-file",
        variables=("NETSTORECTL_KEY", "ETCDCTL_KEY", "ETCDCTL_KEY_FILE"),
        type=NAME,
        help="The key of our certificate.",
    ),
    _shared(
        "--username",
        variables=("NETSTORE_USERNAME", "ETCDCTL_USERNAME", "ETCDCTL_USER"),
        metavar="NAME[:PASSWORD]",
        help="Who asks; the password better from NETSTORE_PASSWORD, or asked for.",
    ),
    _shared(
        "--timeout",
        variables=("NETSTORE_TIMEOUT",),
        type=seconds,
        metavar="SECONDS",
        help=f"How long each endpoint may take to answer.  [{DEFAULT_TIMEOUT:g}]",
    ),
    _shared("--debug", is_flag=True, help="Print each request on standard error."),
)
"""Factories of the shared options. The argument: whether the option reads the environment, which only those
of the outermost command do.
"""


HELP_OPTIONS: Final = ["-h", "--help"]


class Command(click.Command):
    """A command that accepts the shared options, too, but does not list them in its help."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.own = tuple(option for option in self.params if isinstance(option, click.Option))
        self.params.extend(make(False) for make in SHARED_OPTIONS)

    def get_help_option_names(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """`-h` as well, everywhere."""
        return HELP_OPTIONS

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options; the shared ones are listed once, in the program's help."""
        own = [record for option in self.own if (record := option.get_help_record(ctx)) is not None]
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)
        formatter.write_paragraph()
        formatter.write_text(f"Options of every command: {PROGRAM} --help")


class Group(click.Group):
    """A noun and its verbs. It accepts the shared options, so that they may stand between noun and verb."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, outermost: bool = False, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.params.extend(make(outermost) for make in SHARED_OPTIONS)

    def get_help_option_names(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """`-h` as well, everywhere."""
        return HELP_OPTIONS

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refer to etcdctl for its commands, and to the own ones that do the same."""
        words = args[0] if ctx.parent is None else f"{ctx.info_name} {args[0]}"
        if words in OTHERS:
            raise click.UsageError(f"No such command '{args[0]}': {OTHERS[words]}.", ctx)
        if ctx.parent is None and args[0] in OF_ETCDCTL and args[0] not in self.commands:
            text = f"No such command '{args[0]}'; etcdctl has it: ETCDCTL_API=3 etcdctl {args[0]}"
            raise click.UsageError(text, ctx)
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing and args[0][:1] != "-":
            raise click.UsageError(f"No such command {args[0]!r}{self._meant(ctx, args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context, word: str) -> str:
        """What somebody may have meant by a word that is no command of this group, with a full stop, which is
        all if nothing is like it. By letters only what may be mistyped: `unset` is not `set`.
        """
        from difflib import get_close_matches  # noqa: PLC0415 - for a wrong command alone

        verbs = {verb for same in SAME if word in same for verb in same if verb in self.commands}
        if verbs and ctx.parent is not None:
            each = " or ".join(f"'{ctx.info_name} {verb}'" for verb in sorted(verbs))
            return f"; {each} does that."
        likely = [name for name in self.commands if name.startswith(word)] if len(word) > 1 else []
        likely += get_close_matches(word.lower(), self.commands, cutoff=LIKENESS)
        found = [name for name in dict.fromkeys(likely) if not word.endswith(name)]
        if not found or any(word in same for same in SAME):
            return "."
        return f". Did you mean {' or '.join(map(repr, found))}?"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The shared options in the program's own help, only the verbs in a noun's."""
        if ctx.parent is None:
            super().format_options(ctx, formatter)
        else:
            self.format_commands(ctx, formatter)


pass_settings = click.make_pass_decorator(Settings, ensure=True)
