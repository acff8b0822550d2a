"""The data folder: private, locked, and refused in one line when something is wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import crc32c
from netstore.disk import datadir
from netstore.disk.datadir import DAMAGED, DataDir, MemberIdentity, is_data_folder, keep_token, read_token
from netstore.disk.skipped import read_skipped
from netstore.errors import CorruptData, NetstoreError
from netstore.inputfile import NotRegular
from netstore.outputfile import sync_folder
from netstore.types import ClusterId, NodeId
from tests.support.folders import adopted

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).resolve().parents[2]
ME = MemberIdentity(ClusterId(0xC1), NodeId(0xA1), "node one")
OTHER = MemberIdentity(ClusterId(0xC1), NodeId(0xA2), "other")


def refused(path: Path, wal_dir: Path | None = None) -> str:
    """The one line with which the folder is refused."""
    with pytest.raises(NetstoreError) as caught:
        adopted(path, ME, wal_dir)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder that was used once."""
    path = tmp_path / "data"
    adopted(path, ME).close()
    return path


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60),
)
def test_an_identity_is_read_as_it_was_written(cluster: int, member: int, name: str) -> None:
    if name.isprintable():
        identity = MemberIdentity(ClusterId(cluster), NodeId(member), name)
        assert MemberIdentity.decode(identity.encode()) == identity


@given(st.binary(max_size=80))
def test_any_other_bytes_raise_value_error(data: bytes) -> None:
    for text in (data, data + f"check {crc32c(data):08x}\n".encode()):
        with pytest.raises((ValueError, KeyError)):
            MemberIdentity.decode(text)


@pytest.mark.parametrize("name", ["two\nlines", "x" * 256, "\x00"])
def test_a_name_that_would_break_the_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="member name"):
        MemberIdentity(ClusterId(1), NodeId(1), name).encode()


def test_a_new_folder_is_private_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    data = adopted(path, ME)
    assert (data.identity, data.path) == (ME, path)
    assert (data.wal_dir, data.state_dir) == (path / "wal", path / "state")
    for made in (path, data.wal_dir, data.state_dir):
        assert made.stat().st_mode & 0o777 == 0o700
    for made in (path / "lock", path / "identity", data.wal_dir / "identity"):
        assert made.stat().st_mode & 0o777 == 0o600
    data.close()


def test_a_folder_has_a_number_of_its_own(tmp_path: Path) -> None:
    numbers = []
    for name in ("a", "b", "a"):
        folder = adopted(tmp_path / name, ME)
        numbers.append(folder.instance())
        folder.close()
    assert numbers[0] == numbers[2] != numbers[1]
    assert len(bytes.fromhex(numbers[0])) == 16
    file = tmp_path / "a" / "instance"
    file.write_bytes(file.read_bytes()[1:])
    folder = DataDir.lock(tmp_path / "a")
    with pytest.raises(CorruptData, match="instance: damaged; nothing was changed: remove it"):
        folder.instance()
    folder.close()


def test_the_folder_of_the_archive_is_kept(tmp_path: Path) -> None:
    folder = adopted(tmp_path / "a", ME)
    assert folder.archive_folder() == ""
    (tmp_path / "a" / "archive").mkdir()  # a likely name for the archive, the log or backups
    for archive in (tmp_path / "a" / "archive", tmp_path / "a\nline and \udcff"):
        folder.note_archive_folder(archive)
        assert folder.archive_folder() == str(archive)
    file = tmp_path / "a" / "archive-place"
    file.write_bytes(file.read_bytes()[1:])
    with pytest.raises(CorruptData, match="archive-place: damaged; nothing was changed: remove it"):
        folder.archive_folder()
    folder.close()


def test_the_identity_stays_what_it_was(folder: Path) -> None:
    data = adopted(folder, OTHER)
    assert data.identity == ME
    data.close()


def test_the_log_may_be_in_another_folder(tmp_path: Path) -> None:
    path, wal = tmp_path / "data", tmp_path / "fast"
    data = adopted(path, ME, wal)
    assert data.wal_dir == wal
    assert not (path / "wal").exists()
    data.close()
    adopted(path, ME, wal).close()


def test_a_log_folder_that_is_not_the_members_is_refused(tmp_path: Path) -> None:
    path, wal = tmp_path / "data", tmp_path / "fast"
    adopted(path, ME, wal).close()
    text = refused(path)
    assert text.startswith(f"{path / 'wal'}: not the log folder of member a1: mount or restore")
    adopted(tmp_path / "second", OTHER, tmp_path / "slow").close()
    assert "not the log folder of member a1" in refused(path, tmp_path / "slow")


def test_a_log_without_identity_is_not_taken_over(tmp_path: Path) -> None:
    wal = tmp_path / "wal"
    wal.mkdir(0o700)
    (wal / f"{0:016x}.wal").write_bytes(b"x")
    told = refused(tmp_path / "data", wal)
    assert "no identity, but" in told
    assert f"move {tmp_path / 'data'} and {wal} away: this member then begins empty" in told


def test_a_state_without_identity_is_not_taken_over(tmp_path: Path) -> None:
    state = tmp_path / "data" / "state" / datadir.STATE_FILE
    state.parent.mkdir(0o700, parents=True)
    state.parent.parent.chmod(0o700)
    state.write_bytes(b"x")
    told = refused(tmp_path / "data")
    assert f"no identity, but {state} is there" in told
    assert "put the file identity back, or the whole folder from a copy of it" in told
    assert "remove" not in told
    assert f"move {tmp_path / 'data'} away: this member then begins empty, without anything" in told


@pytest.mark.parametrize("part", ["snap", "wal"])
def test_the_folder_of_an_etcd_is_refused_and_left_alone(tmp_path: Path, part: str) -> None:
    path = tmp_path / "data"
    (path / "member" / part).mkdir(0o755, parents=True)
    path.chmod(0o700)
    (path / "member" / part / "db").write_bytes(b"x")
    before = {each: each.stat().st_mode for each in path.rglob("*")}
    text = refused(path)
    assert text.startswith(f"{path}: has the data of an etcd (the folder member)")
    assert "netstorectl import --data-dir NEW" in text
    assert {each: each.stat().st_mode for each in path.rglob("*")} == before


@pytest.mark.parametrize("part", ["snap", "wal"])
def test_a_members_folder_in_which_an_etcd_was_run_is_refused_and_left_alone(
    tmp_path: Path, part: str
) -> None:
    path = tmp_path / "data"
    found = DataDir.lock(path)
    found.adopt(ME)
    found.close()
    (path / "member").mkdir(0o700)
    DataDir.lock(path).close()  # what is no etcd's is no matter
    (path / "member" / part).mkdir(0o755)
    before = {each: each.stat().st_mode for each in path.rglob("*")}
    text = refused(path)
    assert text.startswith(
        f"{path}: has the data of this member, and of an etcd that was run in the same folder"
    )
    assert "netstorectl import --data-dir NEW OTHER" in text
    assert text.endswith("if this member's do, start it as before")
    assert {each: each.stat().st_mode for each in path.rglob("*")} == before
    (path / "member").rename(tmp_path / "member")
    DataDir.lock(path).close()


@pytest.mark.parametrize("inside", [True, False])
def test_the_log_of_an_etcd_is_refused_and_left_alone(tmp_path: Path, inside: bool) -> None:
    path = tmp_path / "data"
    wal = path / "wal" if inside else tmp_path / "log"
    wal.mkdir(0o755, parents=True)
    path.mkdir(exist_ok=True)
    path.chmod(0o700)
    (wal / f"{0:016x}-{0:016x}.wal").write_bytes(b"x")
    before = {each: each.stat().st_mode for each in tmp_path.rglob("*")}
    for _ in range(2):
        with pytest.raises(NetstoreError) as caught:
            DataDir.lock(path, None if inside else wal)
        text = str(caught.value)
        assert text.startswith(f"{wal}: has the log of an etcd (0000000000000000-0000000000000000.wal)")
        assert f"netstorectl import --data-dir NEW --source-wal-dir {wal} FOLDER" in text
        assert {each: each.stat().st_mode for each in tmp_path.rglob("*")} == before


def test_the_log_of_an_etcd_is_never_told_to_be_removed(tmp_path: Path) -> None:
    path, wal = tmp_path / "data", tmp_path / "log"
    found = DataDir.lock(path)
    found.adopt(ME)
    found.close()
    wal.mkdir(0o700)
    (wal / f"{0:016x}-{0:016x}.wal").write_bytes(b"x")
    for use in (DataDir.lock, DataDir.read):
        with pytest.raises(NetstoreError) as caught:
            use(path, wal)
        assert "remove" not in str(caught.value)


@pytest.mark.parametrize("name", ["notes.txt", "a\nb", "member", "identity.old"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data"
    path.mkdir(0o700)
    (path / name).write_bytes(b"x")
    (path / name).chmod(0o644)
    text = refused(path)
    assert text == (
        f"{path}: no member's folder, but it has {name!r}; nothing was changed: choose an empty folder"
    )
    assert [each.name for each in path.iterdir()] == [name]
    assert (path / name).stat().st_mode & 0o777 == 0o644


def test_of_many_foreign_files_three_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir(0o700)
    for number in range(9):
        (path / f"f{number}").touch()
    assert "it has 'f0', 'f1', 'f2' and 6 more; nothing" in refused(path)


def test_what_a_crash_leaves_before_there_is_an_identity_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for name in ("lost+found", "wal", "state"):
        (path / name).mkdir(0o700, parents=True)
    path.chmod(0o700)
    for name in ("lock", "identity.new"):
        (path / name).write_bytes(b"")
    adopted(path, ME).close()


def test_a_second_daemon_is_refused_with_the_process_id_of_the_first(folder: Path) -> None:
    data = adopted(folder, ME)
    assert (
        refused(folder)
        == f"{folder}: in use by process {os.getpid()}: stop it, or choose another data folder"
    )
    data.close()
    adopted(folder, ME).close()


def test_the_lock_of_a_killed_daemon_is_gone(folder: Path) -> None:
    code = (
        "import sys, pathlib; from netstore.disk.datadir import *;"
        " d = DataDir.lock(pathlib.Path(sys.argv[1]));"
        " print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        assert f"in use by process {child.pid}" in refused(folder)
        child.send_signal(signal.SIGKILL)
        child.wait()
    adopted(folder, ME).close()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770])
@pytest.mark.parametrize("part", ["", "wal", "state"])
def test_a_folder_open_to_other_users_is_refused_with_the_chmod_to_run(
    folder: Path, mode: int, part: str
) -> None:
    path = folder / part
    path.chmod(mode)
    assert refused(folder) == f"{path}: mode {mode:04o} lets other users in: run chmod 700 {path}"
    path.chmod(0o700)
    adopted(folder, ME).close()


def test_nobody_is_told_to_close_a_folder_of_others(tmp_path: Path) -> None:
    path = tmp_path / "etc"
    path.mkdir(mode=0o755)
    (path / "passwd").write_text("")
    mine = tmp_path / "data"
    text = "mode 0755 lets other users in, and it has files that are no member's: choose another folder"
    assert refused(path) == f"{path}: {text}"
    with pytest.raises(NetstoreError, match=f"{path}: {text}"):
        DataDir.lock(mine, path)
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("there", [None, "lost+found"])
def test_an_empty_folder_is_made_private(tmp_path: Path, there: str | None) -> None:
    path = tmp_path / "volume"
    path.mkdir(mode=0o755)
    if there:
        (path / there).mkdir()
    adopted(path, ME).close()
    assert path.stat().st_mode & 0o777 == 0o700


def test_an_empty_folder_that_others_may_write_to_is_not(tmp_path: Path) -> None:
    path = tmp_path / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    assert refused(path) == f"{path}: mode 0777 lets other users in: run chmod 700 {path}"
    assert path.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_in_the_way_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "data"
    path.write_text("")
    path.chmod(mode)
    assert refused(path) == f"{path}: a file is in the way of the folder: choose another folder"
    assert "a file is in the way" in refused(path / "below")


def test_a_folder_that_may_not_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    assert refused(folder).startswith(f"{folder}: Permission denied: run as the owner")


def test_any_other_failure_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: Path) -> list[str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listdir", broken)
    assert refused(folder) == f"{folder}: Input/output error: check the disk, or choose another folder"


def test_a_newer_format_is_refused(folder: Path) -> None:
    text = (folder / "identity").read_bytes().rpartition(b"check ")[0].replace(b"format 2", b"format 3")
    (folder / "identity").write_bytes(text + f"check {crc32c(text):08x}\n".encode())
    assert "written in format 3, this version reads up to 2: upgrade netstore" in refused(folder)


@pytest.mark.parametrize("where", ["", "wal"])
def test_the_format_before_the_first_release_is_refused_by_name_and_left_as_it_is(
    folder: Path, where: str
) -> None:
    path = folder / where / "identity"
    text = path.read_bytes().rpartition(b"check ")[0].replace(b"format 2", b"format 1")
    path.write_bytes(text + f"check {crc32c(text):08x}\n".encode())
    before = path.read_bytes()
    said = refused(folder)
    assert f"{path}: written in format 1, by a build before the first release" in said
    assert "start the build that wrote it and copy the keys from it, or move the data folder away" in said
    assert path.read_bytes() == before


def test_every_damage_of_the_identity_is_detected(folder: Path) -> None:
    whole = (folder / "identity").read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            image = bytearray(whole)
            image[place] ^= 1 << bit
            (folder / "identity").write_bytes(image)
            with pytest.raises(CorruptData, match="identity: "):
                adopted(folder, ME)
    for size in range(len(whole)):
        (folder / "identity").write_bytes(whole[:size])
        with pytest.raises(CorruptData):
            adopted(folder, ME)


def test_an_identity_that_was_not_complete_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "data"
    adopted(path, OTHER).close()
    (path / "identity").rename(path / "identity.new")
    data = adopted(path, ME)
    assert data.identity == ME
    data.close()


def damaged(folder: Path) -> set[str]:
    """The files of a damaged member that are kept."""
    return {str(path.relative_to(folder)) for path in folder.glob(f"*/{DAMAGED}/*")}


def test_a_damaged_member_is_replaced_and_its_files_are_kept(folder: Path) -> None:
    (folder / "wal" / "1.wal").write_bytes(b"rotten")
    (folder / "state" / "state.lmdb").write_bytes(b"old")
    data = DataDir.lock(folder)
    data.replace(OTHER)
    assert data.identity == OTHER
    data.close()
    again = DataDir.lock(folder)
    assert again.identity == OTHER
    again.close()
    assert damaged(folder) == {"wal/damaged/1.wal", "state/damaged/state.lmdb"}
    assert not (folder / "replacing").exists()


def test_only_the_files_of_the_last_damaged_member_are_kept(folder: Path) -> None:
    data = DataDir.lock(folder)
    for round_, fresh in enumerate((OTHER, ME)):
        (folder / "wal" / f"{round_}.wal").write_bytes(b"rotten")
        data.replace(fresh)
    data.close()
    assert damaged(folder) == {"wal/damaged/1.wal"}


def test_a_replacement_is_finished_wherever_it_was_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0

    def fail_at(path: Path) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == last:
            raise KeyboardInterrupt
        sync_folder(path)

    monkeypatch.setattr(datadir, "sync_folder", fail_at)
    for last in range(2, 20):
        # Cut off at each step after the first, which writes down who is to come.
        (folder / "wal" / f"{last}.wal").write_bytes(b"rotten")
        (folder / "state" / "state.lmdb").write_bytes(b"old")
        data = DataDir.lock(folder)
        fresh = MemberIdentity(ClusterId(0xC1), NodeId(last), "new")
        syncs = 0
        try:
            data.replace(fresh)
        except KeyboardInterrupt:
            interrupted = True
        else:
            interrupted = False
        data.close()
        syncs = 100
        again = DataDir.lock(folder)
        assert again.identity == fresh
        again.close()
        assert damaged(folder) == {f"wal/damaged/{last}.wal", "state/damaged/state.lmdb"}
        if not interrupted:
            break
    assert not interrupted
    assert last > 5, "it has more steps than that"


def test_a_folder_has_no_identity_until_it_is_adopted(tmp_path: Path) -> None:
    data = DataDir.lock(tmp_path / "data")
    assert data.found is None
    with pytest.raises(ValueError, match="no identity yet"):
        _ = data.identity
    data.adopt(ME)
    assert data.identity == ME
    with pytest.raises(ValueError, match="is member a1's"):
        data.adopt(OTHER)
    data.close()


def test_only_the_owner_can_read_a_join_token(tmp_path: Path) -> None:
    assert read_token(tmp_path) is None
    keep_token(tmp_path, "one")
    keep_token(tmp_path, "another one")
    assert read_token(tmp_path) == "another one"
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(NetstoreError, match=r"mode 0640 lets other users read it: run chmod 600"):
        read_token(tmp_path)


@pytest.mark.parametrize(
    "damage", [b"", b"another one\n", b"netstore join token\ntoken one\ncheck 00000000\n"]
)
def test_a_damaged_join_token_is_refused_and_not_changed(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(damage)
    path.chmod(0o600)
    with pytest.raises(CorruptData, match="token: damaged; nothing was changed"):
        read_token(tmp_path)
    assert path.read_bytes() == damage


@pytest.mark.parametrize("token", ["", "two\nlines", "x" * 257])
def test_an_invalid_token_is_not_written(tmp_path: Path, token: str) -> None:
    with pytest.raises(ValueError, match="1 to 256 printable"):
        keep_token(tmp_path, token)


def test_a_damaged_member_keeps_its_join_token(tmp_path: Path) -> None:
    folder = adopted(tmp_path / "data", ME)
    keep_token(folder.path, "one")
    folder.replace(OTHER)
    assert read_token(folder.path) == "one"
    folder.close()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:3])))
    datadir.write_atomically(tmp_path, "name", b"all of it")
    assert (tmp_path / "name").read_bytes() == b"all of it"


def test_files_that_other_users_might_read_are_made_private_and_reported(tmp_path: Path) -> None:
    place = tmp_path / "data"
    adopted(place, MemberIdentity(ClusterId(1), NodeId(2), "n")).close()
    outside = tmp_path / "outside"
    outside.touch(mode=0o644)
    outside.chmod(0o644)
    (place / "wal" / "link").symlink_to(outside)
    wide = [place / "identity", place / "wal" / "0000000000000000.wal", place / "state" / "state.lmdb"]
    for file in wide:
        file.touch()
        file.chmod(0o644)
    folder = DataDir.lock(place)
    assert folder.narrowed == list(map(str, wide))
    assert [file.stat().st_mode & 0o777 for file in (*wide, outside)] == [0o600] * 3 + [0o644]
    folder.close()
    again = DataDir.lock(place)
    assert again.narrowed == []
    again.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "data"
    adopted(place, MemberIdentity(ClusterId(1), NodeId(2), "n")).close()
    planted = place / "wal" / "0000000000000000.wal"
    planted.touch(mode=0o600)
    os.chown(planted, 12345, -1)
    with pytest.raises(NetstoreError, match=r"0\.wal: belongs to user 12345"):
        DataDir.lock(place)
    os.chown(planted, os.geteuid(), -1)
    DataDir.lock(place).close()


def test_a_folder_that_is_filled_is_nobodys_before_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new"
    made = DataDir.make(path)
    (made.state_dir / datadir.STATE_FILE).write_bytes(b"half")
    made.close()
    assert "an import or a restore into it did not come to its end" in refused(path)
    again = DataDir.make(path)
    assert not list(again.state_dir.iterdir()), "what was left is removed"
    again.adopt(ME)
    again.close()
    opened = DataDir.lock(path)
    assert opened.identity == ME
    opened.close()
    with pytest.raises(
        NetstoreError, match="has 'identity', 'wal'; nothing was changed: choose a new or empty folder"
    ):
        DataDir.make(path)


def test_a_folder_that_is_filled_may_be_given_up(tmp_path: Path) -> None:
    made = DataDir.make(tmp_path / "new")
    keep_token(made.path, "a token")
    made.discard()
    assert not list((tmp_path / "new").iterdir())
    DataDir.make(tmp_path / "new").close()


@pytest.mark.parametrize("name", ["file", "token", "member", "state/state.lmdb", "wal/0.wal"])
def test_a_folder_with_anything_in_it_is_not_filled(tmp_path: Path, name: str) -> None:
    path = tmp_path / "used"
    path.mkdir(mode=0o700)
    (path / name).parent.mkdir(exist_ok=True, mode=0o700)
    (path / name).write_bytes(b"")
    with pytest.raises(NetstoreError, match="nothing was changed: choose a new or empty folder"):
        DataDir.make(path)
    assert (path / name).exists()
    assert not (path / "lock").exists()


def test_a_folder_that_another_process_fills_before_it_is_locked_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new"
    real = datadir._lock

    def late(folder: Path) -> int:
        monkeypatch.setattr(datadir, "_lock", real)
        other = DataDir.make(folder)
        (other.state_dir / datadir.STATE_FILE).write_bytes(b"of the other")
        other.adopt(ME)
        other.close()
        return real(folder)

    monkeypatch.setattr(datadir, "_lock", late)
    with pytest.raises(NetstoreError, match="choose a new or empty folder"):
        DataDir.make(path)
    assert (path / "state" / datadir.STATE_FILE).read_bytes() == b"of the other"
    opened = DataDir.lock(path)
    assert opened.identity == ME
    opened.close()


def test_the_folder_of_an_etcd_is_told_whatever_its_mode(tmp_path: Path) -> None:
    (tmp_path / "etcd" / "member" / "snap").mkdir(parents=True)
    (tmp_path / "etcd").chmod(0o755)
    with pytest.raises(NetstoreError, match=r"has the data of an etcd .* netstorectl import"):
        DataDir.lock(tmp_path / "etcd")


def test_a_folder_with_a_state_is_not_to_be_removed(tmp_path: Path) -> None:
    folder = DataDir.lock(tmp_path / "d")
    folder.adopt(MemberIdentity(ClusterId(1), NodeId(2), "a"))
    folder.close()
    with pytest.raises(NetstoreError, match=r"or remove .* to let it begin anew"):
        DataDir.lock(tmp_path / "d", tmp_path / "log")
    (tmp_path / "d" / "state" / "state.lmdb").touch()
    with pytest.raises(NetstoreError, match=r"name it with --wal-dir$"):
        DataDir.lock(tmp_path / "d", tmp_path / "log")


def test_a_log_in_a_folder_of_its_own_is_made_too(tmp_path: Path) -> None:
    path, log = tmp_path / "new", tmp_path / "log"
    log.mkdir(mode=0o700)
    (log / "lost+found").mkdir()
    made = DataDir.make(path, log)
    (log / "0.wal").write_bytes(b"half")
    made.close()
    again = DataDir.make(path, log)
    assert not (log / "0.wal").exists(), "what was left is removed"
    assert (log / "lost+found").exists()
    again.adopt(ME)
    again.close()
    assert not (path / "wal").exists()
    opened = DataDir.lock(path, log)
    assert (opened.identity, opened.wal_dir) == (ME, log)
    opened.close()
    with pytest.raises(NetstoreError, match="log: has 'identity'; nothing was changed"):
        DataDir.make(tmp_path / "other", log)


def test_a_log_folder_that_may_be_given_up(tmp_path: Path) -> None:
    made = DataDir.make(tmp_path / "new", tmp_path / "log")
    (tmp_path / "log" / "0.wal").write_bytes(b"half")
    made.discard()
    assert not list((tmp_path / "new").iterdir())
    assert not list((tmp_path / "log").iterdir())


def test_a_log_folder_that_cannot_be_used_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log" / "file").write_bytes(b"theirs")
    with pytest.raises(NetstoreError, match="log: has 'file'; nothing was changed"):
        DataDir.make(tmp_path / "new", tmp_path / "log")
    assert [each.name for each in (tmp_path / "log").iterdir()] == ["file"]
    with pytest.raises(NetstoreError, match=r"^--wal-dir: .* is the data folder itself"):
        DataDir.make(tmp_path / "new", tmp_path / "new")
    inside = DataDir.make(tmp_path / "new", tmp_path / "new" / "log")
    inside.adopt(ME)
    inside.close()
    DataDir.lock(tmp_path / "new", tmp_path / "new" / "log").close()


@pytest.mark.parametrize("log", [None, "log", "new/wal"])
@pytest.mark.parametrize("last", ["the log", "the log's identity"])
def test_what_was_killed_can_be_run_again(
    tmp_path: Path, log: str | None, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wal = tmp_path / "new", None if log is None else tmp_path / log
    made = DataDir.make(path, wal)
    (made.wal_dir / "0.wal").write_bytes(b"half")
    (made.state_dir / datadir.STATE_FILE).write_bytes(b"half")
    if last == "the log's identity":
        write = datadir._write_identity

        def killed(folder: Path, identity: MemberIdentity) -> None:
            if folder == path:
                raise KeyboardInterrupt
            write(folder, identity)

        with monkeypatch.context() as patched:
            patched.setattr(datadir, "_write_identity", killed)
            with pytest.raises(KeyboardInterrupt):
                made.adopt(ME)
    made.close()
    assert "did not come to its end; nothing was changed: run it again" in refused(path, wal)
    again = DataDir.make(path, wal)
    assert not [each for each in again.wal_dir.iterdir() if each.name != "unfinished"]
    assert not list(again.state_dir.iterdir())
    again.adopt(OTHER)
    again.close()
    opened = DataDir.lock(path, wal)
    assert opened.identity == OTHER
    opened.close()
    assert not list(tmp_path.rglob("unfinished"))


@pytest.mark.parametrize("log", [None, "log"])
def test_what_was_killed_as_it_began_can_be_run_again(
    tmp_path: Path, log: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = 0  # until the step at which it is killed
    began: set[str] = set()
    while True:
        place = tmp_path / str(ran)
        path, wal = place / "new", None if log is None else place / log
        left = [ran]

        def step(call: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def stepping(*words: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return call(*words)

            return stepping

        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(os, "fsync", step(os.fsync))
            patched.setattr(Path, "rename", step(Path.rename))
            DataDir.make(path, wal).close()
        if left[0] > 0:
            break
        found = {each.name for each in place.rglob("unfinished*")}
        began |= found
        if found:
            assert "did not come to its end; nothing was changed: run it again" in refused(path, wal)
        again = DataDir.make(path, wal)
        again.adopt(ME)
        again.close()
        DataDir.lock(path, wal).close()
        assert not list(place.rglob("unfinished*"))
        ran += 1
    assert began == {"unfinished", "unfinished.new"}


@pytest.mark.parametrize("name", ["identity", "instance", "archive-place", "token", "skipped", "lock"])
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(folder: Path, name: str) -> None:
    reads: dict[str, Callable[[], object]] = {
        "identity": lambda: DataDir.glance(folder),
        "instance": lambda: DataDir.glance(folder).known_instance(),
        "archive-place": lambda: DataDir.glance(folder).archive_folder(),
        "token": lambda: read_token(folder),
        "skipped": lambda: read_skipped(folder),
        "lock": lambda: DataDir.lock(folder),
    }
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(NetstoreError) as told:
        reads[name]()
    wanted = f"{folder / name}: is a pipe, not a regular file; nothing was changed: move it away"
    assert str(told.value).startswith(wanted)
    if name == "lock":
        with pytest.raises(NetstoreError, match="is a pipe"):
            DataDir.read(folder)
    if name == "identity":
        with pytest.raises(NotRegular):
            is_data_folder(folder)
        os.mkfifo(folder / "unfinished")
        (folder / name).unlink()
        with pytest.raises(NetstoreError, match="unfinished: is a pipe"):
            DataDir.make(folder)


def test_a_log_folder_belongs_to_one_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    made = DataDir.make(tmp_path / "one", log)
    (log / "0.wal").write_bytes(b"of the first")

    def other_is_refused(words: str) -> None:
        with pytest.raises(NetstoreError, match=words):
            DataDir.make(tmp_path / "other", log)
        assert (log / "0.wal").read_bytes() == b"of the first"

    other_is_refused("into another data folder, which still runs or did not come to its end; nothing was")
    with monkeypatch.context() as patched:  # both look before either has begun
        patched.setattr(datadir, "_check_unused_log", lambda *_: None)
        other_is_refused("log: in use by another import or restore")
    made.close()
    other_is_refused("into another data folder, which still runs or did not come to its end; nothing was")
    (log / "0.wal").unlink()
    with pytest.raises(NetstoreError, match=r"another data folder than .*other, did not come to its end"):
        DataDir.lock(tmp_path / "other", log)
    again = DataDir.make(tmp_path / "one", log)
    again.discard()
    DataDir.make(tmp_path / "other", log).close()


def test_a_log_folder_that_is_the_data_folder_by_another_name(tmp_path: Path) -> None:
    path, link = tmp_path / "new", tmp_path / "link"
    link.symlink_to(path)
    for _ in ("before it is there", "and after"):
        with pytest.raises(NetstoreError, match="link is the data folder itself"):
            DataDir.make(path, link)
    assert not list(path.iterdir())


def test_a_folder_that_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    adopted(path, ME).close()
    (path / "lock").write_bytes(b"")
    before = sorted((each, each.stat().st_mtime_ns) for each in path.rglob("*"))
    with pytest.raises(NetstoreError, match="not the data folder of a member: it has no identity"):
        DataDir.read(tmp_path)
    one, other = DataDir.read(path), DataDir.read(path)
    assert one.identity == other.identity == ME
    with pytest.raises(NetstoreError, match="data: is being read, as by netstorectl export: wait until that"):
        DataDir.lock(path)
    one.close()
    other.close()
    assert sorted((each, each.stat().st_mtime_ns) for each in path.rglob("*")) == before
    running = DataDir.lock(path)
    with pytest.raises(NetstoreError, match=rf"in use by process {os.getpid()}: stop it first"):
        DataDir.read(path)
    running.close()


def test_a_copy_without_its_lock_is_read(folder: Path) -> None:
    (folder / "lock").unlink()
    read = DataDir.read(folder)
    assert read.identity == ME
    read.close()
    assert not (folder / "lock").exists()
