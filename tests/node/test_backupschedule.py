"""Scheduled backups: when they are made, what is kept, what is told, and the command after them."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from netstore.disk.backupfile import BackupReader
from netstore.errors import NetstoreError
from netstore.node import backupschedule, fullbackup
from netstore.node.backupschedule import BackupPlan, BackupSchedule
from netstore.state.v2.commands import Set
from netstore.types import ClusterId, NodeId
from tests.support.backups import Place
from tests.support.closing import held, wait_for
from tests.support.local_member import HandClock
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from netstore.node.backup import FullCopy
    from netstore.node.fullbackup import Found

HOUR = 3600.0
SECOND = 10**9


class Site:
    """A member with a state, a folder for its backups, and a clock that is moved by hand."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        (folder / "state").mkdir()
        self.folder = folder / "backups"
        self.folder.mkdir()
        self.place = Place(folder / "state", trio.lowlevel.current_trio_token().run_sync_soon)
        self.place.fill()
        self.clock = HandClock()
        self.place.wall = lambda: self.clock.wall()  # noqa: PLW0108 - the clock may be replaced
        self.plan: dict[str, Any] = {
            "folder": self.folder,
            "every": 6 * HOUR,
            "keep": 3,
            "hook": None,
            "hook_seconds": seconds(60),
            "memory_bytes": 1 << 30,
        } | plan
        self.schedule = self.again()

    def again(self) -> BackupSchedule:
        """The schedule of the same member after a restart."""
        plan = BackupPlan(**self.plan)
        identity = (ClusterId(0xC1), NodeId(7))
        return BackupSchedule(
            plan, self.place.backups, identity, self.clock, self.place.lines, closer=self.place.closer
        )

    async def make(self) -> bool:
        with trio.fail_after(seconds(60)):
            made = await self.schedule.make()
            await trio.to_thread.run_sync(wait_for, self.place.closer)
            return made

    def later(self) -> None:
        """Something changes, and time passes."""
        self.place.apply(Set(b"/a/b", b"more"))
        self.clock.now = type(self.clock.now)(self.clock.now + SECOND)

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@asynccontextmanager
async def site(folder: Path, **plan: Any) -> AsyncIterator[Site]:
    found = Site(folder, **plan)
    try:
        yield found
    finally:
        await trio.to_thread.run_sync(found.place.closer.stop)
        await trio.to_thread.run_sync(found.place.engine.close)


async def test_a_backup_is_verified_and_gets_a_name_that_tells_it(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert await here.make()
        index = here.place.machine.applied
        assert here.files == [f"netstore-c1-7-20261118T110640Z-{index}.backup"]
        path = here.folder / here.files[0]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        state = here.schedule.state
        found = fullbackup.verify(path, 0)
        assert (state.succeeded, state.failed, state.problem, state.running) == (1, 0, "", False)
        assert (state.last_file, state.last_bytes, state.last_index) == (path.name, found.size, index)
        assert state.last_revision == here.place.machine.mvcc.revision
        assert state.last_success == here.clock.wall() / SECOND
        assert state.verified == fullbackup.RESTORED
        assert state.warnings(here.clock.wall() / SECOND) == []


async def test_one_that_is_too_large_for_memory_is_read_through(tmp_path: Path) -> None:
    async with site(tmp_path, memory_bytes=1) as here:
        assert await here.make()
        assert here.schedule.state.verified == fullbackup.READ_THROUGH


async def test_the_newest_of_this_member_are_kept(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        others = ["netstore-c1-8-20261118T110640Z-1.backup", "netstore-c2-7-20261118T110640Z-1.backup", "a"]
        for name in others:
            (here.folder / name).write_text("")
        made = []
        for _ in range(5):
            assert await here.make()
            made.append(here.schedule.state.last_file)
            here.later()
        assert here.files == sorted([*others, *made[-3:]])


async def test_members_that_share_a_folder_do_not_touch_each_others_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with site(tmp_path / "a") as one, site(tmp_path / "b") as two:
        other = NodeId(8)
        two.place.member = other
        two.place.apply(Set(b"/only/there", b"1"))
        plan = BackupPlan(**two.plan | {"folder": one.folder})
        second = BackupSchedule(
            plan,
            two.place.backups,
            (ClusterId(0xC1), other),
            two.clock,
            two.place.lines,
            closer=two.place.closer,
        )
        made: dict[NodeId, bool] = {}

        async def make(schedule: BackupSchedule, id_: NodeId) -> None:
            made[id_] = await schedule.make()

        with trio.fail_after(seconds(120)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make, one.schedule, NodeId(7))
                nursery.start_soon(make, second, other)
        assert made == {NodeId(7): True, other: True}
        found = {fullbackup.verify(one.folder / name, 0).header.index for name in one.files}
        assert found == {one.place.machine.applied, two.place.machine.applied}
        assert len(one.files) == 2


async def test_a_file_that_was_replaced_meanwhile_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as here:
        whole = here.schedule._full
        other = await whole(here.place.folder)

        async def replaced(folder: Path) -> Any:
            made = await whole(folder)
            shutil.copy(other.path, made.path)
            return made

        monkeypatch.setattr(here.schedule, "_full", replaced)
        assert not await here.make()
        assert "is not the file that was written" in here.schedule.state.problem
        assert here.files == []


@pytest.mark.parametrize("keep", [1, 3])
async def test_files_of_higher_indexes_from_before_are_the_old_ones(tmp_path: Path, keep: int) -> None:
    async with site(tmp_path, keep=keep) as here:
        old = [f"netstore-c1-7-2026101{each}T000000Z-{500000 - each}.backup" for each in range(3)]
        for name in old:
            (here.folder / name).write_text("")
        await here.schedule._first_wait()
        assert here.schedule.state.last_file == old[-1]
        assert await here.make()
        assert here.files == [*old[3 - keep + 1 :], here.schedule.state.last_file]


async def test_the_last_one_stays_when_the_clock_was_set_back(tmp_path: Path) -> None:
    async with site(tmp_path, keep=1) as here:
        (here.folder / "netstore-c1-7-20991231T000000Z-9.backup").write_text("")
        assert await here.make()
        assert here.files == [here.schedule.state.last_file]


async def test_files_from_the_future_go_first(tmp_path: Path) -> None:
    """They were made while the clock was ahead, and would stay in the place of those that are made now."""
    async with site(tmp_path, keep=2) as here:
        future = [f"netstore-c1-7-2099123{each}T000000Z-9.backup" for each in range(2)]
        for name in future:
            (here.folder / name).write_text("")
        made = []
        for _ in range(3):
            assert await here.make()
            made.append(here.schedule.state.last_file)
            assert here.schedule._files()[-1][2].name == made[-1]
            here.later()
        assert here.files == made[-2:]


async def test_a_missing_folder_is_told_and_not_made(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.folder.rmdir()
        assert not await here.make()
        [warning] = here.schedule.state.warnings(0)
        assert warning.startswith(f"backup: backup_folder: {here.folder} is no folder: make it, or mount")
        assert not here.folder.exists()
        assert here.place.lines.events == ["backup_failed"]
        here.folder.mkdir()
        assert await here.make()
        assert here.schedule.state.warnings(here.clock.wall() / SECOND) == []


async def test_a_failure_that_lasts_is_logged_once_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as here:
        with monkeypatch.context() as patched:
            for free in (5, 7, 4):
                usage = type("Usage", (), {"free": free})
                patched.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
                assert not await here.make()
        assert here.schedule.state.failed == 3
        [first] = here.place.lines.told("backup_failed")
        assert "no room for a backup: 5 bytes are free" in first["reason"]
        here.folder.rmdir()
        assert not await here.make()
        here.folder.mkdir()
        assert await here.make()
        assert await here.make()
        told = {"backup_failed", "backup_problem_over"}
        assert [each for each in here.place.lines.events if each in told] == [
            *("backup_failed", "backup_problem_over"),
            *("backup_failed", "backup_problem_over"),
        ]
        assert here.place.lines.told("backup_problem_over")[0]["reason"] == first["reason"]


async def test_a_folder_that_is_mounted_read_only_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as here:
        told = os.statvfs

        def read_only(path: Path) -> os.statvfs_result:
            found = list(told(path))
            found[8] |= os.ST_RDONLY
            return os.statvfs_result(found)

        monkeypatch.setattr(os, "statvfs", read_only)
        assert not await here.make()
        [warning] = here.schedule.state.warnings(0)
        assert (
            "is read-only here: mount its disk for writing; under systemd name it in ReadWritePaths="
            in warning
        )


async def test_a_full_folder_is_told_and_nothing_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as here:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5}))
        assert not await here.make()
        assert "no room for a backup: 5 bytes are free" in here.schedule.state.problem
        assert (here.files, here.schedule.state.failed) == ([], 1)


async def test_what_was_damaged_on_its_way_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as here:
        whole = here.schedule._full

        async def damaged(folder: Path) -> Any:
            made = await whole(folder)
            data = bytearray(made.path.read_bytes())
            data[len(data) // 2] ^= 1
            made.path.write_bytes(data)
            return made

        monkeypatch.setattr(here.schedule, "_full", damaged)
        assert not await here.make()
        assert "what was written is damaged: " in here.schedule.state.problem
        assert "damaged at offset" in here.schedule.state.problem
        assert here.files == []


async def test_a_busy_member_is_asked_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as here:
        with monkeypatch.context() as patched:
            patched.setattr(here.place.backups, "_busy", True)  # another one is under way
            assert not await here.make()
        assert here.schedule.state.problem == "etcdserver: another snapshot is being made"
        assert await here.make()


async def test_the_first_one_is_due_by_the_newest_file(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert await here.schedule._first_wait() == 0.0
        assert await here.make()
        path = here.folder / here.files[0]
        for age, expected in ((HOUR, 5 * HOUR), (7 * HOUR, 0.0), (-HOUR, 6 * HOUR)):
            made = here.clock.wall() / SECOND - age
            os.utime(path, (made, made))
            again = here.again()
            assert await again._first_wait() == pytest.approx(expected)
            assert again.state.last_success == pytest.approx(made)
            assert again.state.last_file == path.name
        here.folder.rename(tmp_path / "gone")
        assert await here.again()._first_wait() == 0.0, "and the attempt tells"


async def test_it_goes_on_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as here:
        waits: list[float] = []
        tried: list[bool] = [False, False, True]

        async def make() -> bool:
            return tried.pop(0)

        async def sleep(wait: float) -> None:
            waits.append(wait)
            if not tried:
                raise NetstoreError("enough")

        monkeypatch.setattr(here.schedule, "make", make)
        monkeypatch.setattr(trio, "sleep", sleep)
        with pytest.raises(NetstoreError, match="enough"):
            await here.schedule.run()
        assert waits == [backupschedule.FIRST_SECONDS, 60.0, 60.0, 6 * HOUR]


async def test_an_old_backup_is_told(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert await here.make()
        now = here.clock.wall() / SECOND
        assert here.schedule.state.warnings(now + 11 * HOUR) == []
        assert here.schedule.state.warnings(now + 13 * HOUR) == ["backup: the last one is 46800 s old"]


async def test_one_that_does_not_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as here:
        begun = trio.Event()

        async def hang(_: Path) -> Any:
            begun.set()
            await trio.sleep_forever()

        monkeypatch.setattr(here.schedule, "_full", hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.schedule.make)
            await begun.wait()
            now, state = here.clock.wall() / SECOND, here.schedule.state
            assert state.running
            assert state.warnings(now + 6 * HOUR) == []
            [warning] = state.warnings(now + 7 * HOUR)
            assert warning.startswith("backup: the one that was begun 25200 s ago is not done: look")
            here.schedule.look()
            here.clock.now = type(here.clock.now)(here.clock.now + int(7 * HOUR) * SECOND)
            for _ in range(2):
                here.schedule.look()
            [fields] = here.place.lines.told("backup_late")
            assert fields["reason"] in warning
            nursery.cancel_scope.cancel()
        assert not here.schedule.state.running
        here.schedule.look()
        assert here.place.lines.told("backup_not_late")


async def test_the_loop_does_not_wait_until_a_file_that_gets_no_name_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_part: Path, _path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(backupschedule, "_publish", fail)
    async with site(tmp_path) as here:
        with held(here.place.closer):
            assert not await here.schedule.make()
            assert len(here.files) == 1, "the thread has not come to it"
        assert here.files == []


async def test_want_of_memory_is_a_failed_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as here:

        def short(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(trio, "run_process", short)
        assert not await here.make()
        assert (here.schedule.state.problem, here.files) == ("not enough memory", [])


# --- the command


async def test_the_command_is_given_the_file(tmp_path: Path) -> None:
    script = tmp_path / "off site"
    script.write_text('#!/bin/sh\necho "$1 $NETSTORE_BACKUP_FILE $NETSTORE_BACKUP_REVISION" > "$2"\n')
    script.chmod(0o700)
    told = tmp_path / "told"
    async with site(tmp_path, hook=f"'{script}' 'a word; $HOME' {told}") as here:
        assert await here.make()
        path, revision = here.folder / here.files[0], here.place.machine.mvcc.revision
        assert told.read_text() == f"a word; $HOME {path} {revision}\n"
        assert here.place.lines.events[-1] == "backup_hook_done"


async def test_a_command_that_fails_is_told_with_the_end_of_its_output(tmp_path: Path) -> None:
    async with site(tmp_path, hook="sh -c 'seq 10000; echo no route >&2; exit 3'") as here:
        assert await here.make(), "the backup is good all the same"
        assert here.schedule.state.warnings(here.clock.wall() / SECOND) == [
            "backup_hook: ended with status 3"
        ]
        [fields] = here.place.lines.told("backup_hook_failed")
        assert fields["output"].endswith("10000\nno route")
        assert len(fields["output"]) <= backupschedule.HOOK_OUTPUT_BYTES


async def test_a_command_that_fails_again_is_logged_once_when_it_begins_and_once_when_it_is_over(
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    async with site(tmp_path, hook=f"test ! -e {bad}") as here:
        for _ in range(3):
            assert await here.make()
            here.later()
        lines = here.place.lines
        assert len(lines.told("backup_hook_failed")) == 1
        assert here.schedule.state.hook_failed == 3
        assert not lines.told("backup_problem_over")
        bad.unlink()
        for _ in range(2):
            assert await here.make()
            here.later()
        [fields] = lines.told("backup_problem_over")
        assert fields["problem"] == "backup_hook_failed"


async def test_a_command_that_fails_with_another_status_is_logged_again(tmp_path: Path) -> None:
    status = tmp_path / "status"
    async with site(tmp_path, hook=f"sh -c 'exit $(cat {status})'") as here:
        for each in (1, 1, 127):
            status.write_text(str(each))
            assert await here.make()
            here.later()
        told = here.place.lines.told("backup_hook_failed")
        assert [fields["reason"] for fields in told] == ["ended with status 1", "ended with status 127"]


async def test_the_name_has_the_instant_that_is_in_the_file(tmp_path: Path) -> None:
    """Also if verifying takes long."""
    async with site(tmp_path) as here:
        whole = here.schedule._verified

        async def slow(made: FullCopy) -> Found:
            here.clock.now = type(here.clock.now)(here.clock.now + 90 * SECOND)
            return await whole(made)

        here.schedule._verified = slow  # type: ignore[method-assign]
        assert await here.make()
        [name] = here.files
        with (here.folder / name).open("rb") as file:
            made = BackupReader(file, name).header.made
        assert name.split("-")[3] == made.replace("-", "").replace(":", "")


async def test_a_command_that_prints_much_is_read_to_the_end(tmp_path: Path) -> None:
    async with site(tmp_path, hook="sh -c 'head -c 20000000 /dev/zero; echo over; exit 3'") as here:
        assert await here.make()
        [fields] = here.place.lines.told("backup_hook_failed")
        assert (fields["reason"], fields["output"][-4:]) == ("ended with status 3", "over")
        assert len(fields["output"]) <= backupschedule.HOOK_OUTPUT_BYTES


async def test_a_command_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; sleep 1000 & echo $! >> {pids}; wait"
    limit = seconds(1)  # the shell has begun by then
    async with site(tmp_path, hook=f"sh -c '{script}'", hook_seconds=limit) as here:
        assert await here.make()
        assert here.schedule.state.hook_problem == f"not done after {limit:g} s, and ended"
        assert here.schedule.state.hook_failed == 1
        started = [int(pid) for pid in pids.read_text().split()]
        await trio.to_thread.run_sync(until, lambda: not any(map(_runs, started)), "all of it has ended")


async def test_what_a_command_leaves_in_its_process_group_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with site(tmp_path, hook=f"sh -c 'sleep 1000 & echo $! > {pid}'") as here:
        assert await here.make()
        assert here.schedule.state.hook_problem == ""
        left = int(pid.read_text())
        await trio.to_thread.run_sync(until, lambda: not _runs(left), "it has ended")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with site(tmp_path, hook="/nowhere/program") as here:
        assert await here.make()
        assert here.schedule.state.hook_problem == "/nowhere/program: No such file or directory"
