"""`netstorectl import`: a data folder for a new netstore out of what an etcd has: a snapshot file, its data
folder, or the etcd itself while it serves.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import click

from netstore.cli.commands.failures import Exit, Failure, check_apart, in_words, refused, usage
from netstore.cli.commands.folders import advice, is_of_etcd
from netstore.cli.commands.invocation import Settings, say, warn
from netstore.cli.commands.options import PATH, Command, pass_settings
from netstore.cli.commands.v3calls import v3_client
from netstore.cli.output import Form, Table
from netstore.inputfile import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.client.v2 import Answer, V2Client
    from netstore.node.etcdimport import Report
    from netstore.node.etcdsource import EtcdSource
    from netstore.node.seeding import Founders

DEFAULT_NAME: Final = "default"
DEFAULT_PEER_URL: Final = "http://localhost:2380"

SHOW_SECONDS: Final = 0.2
"""How often progress is shown."""

_NOT_FOUND: Final = 404

_ADDRESS: Final = re.compile(r"https?://.*|(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", re.IGNORECASE)


@click.command("import", cls=Command)
@click.argument("source", metavar="SOURCE")
@click.option("--data-dir", type=PATH, required=True, help="The folder to make, new or empty.")
@click.option("--wal-dir", type=PATH, help="As netstored --wal-dir: for the log alone.")
@click.option("--source-wal-dir", type=PATH, help="Where etcd's log is, if not in its folder.")
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Name of the member.")
@click.option(
    "--initial-advertise-peer-urls",
    "peer_urls",
    metavar="URL[,URL...]",
    help=f"Where the member is reached by others.  [as in --initial-cluster, else {DEFAULT_PEER_URL}]",
)
@click.option(
    "--initial-cluster", metavar="NAME=URL[,...]", help="All members that begin with this data.  [this one]"
)
@click.option(
    "--initial-cluster-token", metavar="TEXT", help="Secret of the new cluster; needed if it has several."
)
@click.option("--without-auth", is_flag=True, help="Import although the etcd asks for passwords.")
@click.option(
    "--without-damaged-end",
    is_flag=True,
    help="Import what the etcd's log has before the place at which its end is damaged.",
)
@click.option(
    "--skip-hash-check", is_flag=True, help="Of a snapshot file: do not verify the digest at its end."
)
@pass_settings
def import_(
    settings: Settings,
    source: str,
    *,
    data_dir: Path,
    wal_dir: Path | None,
    source_wal_dir: Path | None,
    name: str,
    peer_urls: str | None,
    initial_cluster: str | None,
    initial_cluster_token: str | None,
    without_auth: bool,
    without_damaged_end: bool,
    skip_hash_check: bool,
) -> None:
    """Make the data folder of a new netstore from an etcd.

    SOURCE is a file of etcdctl snapshot save, the data folder of an etcd that is stopped, a folder of etcdctl
    backup, or the URL of an etcd that serves. Revisions, versions, leases, v2 indexes and TTLs are kept.
    Nothing in SOURCE is changed. To copy into a netstore that runs, see netstorectl mirror.
    """
    is_live = _is_live(source)
    is_folder = not is_live and Path(source).is_dir()
    for option, given in (
        ("--source-wal-dir", source_wal_dir is not None),
        ("--without-damaged-end", without_damaged_end),
    ):
        if given and not is_folder:
            usage(f"{option}: is for a data folder, and SOURCE is none; leave it out")
    if is_live and "--endpoints" in settings.flags:
        usage("--endpoints: SOURCE is the URL that is asked; leave the option out")
    if skip_hash_check and (is_live or is_folder):
        usage("--skip-hash-check: is for a snapshot file, and SOURCE is none; leave it out")
    members = members_of(name, peer_urls, initial_cluster)
    check_token(initial_cluster_token)
    if len(members) > 1 and is_live:
        usage(
            "--initial-cluster: a running etcd may change between the imports of several members; import it"
            " for one, and let the others join, or stop it and import its data folder"
        )
    if len(members) > 1 and not initial_cluster_token:
        usage("--initial-cluster-token: is needed where several members begin, the same for each")
    token = initial_cluster_token or secrets.token_hex(32)
    with ExitStack() as parts, in_words(data_dir):
        from netstore.node.seeding import founders  # noqa: PLC0415 - help need not wait for the store's modules

        targets = data_dir, wal_dir
        if is_live:
            settings.endpoints = source
            settings.names = {"--endpoints": "SOURCE"}
            with _of_source(source):
                opened = _fetched(settings, data_dir, parts, without_auth=without_auth)
        else:
            opened = _opened(
                source,
                targets,
                source_wal_dir,
                parts,
                without_damaged_end=without_damaged_end,
                skip_digest=skip_hash_check,
            )
        _check(opened, without_auth=without_auth)
        # Members that begin with different data get different ids, so they do not take each other for one.
        origin = opened.digest() if initial_cluster_token else secrets.token_hex(16)
        own = founders(members, name, token, origin)
        report = _written(opened, data_dir, wal_dir, own)
    _tell(settings, opened, report, targets, own)


def members_of(name: str, peer_urls: str | None, initial_cluster: str | None) -> dict[str, tuple[str, ...]]:
    """The peer URLs of all members by name; a usage error if these options cannot be used, or do not fit each
    other.
    """
    from netstore.ops.addresses import MEMBER_NAME, TARGETS, Members  # noqa: PLC0415 - few commands need them
    from netstore.ops.kinds import BadValue  # noqa: PLC0415 - same

    option = "--name"
    try:
        MEMBER_NAME.check(name)
        option = "--initial-advertise-peer-urls"
        urls = None if peer_urls is None else tuple(map(str, TARGETS.read_words([peer_urls])))
        option = "--initial-cluster"
        own = ",".join(f"{name}={url}" for url in urls or (DEFAULT_PEER_URL,))
        listed = Members().read_words([initial_cluster or own])
    except BadValue as bad:
        usage(f"{option}: {bad}")
    if urls == ():
        usage("--initial-advertise-peer-urls: names no URL; give http://ADDRESS:PORT")
    found = {each.name: tuple(map(str, each.peer_urls)) for each in listed}
    if name not in found:
        usage(f"--initial-cluster: names {', '.join(found)}, and not {name}; add it")
    if urls is not None and set(urls) != set(found[name]):
        usage(
            f"--initial-cluster: gives {name} the URLs {','.join(found[name])}, and"
            f" --initial-advertise-peer-urls {','.join(urls)}; make them agree"
        )
    return found


def check_token(token: str | None) -> None:
    """Refuse a token that a data folder cannot keep."""
    from netstore.disk.datadir import MAX_TOKEN_CHARACTERS  # noqa: PLC0415 - few commands need it

    if token and (len(token) > MAX_TOKEN_CHARACTERS or not token.isprintable()):
        usage(f"--initial-cluster-token: give at most {MAX_TOKEN_CHARACTERS} printable characters")


def _is_live(source: str) -> bool:
    """Whether a source is an etcd that serves: URLs or HOST:PORT, separated by commas; unless a file has this
    name, or that of a HOST, so that the name of a file may be meant.
    """
    words = list(filter(None, map(str.strip, source.split(","))))
    if not words or not all(map(_ADDRESS.fullmatch, words)) or os.path.lexists(source):
        return False
    hosts = [word.rpartition(":")[0] for word in words if "://" not in word]
    return not any(map(os.path.lexists, hosts))


@contextmanager
def _of_source(source: str) -> Iterator[None]:
    """That the store does not answer, with what was taken for its address."""
    try:
        yield
    except Failure as failure:
        if failure.status is not Exit.UNAVAILABLE:
            raise
        is_named = all("://" in word for word in source.split(",") if word.strip())
        taken = "" if is_named else f"; no file is named {shortened(source)}, so it was taken for an address"
        raise Failure(failure.status, f"SOURCE: {failure.text}{taken}") from None


def _opened(
    source: str,
    targets: tuple[Path, Path | None],
    source_wal_dir: Path | None,
    parts: ExitStack,
    *,
    without_damaged_end: bool,
    skip_digest: bool,
) -> EtcdSource:
    """What a file or folder has."""
    from netstore.disk.datadir import check_not_both  # noqa: PLC0415 - see above
    from netstore.node.etcdsource import open_file, open_folder  # noqa: PLC0415 - same
    from netstore.types import Nanos  # noqa: PLC0415 - same

    path = Path(source)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refused(
            f"{shortened(source)}: {error.strerror}, and not the address of an etcd either, which is written"
            " http://HOST:PORT; name a file or folder that is there, or an address"
        ) from None
    check_not_both(path if path.is_dir() else path.absolute().parent.parent.parent)  # FOLDER/member/snap/db
    if path.is_dir() and not is_of_etcd(path):
        told_of_folder = advice(path, "the data folder of an etcd")
        if told_of_folder is not None:
            raise refused(f"{path}: {told_of_folder}")
    check_apart((path, source_wal_dir), targets)
    with _progress("reading") as told:
        if path.is_dir():
            now = Nanos(time.time_ns())
            return open_folder(
                path, source_wal_dir, now, parts, told, without_damaged_end=without_damaged_end
            )
        opened = open_file(path, parts, told, skip_digest=skip_digest)
    warn(
        f"{path}: has the v3 keys only; an etcd keeps its v2 tree outside of this file: to import both, give"
        " as SOURCE the data folder of the etcd when it is stopped, or its URL while it serves"
    )
    return opened


def _fetched(settings: Settings, data_dir: Path, parts: ExitStack, *, without_auth: bool) -> EtcdSource:
    """What a running etcd has: a snapshot, taken into a file beside the folder for as long as it is needed,
    and its v2 tree. NetstoreError as of `EtcdSource.check_open`.
    """
    import tempfile  # noqa: PLC0415 - only here

    from netstore.node.etcdimport import V2Auth  # noqa: PLC0415 - see above
    from netstore.node.etcdsource import open_file  # noqa: PLC0415 - same
    from netstore.types import EtcdIndex, Nanos  # noqa: PLC0415 - same

    data_dir.parent.mkdir(parents=True, exist_ok=True)
    file = parts.enter_context(
        tempfile.NamedTemporaryFile(  # noqa: SIM115 - `parts` closes it
            dir=data_dir.parent, prefix=".import-", suffix=".part"
        )
    )
    settings.run(lambda: _save_snapshot(settings, cast("BinaryIO", file)))
    file.flush()
    opened = open_file(Path(file.name), parts)
    opened.v2_auth = V2Auth(enabled=settings.ask(_asks_for_passwords))
    opened.check_open(without_auth=without_auth)
    now = Nanos(time.time_ns())
    listed = settings.ask(_list)
    if listed is None:
        warn("there is no v2 API at this etcd, so only its v3 keys are imported")
        return opened
    opened.add_listing(listed.node, EtcdIndex(listed.etcd_index), now)
    return opened


async def _asks_for_passwords(client: V2Client) -> bool:
    return await client.asks_for_passwords()


async def _list(client: V2Client) -> Answer | None:
    """The v2 tree of a running etcd; None if it has no v2 API."""
    from netstore.client.faults import MAX_ANSWER_BYTES, BadAnswer  # noqa: PLC0415 - see Settings.run

    try:
        return await client.get("/", recursive=True, quorum=True)
    except BadAnswer as error:
        if error.status == _NOT_FOUND:
            return None
        raise refused(
            f"its v2 tree cannot be read while it serves: {error}: if the tree has more than"
            f" {MAX_ANSWER_BYTES >> 20} MiB, or hardly less, stop this etcd and import its data folder"
        ) from None


async def _save_snapshot(settings: Settings, file: BinaryIO) -> None:
    from netstore.client.backups import fetch_v3  # noqa: PLC0415 - see Settings.run

    with _progress("fetching") as told:
        async with v3_client(settings) as client:
            await fetch_v3(client, file, rate=0, progress=lambda done, _: told(done))


def _check(opened: EtcdSource, *, without_auth: bool) -> None:
    """Refuse what an import would lose without a word."""
    opened.check_open(without_auth=without_auth)
    if opened.has_corrupt_alarm:
        raise refused(
            "this etcd has the alarm CORRUPT: its members have different data; find out which is right,"
            " disarm it (etcdctl alarm disarm), and import from that one"
        )


def _written(opened: EtcdSource, data_dir: Path, wal_dir: Path | None, own: Founders) -> Report:
    from netstore.node.etcdimport import Report  # noqa: PLC0415 - help need not wait for the store's modules
    from netstore.node.seeding import seed  # noqa: PLC0415 - same

    report = Report()
    with _progress("writing") as told:
        seed(data_dir, own, opened.applied, opened.records(report), told, wal=wal_dir)
    return report


def _tell(
    settings: Settings,
    opened: EtcdSource,
    report: Report,
    folders: tuple[Path, Path | None],
    own: Founders,
) -> None:
    data_dir, wal_dir = folders
    for each in opened.left_out(report):
        warn(each)
    if opened.facts.members > 1:
        warn(
            f"this etcd was one of {opened.facts.members}: what the others had beyond entry {opened.applied}"
            " is not imported; take the one that is farthest (etcdctl endpoint status)"
        )
    if opened.uncommitted:
        warn(f"the last {opened.uncommitted} entries of its log were taken as if all members had them")
    if opened.torn:
        warn(f"{opened.torn}: the last write was not finished, and was not acknowledged either: left out")
    if opened.lost is not None:
        warn(
            f"{opened.lost.place}: the log is damaged there: the {opened.lost.size} bytes from there on were"
            " left out, with writes that this etcd may have acknowledged"
        )
    if opened.has_hidden:
        warn(
            "a running etcd does not list the hidden keys of its v2 API (names that begin with _): to import"
            " those, stop it and import its data folder"
        )
    fields = (
        ("revision", report.revision),
        ("compacted", report.compacted),
        ("changes", report.changes),
        ("leases", report.leases),
        ("v2Nodes", report.nodes),
        ("v2Index", report.index),
        ("index", opened.applied),
        ("cluster", f"{own.cluster:x}"),
        ("member", f"{own.own:x}"),
        ("dataDir", str(data_dir)),
    )
    settings.show(dict(fields), Table(("FIELD", "VALUE"), fields))
    if settings.form is Form.TABLE:
        log = "" if wal_dir is None else f" --wal-dir {wal_dir}"
        say(f"now start it: netstored --data-dir {data_dir}{log} --name {own.name}")


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int], object]]:
    """What shows progress on standard error, if that is a terminal."""
    shown = [0.0, False]

    def told(done: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - shown[0] > SHOW_SECONDS:
            shown[:] = now, True
            click.echo(f"\r{doing}: {done}", err=True, nl=False)

    try:
        yield told
    finally:
        if shown[1]:
            click.echo("", err=True)
