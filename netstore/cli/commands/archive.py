"""`netstorectl archive`: what an archive of the log holds, and the state at any point of it as a backup."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from netstore import __version__
from netstore.cli.commands.failures import Exit, Failure, in_words, refused, system_problem
from netstore.cli.commands.folders import require_archive
from netstore.cli.commands.invocation import warn
from netstore.cli.commands.options import PATH, Group, pass_settings, whole
from netstore.cli.commands.points import MAX_REVISION, Point, instant, revision, shown_instant
from netstore.cli.output import Table
from netstore.errors import NetstoreError
from netstore.outputfile import put_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.cli.commands.invocation import Settings
    from netstore.node.pointintime import Reached

    F = TypeVar("F", bound="Callable[..., Any]")

LS_HEADINGS: Final = ("WHAT", "FIRST", "LAST", "FROM", "TO", "FILES", "BYTES")
EXTRACT_HEADINGS: Final = ("FILE", "INDEX", "REVISION", "TIME", "BASE", "SHA256")


def point_options(command: F) -> F:
    """The options that name a point of an archive."""
    for option in (
        click.option("--to-time", type=instant, metavar="TIME", help="The state at this time."),
        click.option("--to-index", type=whole(1, MAX_REVISION), metavar="N", help="After this log entry."),
        click.option(
            "--to-revision", type=revision, metavar="N", help="When the v3 keys reached this revision."
        ),
    ):
        command = option(command)
    return command


@contextmanager
def extracted(  # noqa: PLR0917 - the point, in one of three ways
    folder: Path,
    beside: Path,
    base: Path | None,
    to_revision: int | None,
    to_index: int | None,
    to_time: Point | None,
) -> Iterator[tuple[Path, Reached]]:
    """A full backup of the state at a point of an archive, in a folder beside a path that is removed at the
    end. `Failure` if there is none.
    """
    from netstore.disk.archivefile import NoSuchPoint  # noqa: PLC0415 - few commands need them
    from netstore.node.pointintime import Goal, extract  # noqa: PLC0415 - same

    if sum(each is not None for each in (to_revision, to_index, to_time)) != 1:
        raise click.UsageError(
            "give one of --to-revision, --to-index and --to-time", click.get_current_context()
        )
    require_archive(folder)
    goal = Goal(to_index, to_revision, None if to_time is None else to_time.instant)
    work = _folder_beside(beside)
    try:
        target = work / "backup"
        try:
            reached = extract(
                folder, goal, target, work / "work", base_file=base, version=__version__, warn=warn
            )
        except NoSuchPoint as error:
            raise Failure(Exit.NOT_FOUND, str(error)) from None
        except NetstoreError as error:
            raise refused(str(error)) from None
        except OSError as error:
            raise refused(system_problem(error, folder)) from None
        if reached.is_end:
            end = shown_instant(reached.wall, up=True)
            warn(
                f"the archive ends with entry {reached.applied} of {end}: what was written between then and"
                " the time given is not in it"
            )
        if reached.first_later:
            before = reached.first_later - 1
            warn(
                f"the clocks of members differ, or one was set back: entry {reached.first_later}, which is"
                f" later than the time given, comes before the entry that is taken, {reached.applied} with"
                f" revision {reached.revision}"
                + (f"; for the state before it give --to-index {before}" if before else "")
            )
        yield target, reached
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _folder_beside(path: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    except OSError as error:
        error.filename = str(path)  # the name of the folder is not the user's
        raise refused(system_problem(error)) from None


@click.group(cls=Group)
def archive() -> None:
    """The archive of the log: what it holds, and states from it."""


@archive.command("ls")
@click.argument("folder", type=PATH)
@pass_settings
def ls(settings: Settings, folder: Path) -> None:
    """Show the stretches of entries that an archive holds, the gaps between them, and its states."""
    from netstore.disk.archivefile import listing, read_head  # noqa: PLC0415 - few commands need it

    require_archive(folder)
    rows: list[tuple[str | int | None, ...]] = []
    with in_words(folder):
        found = listing(folder)
        for first, last in found.stretches:
            parts = [part for part in found.parts if first <= part.first and part.last <= last]
            heads = [read_head(part.path) for part in parts]
            times = [head.earliest for head in heads if head.earliest]
            since, until = min(times, default=0), max((head.latest for head in heads), default=0)
            size = sum(part.path.stat().st_size for part in parts)
            shown = shown_instant(since, up=True), shown_instant(until, up=True)
            rows.append(("entries", first, last, *shown, len(parts), size))
        rows += [("gap", first, last, None, None, None, None) for first, last in found.gaps]
        rows += [
            ("state", each.applied, each.applied, None, None, 1, each.path.stat().st_size)
            for each in sorted(found.bases)
        ]
    rows.sort(key=lambda row: (int(row[1] or 0), str(row[0])))
    fields = ("what", "first", "last", "from", "to", "files", "bytes")
    settings.show(
        {"folder": str(folder), "parts": [dict(zip(fields, row, strict=True)) for row in rows]},
        Table(LS_HEADINGS, rows),
    )


@archive.command("extract")
@click.argument("folder", type=PATH)
@click.argument("file", type=PATH)
@click.option(
    "--base",
    type=PATH,
    metavar="BACKUP",
    help="The full backup to begin with.  [a state of the archive]",
)
@point_options
@pass_settings
def extract(
    settings: Settings,
    folder: Path,
    file: Path,
    *,
    base: Path | None,
    to_revision: int | None,
    to_index: int | None,
    to_time: Point | None,
) -> None:
    """Write the state at a point of an archive to FILE, as a full backup.

    Snapshot restore makes the folders of a new cluster from it. FILE must not exist.
    """
    with in_words(file):
        if os.path.lexists(file):
            raise refused(f"{file}: exists; name a new file")
        with extracted(folder, file, base, to_revision, to_index, to_time) as (made, reached):
            put_new(made, file)
    row = (
        str(file),
        reached.applied,
        reached.revision,
        shown_instant(reached.wall, up=True),
        reached.base,
        reached.digest,
    )
    fields = ("file", "index", "revision", "time", "base", "sha256")
    settings.show(dict(zip(fields, row, strict=True)), Table(EXTRACT_HEADINGS, [row]))
