"""`netstorectl snapshot`: save a backup of everything while the store runs, look at it, verify, restore it.

There are two kinds of files: full backups of a netstored (contrib/doc/format-backup.md), and snapshots of the
v3 keys in etcd's format, which every etcd and netstored makes.
"""

from __future__ import annotations

import re
import secrets
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, Self

import click

from netstore.cli.commands.archive import extracted, point_options
from netstore.cli.commands.failures import in_words, refused
from netstore.cli.commands.folders import NAME_BACKUP, advice
from netstore.cli.commands.importing import DEFAULT_NAME, check_token, members_of
from netstore.cli.commands.invocation import Settings, say, warn
from netstore.cli.commands.options import PATH, Group, pass_settings
from netstore.cli.commands.points import shown_instant
from netstore.cli.output import Table
from netstore.inputfile import open_input
from netstore.outputfile import open_output

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from netstore.cli.commands.points import Point
    from netstore.node.fullbackup import Found
    from netstore.node.pointintime import Reached

FULL: Final = "full"
V3: Final = "v3"
"""The kinds of files."""

MAX_BUMP: Final = 2**40
"""What may be added to a revision: more than any cluster writes, far from the largest number."""

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FIELDS: Final = (
    "kind",
    "cluster",
    "member",
    "name",
    "version",
    "made",
    "revision",
    "compacted",
    "index",
    "v2Index",
    "level",
    "hash",
    "nodes",
    "keys",
    "changes",
    "leases",
    "members",
    "records",
    "size",
    "sha256",
    "verified",
)
"""Fields of every answer about a file; null where its kind does not have it, or it was not found out."""

_SHOWN: Final = ("kind", "revision", "index", "v2Index", "records", "size")
"""Those in a table; how a file was verified, or else its digest, follows."""


def _rate(_context: click.Context, _option: click.Parameter, word: str | None) -> float:
    """Bytes a second; 0 for no limit."""
    if word is None:
        return 0.0
    match = re.fullmatch(r"([0-9]{1,9})([KMG]?)", word, re.IGNORECASE)
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{word!r} is no rate; write bytes a second as 500K, 20M or 1G")
    return float(int(match[1]) * _UNITS[match[2].upper()])


@click.group(cls=Group)
def snapshot() -> None:
    """Backups of the store: save, check and restore them."""


# --- save


@snapshot.command("save")
@click.argument("file", type=PATH)
@click.option("--v3", "only_v3", is_flag=True, help="Only the v3 keys, in etcd's format, as etcdctl does.")
@click.option("--rate", metavar="BYTES", callback=_rate, help="Most bytes a second, as 500K or 20M.")
@pass_settings
def save(settings: Settings, file: Path, *, only_v3: bool, rate: float) -> None:
    """Save everything that a running store has to FILE: v2 keys, v3 keys, leases, members, plugins.

    FILE appears when the backup is complete and was checked; a file of that name is replaced. A transfer that
    breaks goes on where it broke. An etcd gives its v3 keys only.
    """
    if not only_v3 and not _is_netstore(settings):
        warn(
            "the store is an etcd: FILE gets its v3 keys, in etcd's format; keys of its v2 API are not in it"
        )
        only_v3 = True
    with in_words(file), open_output(file) as part:
        _fetch(settings, part.file, rate, only_v3=only_v3)
        part.file.flush()
        content = _content(part.path, is_own=True)
    _show(settings, {"file": str(file)} | content)


def _is_netstore(settings: Settings) -> bool:
    from netstore.client.cluster import ClusterClient  # noqa: PLC0415 - see Settings.run

    return settings.ask(lambda client: ClusterClient(client.transport).is_netstore())


def _fetch(settings: Settings, file: BinaryIO, rate: float, *, only_v3: bool) -> None:
    from netstore.client import backups  # noqa: PLC0415 - see Settings.run

    work = backups.save_v3 if only_v3 else backups.save_full
    connection = settings.connection(settings.addresses())
    with _Bar() as bar:
        settings.run(partial(work, connection, file, rate=rate, progress=bar.move))


class _Bar:
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def move(self, done: int, whole: int) -> None:
        """So many bytes are done, of how many."""
        if sys.stderr.isatty():
            part = done / max(whole, 1)
            shown = f"[{'#' * int(30 * part):<30}] {int(100 * part):3}% of {_size(whole)}"
            if shown != self._shown:
                self._shown = shown
                click.echo(f"\r{shown}", err=True, nl=False)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("", err=True)


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


# --- status and verify


@snapshot.command("status")
@click.argument("file", type=PATH)
@pass_settings
def status(settings: Settings, file: Path) -> None:
    """Tell what is in a backup, full or of v3 keys. All of it is read, and its checksums are verified."""
    with in_words(file):
        content = _content(file)
    _show(settings, {"file": str(file)} | content)


@snapshot.command("verify")
@click.argument("file", type=PATH)
@pass_settings
def verify(settings: Settings, file: Path) -> None:
    """Restore a backup into memory, as a member would load it; nothing is written.

    One that is too large for half of the memory is read through instead, record by record, which the answer
    says.
    """
    from netstore.node import fullbackup  # noqa: PLC0415 - one command of many needs it
    from netstore.ops.memory import usable_memory  # noqa: PLC0415 - same

    with in_words(file):
        if _kind(file) == V3:
            content = _v3_content(file, without_digest=False) | {"verified": fullbackup.READ_THROUGH}
        else:
            found = fullbackup.verify(file, usable_memory() // 2)
            content = _full_content(found) | {"verified": found.how}
    _show(settings, {"file": str(file)} | content)


def _kind(file: Path) -> str:
    """The kind of a file; `Failure`, with the command to use instead, if it is a folder."""
    from netstore.disk.backupfile import MAGIC, is_backup  # noqa: PLC0415 - few commands need it

    if file.is_dir():
        told = advice(file, "a backup")
        raise refused(f"{file}: {told or f'is a folder, and has no backup in it; {NAME_BACKUP}'}")
    with open_input(file, NAME_BACKUP) as opened:
        return FULL if is_backup(opened.read(len(MAGIC))) else V3


def _content(file: Path, *, is_own: bool = False) -> dict[str, object]:
    """What is in a file, all of which is read. `is_own`: it is one that this command writes."""
    from netstore.node import fullbackup  # noqa: PLC0415 - few commands need it

    return (
        _v3_content(file, without_digest=True, is_own=is_own)
        if _kind(file) == V3
        else _full_content(fullbackup.verify(file, 0))
    )


def _full_content(found: Found) -> dict[str, object]:
    header = found.header
    return dict.fromkeys(_FIELDS) | {
        "kind": FULL,
        "cluster": header.cluster,
        "member": header.member,
        "name": header.name,
        "version": header.version,
        "made": header.made,
        "revision": header.revision,
        "compacted": header.compacted,
        "index": header.index,
        "v2Index": header.v2_index,
        "level": header.level,
        "nodes": found.nodes,
        "changes": found.records.get("v3", 0),
        "keys": found.keys,
        "leases": found.leases,
        "members": found.members,
        "records": sum(found.records.values()),
        "size": found.size,
        "sha256": found.digest,
    }


def _v3_content(file: Path, *, without_digest: bool, is_own: bool = False) -> dict[str, object]:
    """What is in a snapshot in etcd's format, with the hash that `etcdctl snapshot status` shows."""
    from netstore.codec import crc32c  # noqa: PLC0415 - few commands need them
    from netstore.etcdfile.boltreader import Database, database_size  # noqa: PLC0415 - same
    from netstore.node.etcdsource import lock  # noqa: PLC0415 - same
    from netstore.node.restore import SAVE_FIRST  # noqa: PLC0415 - same

    with open_input(file, NAME_BACKUP) as opened:
        if not is_own:
            lock(opened, file, SAVE_FIRST)
        size = database_size(opened, str(file), without_digest=without_digest)
        opened.seek(size)
        digest = opened.read()
        database = Database(opened, str(file), size)
        check = records = revision = keys = 0
        for bucket in database.buckets:
            check = crc32c(bucket, check)
            for key, value in database.bucket(bucket):
                check = crc32c(value, crc32c(key, check))
                records += 1
                if bucket == b"key":
                    revision = int.from_bytes(key[:8], "big")
                    keys += 1
    return dict.fromkeys(_FIELDS) | {
        "kind": V3,
        "revision": revision,
        "hash": f"{check:x}",
        "changes": keys,
        "records": records,
        "size": size,
        "sha256": digest.hex() or None,
    }


def _show(settings: Settings, content: Mapping[str, object]) -> None:
    """One answer: all fields in JSON, the most important ones in a table."""
    names = ("file", *_SHOWN, "sha256" if content["verified"] is None else "verified")
    row = tuple(None if content[name] is None else str(content[name]) for name in names)
    headings = tuple(re.sub("([A-Z])", r" \1", name).upper() for name in names)
    settings.show(dict(content), Table(headings, [row]))


# --- restore


@snapshot.command("restore")
@click.argument("file", required=False, type=PATH)
@click.option(
    "--archive",
    "archived",
    type=PATH,
    metavar="FOLDER",
    help="Go on from FILE, or from a state of this archive of the log, to the point named with --to-.",
)
@point_options
@click.option("--data-dir", type=PATH, required=True, help="New or empty folder.")
@click.option("--wal-dir", type=PATH, help="As netstored --wal-dir: for the log alone.")
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Name of this member.")
@click.option("--initial-cluster", metavar="NAME=URL,...", help="All members of the new cluster.  [this one]")
@click.option(
    "--initial-advertise-peer-urls", metavar="URL,...", help="Peer URLs of this member.  [as in the cluster]"
)
@click.option("--initial-cluster-token", metavar="TEXT", help="As netstored is given it.  [etcd-cluster]")
@click.option(
    "--bump-revision", type=click.IntRange(0, MAX_BUMP), default=0, help="Add this to the revision."
)
@click.option("--mark-compacted", is_flag=True, help="Refuse reads and watches of earlier revisions.")
@click.option(
    "--skip-hash-check", is_flag=True, help="Of a v3 snapshot: do not verify the digest at its end."
)
@click.option("--without-auth", is_flag=True, help="Restore although the etcd it is of asks for passwords.")
@pass_settings
def restore(
    settings: Settings,
    file: Path | None,
    *,
    archived: Path | None,
    to_revision: int | None,
    to_index: int | None,
    to_time: Point | None,
    data_dir: Path,
    wal_dir: Path | None,
    name: str,
    initial_cluster: str | None,
    initial_advertise_peer_urls: str | None,
    initial_cluster_token: str | None,
    bump_revision: int,
    mark_compacted: bool,
    skip_hash_check: bool,
    without_auth: bool,
) -> None:
    """Make the data folder of one member of a new cluster from a backup, full or of v3 keys.

    Each member of the cluster restores the same file with the same --initial-cluster and token, into a folder
    of its own. The cluster id is new: no member of the old cluster can be part of it.
    """
    if bump_revision and not mark_compacted:
        raise click.UsageError("--bump-revision needs --mark-compacted: revisions between would be empty")
    if mark_compacted and not bump_revision:
        raise click.UsageError("--mark-compacted needs --bump-revision")
    members = members_of(name, initial_advertise_peer_urls, initial_cluster)
    check_token(initial_cluster_token)
    reached: Reached | None = None
    with ExitStack() as parts:
        if archived is not None:
            at = extracted(archived, data_dir, file, to_revision, to_index, to_time)
            file, reached = parts.enter_context(at)
        elif to_revision is not None or to_index is not None or to_time is not None:
            raise click.UsageError("--to-revision, --to-index and --to-time need --archive")
        elif file is None:
            raise click.UsageError("give FILE, or --archive and the point to restore to")
        parts.enter_context(in_words(file))
        from netstore.node import restore as work  # noqa: PLC0415 - one command of many needs it
        from netstore.ops.store import DEFAULT_CLUSTER_TOKEN  # noqa: PLC0415 - same

        if _kind(file) == FULL and skip_hash_check:  # the kind first: a folder is refused in any case
            raise click.UsageError("--skip-hash-check is for v3 snapshots: a full backup is always verified")
        token = initial_cluster_token or DEFAULT_CLUSTER_TOKEN
        # As netstored does it: the token that everybody knows is used only where several members need one.
        alone = len(members) == 1 and token == DEFAULT_CLUSTER_TOKEN
        wish = work.Wish(
            name,
            members,
            token,
            secrets.token_hex(32) if alone else token,
            bump_revision,
            mark_compacted,
            skip_hash_check,
            without_auth,
            wal_dir,
        )
        done = work.restore(file, data_dir, wish)
    for each in done.left_out:
        warn(each)
    # Not drawn at random: each member is restored by a command of its own, and the ids must agree.
    if len(members) > 1 and not initial_cluster_token:
        made = " and ".join(str(each) for each in (data_dir, wal_dir) if each is not None)
        warn(
            "--initial-cluster-token was not given: a member that is left of another restore of this file"
            " would be taken for one of this cluster; give each restore a token of its own: remove"
            f" {made}, and restore each member with --initial-cluster-token {secrets.token_hex(16)}"
        )
    content: dict[str, str | int | None] = {
        "dataDir": str(data_dir),
        "cluster": f"{done.cluster:x}",
        "member": f"{done.member:x}",
        "name": name,
        "revision": done.revision,
        "v2Index": done.v2_index,
        "records": done.records,
    }
    headings = ["DATA DIR", "CLUSTER", "MEMBER", "NAME", "REVISION", "V2 INDEX", "RECORDS"]
    if reached is not None:
        content |= {"archiveIndex": reached.applied, "archiveTime": shown_instant(reached.wall, up=True)}
        headings += ["ARCHIVE INDEX", "ARCHIVE TIME"]
    settings.show(content, Table(tuple(headings), [tuple(content.values())]))
    if len(members) > 1:
        say("restore the same file for each other member, before any of them is started")
