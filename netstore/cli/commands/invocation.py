"""What every command of netstorectl shares: the settings of one run, and the calls to the store.

A command is a function of its arguments and `Settings`. It calls the store through `Settings.ask`, prints
through `Settings.show`, and ends by returning (status 0) or by raising `failures.Failure`, which says in one
line what is wrong and what to do. Nothing here imports Trio or httpx before a command needs the store, so
that help and completion stay fast.
"""

from __future__ import annotations

import os
import posixpath
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import click

from netstore.cli.commands.failures import NOT_TEXT, Exit, Failure, failure_of, refused
from netstore.cli.output import Form, Table, emit, printable, render
from netstore.errors import NetstoreError
from netstore.network.config import DEFAULT_PREFIX
from netstore.network.lease import SUBNETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from netstore.client.faults import TlsNames
    from netstore.client.storeapi import Connection, StoreAccess
    from netstore.client.subnetstore import Differs, Missing, SubnetStore, Written
    from netstore.client.v2 import V2Client

T = TypeVar("T")

PROGRAM: Final = "netstorectl"
DEFAULT_ENDPOINTS: Final = "http://127.0.0.1:2379"

TLS_OPTIONS: Final = frozenset(("--ca-file", "--cert-file", "--key-file"))

DEFAULT_STORE_API: Final = "auto"

DEFAULT_TIMEOUT: Final = 8.0
"""Seconds: above the 7 s after which a store without quorum says so (v2 API, "Cluster behaviour")."""

MAX_INPUT_BYTES: Final = 10 * 1024 * 1024
"""The v2 API accepts no longer form (v2 API, "Limits"), so more standard input is refused."""

MAX_TTL: Final = 9_000_000_000
"""Seconds. Longer ones overflow in etcd: the node becomes permanent or expires (v2 API, "TTL")."""

MAX_INDEX: Final = 2**64 - 2
"""The largest index that has a successor."""


def say(text: str) -> None:
    """Print a line on standard error, with control characters escaped."""
    click.echo(f"{PROGRAM}: {printable(text)}", err=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    say(f"warning: {text}")


@dataclass
class Settings:
    """The values of the shared options, wherever they stand on the command line."""

    endpoints: str = DEFAULT_ENDPOINTS
    prefix: str = DEFAULT_PREFIX
    store_api: str = DEFAULT_STORE_API
    output: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    debug: bool = False
    flags: set[str] = field(default_factory=set)
    """The shared options on the command line, not those of the environment."""
    may_ask: bool = True
    """Whether to prompt for a password; not during completion."""
    names: dict[str, str] = field(default_factory=dict)
    """What stands on the command line in the place of an option here, of a command that has several stores:
    for what is told.
    """

    @property
    def form(self) -> Form:
        """The requested form; by default a table on a terminal, else plain lines."""
        if self.output is not None:
            return Form(self.output)
        return Form.TABLE if sys.stdout.isatty() else Form.PLAIN

    def show(self, content: object, view: Table, *, wide: bool = False) -> None:
        """Print one answer: its JSON document, or the rows of `view`, which are fitted to the terminal unless
        `wide` is set.
        """
        emit(render(self.form, content, view, columns=None if wide else columns()))

    def key(self, *names: str) -> str:
        """The key with these names below the prefix of the network."""
        return posixpath.join(clean(self.prefix), *names)

    def ask(self, action: Callable[[V2Client], Awaitable[T]]) -> T:
        """Run `action` with a client. Each request at each endpoint has the time limit, a watch none."""

        async def conversation() -> T:
            async with self.client() as client:
                return await action(client)

        return self.run(conversation)

    def ask_network(self, action: Callable[[SubnetStore], Awaitable[T]], folder: str = SUBNETS) -> T:
        """Run `action` with the store of the network, in the API that keeps it (`--store-api`), for the
        entries of this folder.
        """

        async def conversation() -> T:
            async with self.access() as access:
                try:
                    store = await access.choose_or_begin()
                    self.store_api = store.api  # further calls go to the same
                    return await action(await access.store(store.api, folder))
                except (NetstoreError, Failure, OSError) as error:
                    fault = error  # raised within, it would come out of a nursery in a group
            raise fault

        return self.run(conversation)

    def access(self) -> StoreAccess:
        """What chooses the API and opens a client for it; `Failure` if these settings cannot be used."""
        from netstore.client.storeapi import StoreAccess  # noqa: PLC0415 - see `run`

        return StoreAccess(self.connection(self.addresses()), self.key(), self.store_api)

    def connection(self, endpoints: tuple[str, ...]) -> Connection:
        """How the store is reached at these endpoints; `Failure` if the settings cannot be used."""
        from netstore.client.storeapi import Connection  # noqa: PLC0415 - see `run`

        username, password = self._credentials()
        self._check_tls()
        return Connection(
            endpoints=endpoints,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            username=username,
            password=password,
            timeout=self.timeout,
            tls_names=self.tls_names,
        )

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run work that calls the store. A failed call becomes a `Failure`."""
        import trio  # noqa: PLC0415 - with httpx 0.2 s, which help and usage errors need not wait

        from netstore.client.faults import ClientError  # noqa: PLC0415 - same

        try:
            with _requests_shown() if self.debug else nullcontext():
                return trio.run(work, restrict_keyboard_interrupt_to_checkpoints=True)
        except ClientError as error:
            failure = failure_of(error)
            raise Failure(failure.status, self.renamed(failure.text)) from None

    def client(self, endpoint: str | None = None) -> V2Client:
        """A client with these settings; `Failure` if they cannot be used."""
        from netstore.client.transport import Transport  # noqa: PLC0415 - see `run`
        from netstore.client.v2 import V2Client  # noqa: PLC0415 - same

        username, password = self._credentials()
        self._check_tls()
        return V2Client(
            Transport(
                self.addresses() if endpoint is None else endpoint,
                ca_file=self.ca_file,
                cert_file=self.cert_file,
                key_file=self.key_file,
                username=username,
                password=password,
                timeout=self.timeout,
                tls_names=self.tls_names,
            )
        )

    def renamed(self, text: str) -> str:
        """What is told of the options here, with their names on the command line."""
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    @property
    def tls_names(self) -> TlsNames:
        """What the files for TLS are called on the command line."""
        from netstore.client.faults import TlsNames  # noqa: PLC0415 - see `run`

        return TlsNames(self.renamed("--ca-file"), self.renamed("--cert-file"))

    @property
    def is_encrypted(self) -> bool:
        """Whether an endpoint is asked over TLS."""
        return any(address.startswith("https:") for address in self.addresses())

    def _check_tls(self) -> None:
        """`Failure` if the files for TLS, which an https endpoint needs, cannot be used, or if they are given
        for a connection that would not be encrypted.
        """
        if self.key_file and not self.cert_file and (self.is_encrypted or "--key-file" in self.flags):
            text = "--key-file: has no effect without the certificate that it is of; give --cert-file, too"
            raise Failure(Exit.USAGE, self.renamed(text))
        for option in sorted(self.flags & TLS_OPTIONS):
            check_used(option, self)
        if not self.is_encrypted:
            return
        from netstore.client.faults import tls_context  # noqa: PLC0415 - see `run`
        from netstore.net.tls import BadFile, NoKey  # noqa: PLC0415 - same

        try:
            tls_context(self.ca_file, self.cert_file, self.key_file)
        except BadFile as error:
            option = f"--{error.setting.replace('_', '-')}"
            fix = "give --key-file, too" if isinstance(error, NoKey) else error.fix
            text = self.renamed(f"{option}: {error.problem}; {fix}")
            raise Failure(Exit.USAGE, text) from None

    def addresses(self) -> tuple[str, ...]:
        """The endpoints as URLs; https is the default if a certificate or CA file is given, else http."""
        from netstore.client.endpoints import parse_endpoints  # noqa: PLC0415 - see `run`

        scheme = "https" if self.ca_file or self.cert_file else "http"
        words = [word.strip() for word in self.endpoints.split(",") if word.strip()]
        if any("@" in word for word in words):
            # Refused here, because the usual message would show the password.
            text = self.renamed("--endpoints: give the user name with --username, not in the address")
            raise Failure(Exit.USAGE, text)
        try:
            return parse_endpoints(word if "://" in word else f"{scheme}://{word}" for word in words)
        except NetstoreError as error:
            raise Failure(Exit.USAGE, self.renamed(str(error))) from None

    def _credentials(self) -> tuple[str | None, str | None]:
        if not self.username:
            return None, None
        name, colon, password = self.username.partition(":")
        if colon:
            return name, password
        told = os.environ.get("NETSTORE_PASSWORD") or os.environ.get("ETCDCTL_PASSWORD")
        if told is None and not (self.may_ask and sys.stdin.isatty()):
            option = self.renamed("--username")
            raise Failure(
                Exit.USAGE,
                f"{option} {name}: no password; set NETSTORE_PASSWORD or run on a terminal to be asked",
            )
        if told is None:
            import getpass  # noqa: PLC0415 - only where somebody is asked

            told = getpass.getpass(f"Password of {name}: ")
        self.username = f"{name}:{told}"  # kept for further calls
        return name, told


def check_used(option: str, *stores: Settings) -> None:
    """`Failure` if an option for TLS is given for stores of which none is asked over TLS."""
    if not any(each.is_encrypted for each in stores):
        where = ",".join(address for each in stores for address in each.addresses())
        raise Failure(
            Exit.USAGE, f"{option}: has no effect at {where}: write https:// there, or leave it out"
        )


def columns() -> int | None:
    """The width of the terminal on standard output; None if it is none."""
    import shutil  # noqa: PLC0415 - loads the compression modules; only answers need it

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def clean(key: str) -> str:
    """The canonical form of a key: one slash in front, none at the end, no empty, `.` or `..` elements."""
    return posixpath.normpath("/" + key.lstrip("/"))


def text_of(content: bytes, what: str) -> str:
    """`content` as text, which is all that the v2 API can store; refused if it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise refused(NOT_TEXT.format(what)) from None


def standard_input(what: str) -> bytes:
    """All of standard input; refused if it is longer than a store accepts."""
    content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(content) > MAX_INPUT_BYTES:
        raise refused(f"{what}: longer than {MAX_INPUT_BYTES} bytes, more than the store takes")
    return content


def index_of(found: Written | Missing | Differs) -> int | None:
    """The index at which a write was done; None if its condition did not hold."""
    from netstore.client.subnetstore import Written  # noqa: PLC0415 - loaded by whoever wrote

    return found.index if isinstance(found, Written) else None


def agreed(question: str) -> bool:
    """Ask for confirmation on the terminal; False if standard input is none."""
    if not sys.stdin.isatty():
        return False
    click.echo(f"{printable(question)} [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


@contextmanager
def _requests_shown() -> Iterator[None]:
    """Print each request on standard error as it is logged: without headers, which may have secrets."""
    import logging  # noqa: PLC0415 - only where --debug asks for it

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"debug: {record.getMessage()}")

    logger, printer = logging.getLogger("netstore.client"), Printer()
    level = logger.level
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(printer)
