"""Private files in a backend's folder."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from netstore_plugins import keptfile

from netstore.agent.backend import Refused

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_written_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert keptfile.read(path, 10) is None
    keptfile.write(path, b"one")
    keptfile.write(path, b"two")
    assert keptfile.read(path, 10) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    keptfile.remove(path)
    keptfile.remove(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    keptfile.write(path, b"one")
    path.chmod(mode)
    with pytest.raises(Refused, match=f"has mode {mode:04o}"):
        keptfile.read(path, 10)


def test_a_link_a_folder_a_pipe_and_a_long_file_are_refused(tmp_path: Path) -> None:
    keptfile.write(tmp_path / "key", b"one")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(Refused, match="cannot be read"):
        keptfile.read(tmp_path / "link", 10)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Refused, match="not a regular file"):
        keptfile.read(tmp_path / "pipe", 10)
    with pytest.raises(Refused, match="not a regular file"):
        keptfile.read(tmp_path, 10)
    with pytest.raises(Refused, match="has 3 bytes, more than 2"):
        keptfile.read(tmp_path / "key", 2)


@pytest.mark.root
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keptfile.write(path, b"one")
    os.chown(path, 65534, 65534)
    with pytest.raises(Refused, match="belongs to user 65534"):
        keptfile.read(path, 10)


def test_what_cannot_be_written_or_removed_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be written: No such file or directory"):
        keptfile.write(tmp_path / "missing" / "key", b"x")
    (tmp_path / "key").mkdir()
    with pytest.raises(Refused, match="cannot be written"):
        keptfile.write(tmp_path / "key", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]
    with pytest.raises(Refused, match="cannot be removed"):
        keptfile.remove(tmp_path / "key")


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, content: whole(file, content[:3]))
    keptfile.write(tmp_path / "key", b"0123456789")
    assert keptfile.read(tmp_path / "key", 10) == b"0123456789"
