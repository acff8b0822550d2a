"""What every command shares: the options that go anywhere, a conversation with the store, and how it may end.

A command is a function of its arguments and `Settings`. It asks the store through `Settings.ask`, prints
through `Settings.show`, and ends by returning (status 0) or by raising `Failure`, which says in one line what
is wrong and what to do. Nothing here imports Trio or httpx before a command needs the store, so that help
and the completion of words stay quick.
"""

from __future__ import annotations

import enum
import os
import posixpath
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from netstore.cli.output import Form, Table, emit, printable, render
from netstore.errors import NetstoreError
from netstore.network.config import DEFAULT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from netstore.client.transport import ClientError
    from netstore.client.v2 import Node, V2Client, V2Error

T = TypeVar("T")

PROGRAM: Final = "netstorectl"
DEFAULT_ENDPOINTS: Final = "http://127.0.0.1:2379"

DEFAULT_TIMEOUT: Final = 8.0
"""Seconds: above the 7 s after which a store without quorum says so (v2 API, "Cluster behaviour")."""

MAX_TIMEOUT: Final = 3600.0

OF_ETCDCTL: Final = frozenset(
    ("alarm", "compact", "compaction", "defrag", "del", "get", "lease", "put", "snapshot", "txn", "watch")
)
"""Commands of etcdctl for what the v3 API has: they work on netstored, so they are not here again."""

MAX_INPUT_BYTES: Final = 10 * 1024 * 1024
"""The v2 API takes no longer form (v2 API, "Limits"); more on standard input is a mistake."""

MAX_TTL: Final = 9_000_000_000
"""Seconds. Longer ones overflow in etcd and come out as permanent or as expired (v2 API, "TTL")."""

MAX_INDEX: Final = 2**64 - 2
"""The largest index after which there can still be a next one."""


class Exit(enum.IntEnum):
    """How netstorectl ends; the numbers are part of its contract (netstorectl(1), EXIT STATUS)."""

    OK = 0
    REFUSED = 1
    """Validation or a precondition said no, or a file could not be read or written; nothing was changed."""
    USAGE = 2
    """The words of the command are wrong; the store was not asked."""
    NOT_FOUND = 3
    UNAVAILABLE = 4
    """No store answered, or not as a store does; nothing was changed."""
    UNKNOWN = 5
    """A write was sent and no answer came: it may have happened, or may still happen."""
    INTERNAL = 70
    """A defect of netstorectl."""
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class Failure(Exception):  # noqa: N818 - named for how a command ends
    """The command cannot do what was asked. `text` is one line: what is wrong, and the fix."""

    def __init__(self, status: Exit, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def refused(text: str) -> Failure:
    """Validation or a precondition said no; nothing was changed."""
    return Failure(Exit.REFUSED, text)


def say(text: str) -> None:
    """One line to the person, beside the answer: standard error, inert on a terminal."""
    click.echo(f"{PROGRAM}: {printable(text)}", err=True)


def warn(text: str) -> None:
    """Something to know that stops nothing."""
    say(f"warning: {text}")


@dataclass
class Settings:
    """What the shared options say, whatever their place on the command line."""

    endpoints: str = DEFAULT_ENDPOINTS
    prefix: str = DEFAULT_PREFIX
    output: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    debug: bool = False
    may_ask: bool = True
    """Whether a password may be asked for; not while words are completed."""

    @property
    def form(self) -> Form:
        """The form asked for; unasked, a table on a terminal and plain lines anywhere else."""
        if self.output is not None:
            return Form(self.output)
        return Form.TABLE if sys.stdout.isatty() else Form.PLAIN

    def show(self, content: object, view: Table, *, wide: bool = False) -> None:
        """Print one answer: its JSON document, or the rows of `view`; these are not made to fit the terminal
        where they are `wide`.
        """
        emit(render(self.form, content, view, columns=None if wide else columns()))

    def key(self, *names: str) -> str:
        """A key of the network: the prefix and the names below it."""
        return posixpath.join(clean(self.prefix), *names)

    def ask(self, action: Callable[[V2Client], Awaitable[T]]) -> T:
        """Run a conversation with the store. A request has the time limit at each endpoint, a watch none."""

        async def conversation() -> T:
            async with self.client() as client:
                return await action(client)

        return self.run(conversation)

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run work that asks the store. What goes wrong between us and it comes out as `Failure`."""
        import trio  # noqa: PLC0415 - with httpx 0.2 s, which help and usage errors need not wait

        from netstore.client.transport import ClientError  # noqa: PLC0415 - same

        try:
            with _requests_shown() if self.debug else nullcontext():
                return trio.run(work, restrict_keyboard_interrupt_to_checkpoints=True)
        except ClientError as error:
            raise failure_of(error) from None

    def client(self, endpoint: str | None = None) -> V2Client:
        """A client as the options say; `Failure` if they cannot be used."""
        from netstore.client.transport import Transport  # noqa: PLC0415 - see `run`
        from netstore.client.v2 import V2Client  # noqa: PLC0415 - same

        username, password = self._credentials()
        try:
            return V2Client(
                Transport(
                    self.addresses() if endpoint is None else endpoint,
                    ca_file=self.ca_file,
                    cert_file=self.cert_file,
                    key_file=self.key_file,
                    username=username,
                    password=password,
                    timeout=self.timeout,
                )
            )
        except NetstoreError as error:
            raise Failure(Exit.USAGE, str(error)) from None

    def addresses(self) -> tuple[str, ...]:
        """The endpoints as URLs; without a scheme https when there is a certificate to use, else http."""
        from netstore.client.endpoints import parse_endpoints  # noqa: PLC0415 - see `run`

        scheme = "https" if self.ca_file or self.cert_file else "http"
        words = [word.strip() for word in self.endpoints.split(",") if word.strip()]
        if any("@" in word for word in words):
            # Said here, because the usual message would show the password.
            raise Failure(Exit.USAGE, "--endpoints: give the user name with --username, not in the address")
        try:
            return parse_endpoints(word if "://" in word else f"{scheme}://{word}" for word in words)
        except NetstoreError as error:
            raise Failure(Exit.USAGE, str(error)) from None

    def _credentials(self) -> tuple[str | None, str | None]:
        if not self.username:
            return None, None
        name, colon, password = self.username.partition(":")
        if colon:
            return name, password
        told = os.environ.get("NETSTORE_PASSWORD") or os.environ.get("ETCDCTL_PASSWORD")
        if told is None and not (self.may_ask and sys.stdin.isatty()):
            raise Failure(
                Exit.USAGE,
                f"--username {name}: no password; set NETSTORE_PASSWORD or run on a terminal to be asked",
            )
        if told is None:
            import getpass  # noqa: PLC0415 - only where somebody is asked

            told = getpass.getpass(f"Password of {name}: ")
        self.username = f"{name}:{told}"  # asked once, however many conversations follow
        return name, told


def columns() -> int | None:
    """The width of the terminal that reads standard output; None where none does."""
    import shutil  # noqa: PLC0415 - loads the compression modules; only answers need it

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


# Words of the command line


def clean(key: str) -> str:
    """A key as the store knows it: one slash in front, none at the end, no empty, `.` or `..` elements."""
    return posixpath.normpath("/" + key.lstrip("/"))


def key_of(word: str) -> str:
    """A key given as an argument, cleaned the way every etcd client does it."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("a key must be UTF-8 text") from None
    return clean(word)


def whole(low: int, high: int) -> Callable[[str], int]:
    """What reads an argument as a whole number in these bounds."""

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
    """What reads an argument as a time limit."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_TIMEOUT:
        raise click.BadParameter(f"{word!r} is not a number of seconds, above 0 and at most {MAX_TIMEOUT:g}")
    return value


# The options that go anywhere


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    assert option.name is not None  # noqa: S101 - all options below do, said to the type checker
    from_default = context.get_parameter_source(option.name) is click.core.ParameterSource.DEFAULT
    if not from_default:
        setattr(settings, option.name, value)


def _shared(*declaration: str, variables: Sequence[str] = (), **more: Any) -> Callable[[bool], click.Option]:
    def option(outermost: bool) -> click.Option:
        # Only the outermost command reads the environment: a flag given there must beat it further in, too.
        return click.Option(
            declaration,
            envvar=list(variables) if outermost else None,
            expose_value=False,
            callback=_remember,
            **more,
        )

    return option


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
        "-o",
        "--output",
        type=click.Choice([form.value for form in Form]),
        help="Form of the answer.  [table on a terminal, else plain]",
    ),
    _shared(
        "--ca-file",
        variables=("NETSTORECTL_CACERT", "ETCDCTL_CACERT", "ETCDCTL_CA_FILE"),
        type=click.Path(),
        help="Certificates that may have signed the store's.",
    ),
    _shared(
        "--cert-file",
        variables=("NETSTORECTL_CERT", "ETCDCTL_CERT", "ETCDCTL_CERT_FILE"),
        type=click.Path(),
        help="Our own certificate.",
    ),
    _shared(
        "--key-file",
        variables=("NETSTORECTL_KEY", "ETCDCTL_KEY", "ETCDCTL_KEY_FILE"),
        type=click.Path(),
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
"""Makers of the shared options: called with True they read the environment, for the outermost command."""


HELP_OPTIONS: Final = ["-h", "--help"]


class Command(click.Command):
    """A command that takes the shared options too, and keeps them out of its own help."""

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
    """A noun and its verbs. It takes the shared options, so that they may stand between noun and verb."""

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
        """Whoever looks here for what etcdctl has is told so."""
        if ctx.parent is None and args[0] in OF_ETCDCTL and args[0] not in self.commands:
            text = f"No such command '{args[0]}'; etcdctl has it: ETCDCTL_API=3 etcdctl {args[0]}"
            raise click.UsageError(text, ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The shared options in the program's own help, only the verbs in a noun's."""
        if ctx.parent is None:
            super().format_options(ctx, formatter)
        else:
            self.format_commands(ctx, formatter)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def text_of(content: bytes, what: str) -> str:
    """`content` as the text the v2 API can carry; refused where the store would give back something else."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise refused(NOT_TEXT.format(what)) from None


def standard_input(what: str) -> bytes:
    """All of standard input; refused when it is longer than any store takes."""
    content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(content) > MAX_INPUT_BYTES:
        raise refused(f"{what}: longer than {MAX_INPUT_BYTES} bytes, more than the store takes")
    return content


def agreed(question: str) -> bool:
    """Whether the person at the terminal says yes; False where nobody is there to ask."""
    if not sys.stdin.isatty():
        return False
    click.echo(f"{printable(question)} [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def node_at(client: V2Client, key: str) -> Node | None:
    """What the cluster has at a key, None where that is nothing."""
    from netstore.client.v2 import KEY_NOT_FOUND, V2Error  # noqa: PLC0415 - loaded by whoever made the client

    try:
        return (await client.get(key, quorum=True)).node
    except V2Error as error:
        if error.code == KEY_NOT_FOUND:
            return None
        raise


# How it may end

MAY_HAVE_HAPPENED: Final = (
    "outcome unknown: the change may have happened or may still happen; look before you repeat it"
)
NOT_TEXT: Final = "{}: not UTF-8; the v2 API carries text only, so encode it, for example in base64"


def failure_of(error: ClientError, *, named: bool = False) -> Failure:
    """What a failed call means for the command: its exit status, and one line with the fix. `named`: it is
    shown beside the one endpoint that was asked, and does not name it.
    """
    from netstore.client.transport import BadAnswer, Unreachable  # noqa: PLC0415 - loaded by whoever raised it
    from netstore.client.v2 import V2Error  # noqa: PLC0415 - same

    tried = error.tried if isinstance(error, Unreachable) else []
    reason = "; ".join(why if named else f"{endpoint}: {why}" for endpoint, why in tried) or str(error)
    if named and isinstance(error, BadAnswer):
        reason = error.problem
    if not error.outcome_known:
        return Failure(Exit.UNKNOWN, f"{MAY_HAVE_HAPPENED} ({reason})")
    if isinstance(error, V2Error):
        return _refusal(error)
    if isinstance(error, BadAnswer):
        fix = "is the v2 API on there (etcd: --enable-v2)?" if error.status == 404 else "check --endpoints"
        return Failure(Exit.UNAVAILABLE, f"{reason}; {fix}")
    if any(endpoint.startswith("https:") for endpoint, _ in tried):
        fix = "check --endpoints, --ca-file, --cert-file and that the store runs there"
    else:
        fix = "check --endpoints and that the store runs there"
    return Failure(Exit.UNAVAILABLE, f"no endpoint answered ({reason}); {fix}")


def _refusal(error: V2Error) -> Failure:
    cause = error.cause
    match error.code:
        case 100:
            return Failure(Exit.NOT_FOUND, f"{cause}: not found")
        case 101:
            return refused(f"compare failed {cause}: the key was changed meanwhile; read it again")
        case 102:
            return refused(f"{cause or '/'}: is a directory, and this needs a file")
        case 104:
            return refused(f"{cause}: is a file, so nothing can be below it")
        case 105:
            return refused(f"{cause}: exists already")
        case 107:
            return refused("/: the root cannot be changed")
        case 108:
            return refused(f"{cause}: the directory is not empty; key rm --recursive takes all of it")
        case 110:
            return refused("the store wants to know who asks; give --username")
        case 300:
            return Failure(Exit.UNAVAILABLE, f"the store could not answer: {cause}")
        case 401:
            return refused(
                f"the events asked for are gone from the store's memory: {cause}; read the keys again"
            )
        case _:
            return refused(str(error))


@contextmanager
def _requests_shown() -> Iterator[None]:
    """Print each request on standard error, as httpx logs it: without headers, where secrets are."""
    import logging  # noqa: PLC0415 - only where --debug asks for it

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"debug: {record.getMessage()}")

    logger, printer = logging.getLogger("httpx"), Printer()
    level = logger.level
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(printer)


def usage(text: str) -> NoReturn:
    """End with a usage error of the running command."""
    raise click.UsageError(text, click.get_current_context())
