"""The program netstored: runs a member, or, with `--inspect-log` and `--skip-entry`, works on the log of a
member that does not run. Exit codes: `cli.program`.
"""

from __future__ import annotations

if __name__ == "__main__":  # ahead of the imports below, which take a while
    from netstore import entry

    entry.netstored()

import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netstore import __version__
from netstore.api.v3.version import VERSION
from netstore.cli import program
from netstore.errors import NetstoreError
from netstore.ops.layers import Task
from netstore.ops.store import STORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.node.inspection import Inspection
    from netstore.ops.store import StoreConfig

_TOOL: Final = re.compile(r"--?(inspect-log|skip-entry|confirm)(?:=(.*))?", re.DOTALL)
_RANGE: Final = re.compile(r"([0-9]{0,19}):([0-9]{0,19})|([0-9]{1,19})")
_EVERYTHING: Final = ":"


@dataclass(slots=True)
class _LogWork:
    """What to do with the log instead of running the member."""

    shown: str | None = None
    """Which entries to list, as FROM:TO."""
    skip: str | None = None
    """Index of the entry to skip."""
    confirm: str | None = None
    """The hash that confirms it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run netstored with these arguments (by default those of the process). Returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if not any(map(_TOOL.fullmatch, given)):
        return program.main(STORE, given, _serve, claims=VERSION, checked=_check)
    try:
        work, rest = _parse(given)
    except NetstoreError as error:
        program.tell(STORE.program, error)
        return program.NO_RESTART
    return program.main(STORE, rest, lambda config, _: _work_on_log(config, work), reads_files=False)


def _check(config: StoreConfig) -> Iterator[str]:
    """What a start would warn of: settings that are lowered, and what is wrong with folders. NetstoreError
    where a member would not start.
    """
    from netstore.ops import tracing  # noqa: PLC0415 - as in `_serve`
    from netstore.ops.lowered import Bounded  # noqa: PLC0415 - as in `_serve`

    tracing.check(os.environ)
    yield from map(str, Bounded(config).lowered)
    yield from _check_data(config)
    yield from _check_folders(config)


def _check_data(config: StoreConfig) -> Iterator[str]:
    """Whether this user may look into the data folder. NetstoreError where a member would not start on it."""
    from netstore.disk.datadir import DataDir  # noqa: PLC0415 - as in `_serve`

    try:
        DataDir.check(config.data_dir, config.wal_dir)
    except NetstoreError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        yield f"data_dir: {error}"


def _check_folders(config: StoreConfig) -> Iterator[str]:
    """What is wrong with the folders of the archive and of backups; a member starts all the same."""
    if config.archive_folder is not None:
        from netstore.disk.archivefile import check_own  # noqa: PLC0415 - as in `_serve`
        from netstore.disk.datadir import DataDir  # noqa: PLC0415 - as in `_serve`

        try:
            check_own(config.archive_folder, DataDir.glance(config.data_dir))
        except NetstoreError as error:
            yield f"archive_folder: {error}"
        except OSError as error:
            yield f"archive_folder: {error.filename}: {error.strerror}"
    if config.backup_folder is not None:
        from netstore.node.backupschedule import check_folder  # noqa: PLC0415 - as in `_serve`

        try:
            check_folder(config.backup_folder)
        except NetstoreError as error:
            yield str(error)
        except OSError as error:
            yield f"backup_folder: {error.filename}: {error.strerror}"


def _serve(config: StoreConfig, notices: Sequence[str]) -> None:
    # Imported here so that --help and --check-config do not load what only a running member needs.
    import trio  # noqa: PLC0415

    from netstore.ops import logging  # noqa: PLC0415
    from netstore.server.daemon import serve  # noqa: PLC0415

    streams = logging.standard_streams(config.log_outputs)
    logging.configure(config.log_level, config.log_format, *streams)
    log = logging.get_logger("netstored")
    for notice in notices:
        log.warning("setting_warning", notice=notice)
    log.info("member_starting", version=__version__, name=config.name, data_dir=config.data_dir)
    trio.run(serve, config)


def _parse(given: Sequence[str]) -> tuple[_LogWork, list[str]]:
    work = _LogWork()
    rest: list[str] = []
    words = list(given)
    while words:
        word = words.pop(0)
        match = _TOOL.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        flag, value = match.groups()
        if value is None and words and _fits(flag, words[0]):
            value = words.pop(0)
        if flag == "inspect-log":
            work.shown = _EVERYTHING if value is None else value
        elif value is None:
            raise NetstoreError(f"flag --{flag} needs a value; write --{flag}=VALUE")
        elif flag == "skip-entry":
            work.skip = value
        else:
            work.confirm = value
    if STORE.parse(rest).task is Task.CHECK:
        raise NetstoreError("--check-config is for a member that runs; leave it out to work on the log")
    if work.shown is not None:
        _bounds(work.shown)
    if work.skip is not None and not re.fullmatch("[0-9]{1,19}", work.skip):
        raise NetstoreError(f"--skip-entry: {work.skip!r} is no index; --inspect-log lists the entries")
    if work.confirm is not None and work.skip is None:
        raise NetstoreError("--confirm works only with --skip-entry INDEX; name the entry")
    return work, rest


def _fits(flag: str, word: str) -> bool:
    # A range may be left out, so what may be a flag is none; another value may begin with one dash.
    return not word.startswith("-" if flag == "inspect-log" else "--")


def _work_on_log(config: StoreConfig, work: _LogWork) -> None:
    from netstore.node.inspection import Inspection  # noqa: PLC0415 - as in `_serve`

    with Inspection(config.data_dir, config.wal_dir) as inspection:
        if work.shown is not None:
            first, last = _bounds(work.shown)
            if inspection.has_none(first, last):
                raise NetstoreError(
                    f"--inspect-log: {work.shown!r} has no entry of the log, which has {inspection.span}"
                )
            program.write(inspection.lines(first, last))
        if work.skip is not None:
            _skip(inspection, int(work.skip), work.confirm)


def _bounds(shown: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(shown)
    if match is None:
        raise NetstoreError(f"--inspect-log: {shown!r} is no range of entries; write FROM:TO")
    first, last, one = match.groups()
    bounds = (int(one), int(one)) if one else (int(first or 0), int(last or 10**19))
    if bounds[0] > bounds[1]:
        raise NetstoreError(f"--inspect-log: {shown!r} ends before it begins; write the lower index first")
    return bounds


def _skip(inspection: Inspection, index: int, confirm: str | None) -> None:
    entry = inspection.find(index)
    program.write([f"{entry.index} {entry.hash} {entry.line}"])
    if confirm is None and sys.stdin.isatty():
        question = f"This member will not apply this entry. Type its hash, {entry.hash}, to skip it: "
        program.write([question], end="")
        confirm = sys.stdin.readline().strip()
    if confirm is None:
        raise NetstoreError(
            f"entry {index} was not skipped: this member would never apply it; to confirm that, add"
            f" --confirm {entry.hash}"
        )
    if confirm != entry.hash:
        raise NetstoreError(f"entry {index} was not skipped: its hash is {entry.hash}, not {confirm!r}")
    inspection.skip(entry)
    program.write(
        [
            f"This member skips entry {index} from its next start on.",
            "Every member of the cluster has to skip it, before its next start:",
            f"    netstored --data-dir FOLDER --skip-entry {index} --confirm {entry.hash}",
            "Members compare their states when they run again; one that differs from the others stops.",
        ]
    )
