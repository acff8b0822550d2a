"""`netstorectl history`, `diff` and `undo`: the past of the v3 keys, and the way back to it."""

from __future__ import annotations

import base64
import os
import shlex
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands.failures import Exit, Failure, refused, system_problem
from netstore.cli.commands.folders import require_archive
from netstore.cli.commands.invocation import say, warn
from netstore.cli.commands.options import PATH, Command, pass_settings, whole
from netstore.cli.commands.points import Point, Store, ask_keys, instant, point, revision, shown_instant
from netstore.cli.output import Form, Table
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netstore.cli.commands.invocation import Settings
    from netstore.client.keyspace import Change, Past, Step
    from netstore.client.origins import Origin
    from netstore.proto.kv_pb2 import KeyValue

MOST_STATES: Final = 10_000
"""States of a key that are shown at most."""

MOST_ROWS: Final = 10_000
"""Keys that `diff` and `undo` list at most; of more, only the number."""

HISTORY_HEADINGS: Final = ("REVISION", "TIME", "AUTHOR", "CHANGE", "VERSION", "BYTES", "LEASE")
DIFF_HEADINGS: Final = ("KEY", "CHANGE", "BEFORE", "AFTER", "TIME", "AUTHOR")
UNDO_HEADINGS: Final = ("KEY", "CHANGE", "NOW", "THEN", "RESULT")

DONE: Final = "done"
WOULD: Final = "would be done"
CHANGED: Final = "left alone: it was changed meanwhile"
LEASE_ENDED: Final = "left alone: its lease has ended"
REFUSED: Final = "left alone: the store refuses it"

start_argument = click.argument("start", metavar="PREFIX", type=os.fsencode)


@click.command("history", cls=Command)
@click.option(
    "--limit", type=whole(1, MOST_STATES), default=100, metavar="N", help="The newest N states.  [100]"
)
@click.option("--values", is_flag=True, help="The values, too; base64 where they are no text.")
@click.option(
    "--archive",
    type=PATH,
    metavar="FOLDER",
    help="From this archive of the log instead of the store: as far back as it goes.",
)
@click.argument("key", type=os.fsencode)
@pass_settings
def history(settings: Settings, key: bytes, *, limit: int, values: bool, archive: Path | None) -> None:
    """Show all states of a v3 key that the store still has: when they were written, and by whom.

    It goes back to the last compaction. etcd keeps neither times nor authors.
    """

    async def reading(store: Store) -> tuple[Past, Mapping[int, Origin]]:
        past = await store.keys.past(key, limit)
        return past, await store.origins(each.mod_revision for each in past.states)

    if archive is None:
        past, origins = ask_keys(settings, reading)
        reach = f"the store remembers changes after revision {past.since}"
        rest = "what was before is not known"
    else:
        past, origins = _archived(archive, key, limit)
        reach = "the archive goes back no further"
        if past.since:
            reach = f"the archive has all changes after revision {past.since}"
        rest = "what is not shown of before is not known"
    if not past.states:
        raise Failure(Exit.NOT_FOUND, f"{_text(key)}: nothing is known of it; {reach}")
    show_states(settings, key, past, origins, values=values)
    if past.missed:
        say(f"{past.missed} older states are not shown; see --limit")
    oldest = past.states[0].mod_revision
    if settings.form is Form.TABLE and past.since and (not past.missed or oldest <= past.since):
        say(f"{reach}; {rest}")


def _archived(folder: Path, key: bytes, limit: int) -> tuple[Past, Mapping[int, Origin]]:
    """The past of a key in an archive."""
    from netstore.client.keyspace import Past  # noqa: PLC0415 - see Settings.run
    from netstore.client.origins import Origin  # noqa: PLC0415 - same
    from netstore.node.pointintime import Reach, key_states  # noqa: PLC0415 - same
    from netstore.proto.kv_pb2 import KeyValue  # noqa: PLC0415 - same

    require_archive(folder)
    states: deque[KeyValue] = deque(maxlen=limit)
    origins: dict[int, Origin] = {}
    reach = Reach()
    count = 0
    with tempfile.TemporaryDirectory(prefix="netstorectl-") as work:
        try:
            for each in key_states(folder, key, Path(work) / "state", reach, warn):
                count += 1
                if len(states) == limit:
                    origins.pop(states[0].mod_revision, None)
                states.append(KeyValue.FromString(each.pair))
                author = each.author.decode("utf-8", "backslashreplace")
                origins[each.revision] = Origin(each.revision, each.revision, each.wall, author)
        except NetstoreError as error:
            raise refused(str(error)) from None
        except OSError as error:
            raise refused(system_problem(error, folder)) from None
    return Past(states, count - len(states), reach.since, reach.last), origins


def show_states(
    settings: Settings, key: bytes, past: Past, origins: Mapping[int, Origin], *, values: bool
) -> None:
    """Print the states of a key, oldest first."""
    documents = []
    rows = []
    for state in past.states:
        origin = origins.get(state.mod_revision)
        when, who = _origin(origin)
        change = "delete" if not state.version else "create" if state.version == 1 else "put"
        size = len(state.value) if state.version else None
        lease = f"{state.lease & (2**64 - 1):x}" if state.lease else None
        row = [state.mod_revision, when, who, change, state.version or None, size, lease]
        document = {
            "revision": state.mod_revision,
            "time": when,
            "author": who,
            "change": change,
            "version": state.version,
            "bytes": size,
            "lease": lease,
        }
        if values:
            text, is_text = _value(state.value)
            document |= {"value" if is_text else "valueBase64": text if state.version else None}
            row.append(text if state.version else None)
        documents.append(document)
        rows.append(tuple(row))
    settings.show(
        _named(key) | {"since": past.since, "to": past.last, "missed": past.missed, "states": documents},
        Table((*HISTORY_HEADINGS, "VALUE") if values else HISTORY_HEADINGS, rows),
    )


@click.command("diff", cls=Command)
@click.option(
    "--at",
    "points",
    type=point,
    multiple=True,
    metavar="REVISION|TIME",
    help="Given twice: the two points to compare; given once: that one and now.",
)
@start_argument
@pass_settings
def diff(settings: Settings, start: bytes, *, points: tuple[Point, ...]) -> None:
    """Show which v3 keys that begin with PREFIX were written or deleted between two points of the history.

    A key that has the same value and lease at both is rewritten, as undo leaves it.
    A point is a revision, a time such as 2026-11-30T14:05:00Z, or how long ago: 90s, 15m, 2h, 3d.
    """
    if not 0 < len(points) < 3:
        raise click.UsageError("--at: give it once or twice", click.get_current_context())

    async def comparing(
        store: Store,
    ) -> tuple[list[int], list[tuple[Change, str]], int, Mapping[bytes, int], Mapping[int, Origin]]:
        ends = [await store.resolve(each) for each in points]
        if len(ends) == 1:
            ends.append(await store.keys.revision(start))
        found: list[tuple[Change, str]] = []
        count = 0
        async for change in store.keys.compare(start, *ends):
            if count < MOST_ROWS:
                kind = _kind(change)
                for state in (change.before, change.after):
                    if state is not None:
                        state.ClearField("value")  # what it is is not shown
                found.append((change, kind))
            count += 1
        removed = {each.key for each, _ in found if each.after is None}
        written = [each.after.mod_revision for each, _ in found if each.after is not None]
        origins = await store.origins([*written, ends[1]])
        gone: dict[bytes, int] = {}
        if removed and ends[0] < ends[1] and ends[1] in origins:  # etcd keeps none
            gone = await store.keys.deletions(start, removed, *ends)
            origins |= await store.origins(gone.values())
        return ends, found, count, gone, origins

    ends, found, count, gone, origins = ask_keys(settings, comparing)
    rows = []
    for change, kind in found:
        after = _mod(change.after)
        origin = origins.get(after or gone.get(change.key, 0))
        rows.append((_text(change.key), kind, _mod(change.before), after, *_origin(origin)))
    fields = ("change", "before", "after", "time", "author")
    settings.show(
        {
            "from": ends[0],
            "to": ends[1],
            "count": count,
            "keys": [
                _named(change.key) | dict(zip(fields, row[1:], strict=True))
                for (change, _), row in zip(found, rows, strict=True)
            ],
        },
        Table(DIFF_HEADINGS, rows),
    )
    _tell_rest(count)


@click.command("undo", cls=Command)
@click.option(
    "--since", type=instant, metavar="TIME", help="Undo what was written after this time, or this long ago."
)
@click.option("--to-revision", type=revision, metavar="N", help="Undo what was written after this revision.")
@click.option("--dry-run", is_flag=True, help="Only show what would be written.")
@click.option(
    "--without-leases", is_flag=True, help="Write keys whose lease has ended without one, as permanent keys."
)
@start_argument
@pass_settings
def undo(
    settings: Settings,
    start: bytes,
    *,
    since: Point | None,
    to_revision: int | None,
    dry_run: bool,
    without_leases: bool,
) -> None:
    """Bring the v3 keys that begin with PREFIX back to an earlier state.

    The earlier values are written as new revisions, and keys that did not exist are deleted, so watches see
    it as any change. A key that somebody changes meanwhile is left alone and told.
    """
    if (since is None) == (to_revision is None):
        raise click.UsageError("give either --since or --to-revision", click.get_current_context())
    target = since or Point(str(to_revision), revision=to_revision or 0)
    work = _Undo(start, target, is_dry=dry_run, without_leases=without_leases)
    try:
        ask_keys(settings, work.run)
    except Failure as failure:
        if not work.counts.get(DONE):
            raise
        raise Failure(
            failure.status,
            f"{failure.text}; {work.counts[DONE]} keys are undone: repeat it with"
            f" --to-revision {work.target} for the rest",
        ) from None
    settings.show(
        {
            "toRevision": work.target,
            "fromRevision": work.now,
            "lastRevision": work.written,
            "dryRun": dry_run,
            "counts": work.counts,
            "keys": [
                _named(key) | dict(zip(("change", "now", "then", "result"), row, strict=True))
                for key, *row in work.rows
            ],
        },
        Table(UNDO_HEADINGS, [(_text(key), *row) for key, *row in work.rows]),
    )
    total = sum(work.counts.values())
    _tell_rest(total)
    left = total - work.counts.get(DONE, 0) - work.counts.get(WOULD, 0)
    if left:
        raise refused(
            f"{left} of {total} keys were left alone; look at them with"
            f" netstorectl diff --at {work.target} {_operand(start)}"
        )


class _Undo:
    """One run of `undo`, with what came of it so far."""

    def __init__(self, prefix: bytes, target: Point, *, is_dry: bool, without_leases: bool) -> None:
        self._prefix = prefix
        self._point = target
        self._is_dry = is_dry
        self._without_leases = without_leases
        self.target = self.now = self.written = 0
        """Revisions: to go back to, found at the start, and of the last write."""
        self.counts: dict[str, int] = {}
        """Keys by result."""
        self.rows: list[tuple[bytes, str, int | None, int | None, str]] = []
        self._alive: dict[int, bool] = {0: True}

    async def run(self, store: Store) -> None:
        """Find what differs, and write it batch by batch."""
        from netstore.client.keyspace import Batches, Later, Step  # noqa: PLC0415 - see Settings.run

        self.target = await store.resolve(self._point)
        self.now = await store.keys.revision(self._prefix)
        if self.target > self.now:
            raise Later(self.target, self.now)
        batches = Batches()
        async for key, then, now in store.keys.compare(self._prefix, self.target, self.now):
            lease = 0 if then is None else then.lease
            if then is not None and now is not None and _is_as_wanted(now, then.value, lease):
                continue
            if not await self._is_alive(store, lease):
                if not self._without_leases:
                    self._tell(Step(key, _mod(now) or 0, then), LEASE_ENDED)
                    continue
                lease = 0
                if then is not None and now is not None and _is_as_wanted(now, then.value, lease):
                    continue
            await self._write(store, batches.add(Step(key, _mod(now) or 0, then, lease)))
        await self._write(store, batches.rest())

    async def _is_alive(self, store: Store, lease: int) -> bool:
        if lease not in self._alive:
            if len(self._alive) >= MOST_ROWS:
                self._alive = {0: True}
            self._alive[lease] = await store.keys.is_alive(lease)
        return self._alive[lease]

    async def _write(self, store: Store, batch: Sequence[Step]) -> None:
        if self._is_dry or not batch:
            for step in batch:
                self._tell(step, WOULD)
            return
        async for outcome in store.keys.write(batch):
            self.written = outcome.revision or self.written
            for step in outcome.steps:
                if outcome.refusal:
                    self._tell(step, REFUSED, f": {outcome.refusal}")
                else:
                    self._tell(step, CHANGED if step.key in outcome.changed else DONE)

    def _tell(self, step: Step, result: str, reason: str = "") -> None:
        self.counts[result] = self.counts.get(result, 0) + 1
        if len(self.rows) < MOST_ROWS:
            change = "delete" if step.wanted is None else "put" if step.found else "create"
            self.rows.append((step.key, change, step.found or None, _mod(step.wanted), result + reason))


def _is_as_wanted(now: KeyValue, value: bytes, lease: int) -> bool:
    return now.value == value and now.lease == lease


def _kind(change: Change) -> str:
    if change.before is None:
        return "added"
    if change.after is None:
        return "removed"
    same = _is_as_wanted(change.after, change.before.value, change.before.lease)
    return "rewritten" if same else "changed"


def _mod(state: KeyValue | None) -> int | None:
    return None if state is None else state.mod_revision


def _origin(origin: Origin | None) -> tuple[str | None, str | None]:
    return (None, None) if origin is None else (shown_instant(origin.wall), origin.author or None)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _named(key: bytes) -> dict[str, object]:
    """The fields that name a key in a JSON document; `keyBase64` has the bytes of one that is not UTF-8."""
    text, is_text = _value(key)
    return {"key": _text(key)} if is_text else {"key": _text(key), "keyBase64": text}


def _word(key: bytes) -> str:
    """A key as a word of a command line: quoted for a shell, with escapes (bash(1), QUOTING) where it is no
    printable text.
    """
    text, is_text = _value(key)
    if is_text and text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in key) + "'"


def _operand(key: bytes) -> str:
    """A key as the operand of a command line, whose options are ended if it begins as one."""
    return f"-- {_word(key)}" if key.startswith(b"-") else _word(key)


def _value(value: bytes) -> tuple[str, bool]:
    try:
        return value.decode(), True
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii"), False


def _tell_rest(count: int) -> None:
    if count > MOST_ROWS:
        say(f"{count - MOST_ROWS} more keys are not listed; a longer PREFIX shows fewer")
