"""The file subnet.env: atomic replacement, reading it back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from netstore.agent import envfile
from netstore.agent.envfile import SubnetFile
from netstore.agent.problems import ProblemLog
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from netstore.network.subnetenv import SubnetEnv, encode_subnet_env
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NETWORK, SUBNET = Subnet(parse_ip("10.23.0.0"), 16), Subnet(parse_ip("10.23.42.0"), 24)
IPV6 = Subnet6(parse_ip6("fd23::"), 48), Subnet6(parse_ip6("fd23:0:0:2::"), 64)


def test_a_written_file_reads_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    for mtu in (1500, 9000):
        envfile.write(path, encode_subnet_env(NETWORK, SUBNET, mtu, ip_masq=False, ipv6=IPV6))
    assert envfile.read(path) == SubnetEnv(NETWORK, SUBNET, *IPV6)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in path.parent.iterdir()] == ["subnet.env"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "subnet.env"
    envfile.write(path, "old")
    monkeypatch.setattr("os.fchmod", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        envfile.write(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_is_missing_or_unreadable_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    assert envfile.read(path) == SubnetEnv()
    assert envfile.read(tmp_path) == SubnetEnv()
    path.write_bytes(b"\0\xff\n=\nFLANNEL_SUBNET=10.23.42.1/24\n")
    assert envfile.read(path) == SubnetEnv(None, SUBNET)


def test_a_file_that_is_not_as_it_must_be_is_written_again_and_that_is_logged_once(tmp_path: Path) -> None:
    log = KeptLog()
    path = tmp_path / "subnet.env"
    file = SubnetFile(path, ProblemLog(log))
    file.check()
    assert "no subnet is held" in str(file.problem())
    assert file.put("text")
    for spoil, reason in ((path.unlink, "was removed"), (lambda: path.write_text("other"), "was changed")):
        for _ in range(3):
            spoil()
            assert reason in str(file.problem())
            file.check()
            assert (path.read_text(), file.problem()) == ("text", None)
        file.check()
    assert log.events == ["subnet_file_written_again", "subnet_file_right"] * 2


def test_a_withdrawn_file_is_still_read_until_another_is_written(tmp_path: Path) -> None:
    log = KeptLog()
    path = tmp_path / "subnet.env"
    file = SubnetFile(path, ProblemLog(log))
    text = encode_subnet_env(NETWORK, SUBNET, 1500, ip_masq=False)
    for _ in range(2):
        assert file.put(text)
        assert [each.name for each in tmp_path.iterdir()] == ["subnet.env"]
        file.withdraw()
        file.withdraw()
        file.check()
        assert not path.exists()
        assert envfile.read(path) == SubnetEnv(NETWORK, SUBNET)
    file.remove()
    assert list(tmp_path.iterdir()) == []
    assert log.events == []


def test_a_file_that_cannot_be_withdrawn_is_told(tmp_path: Path) -> None:
    log = KeptLog()
    path = tmp_path / "subnet.env"
    file = SubnetFile(path, ProblemLog(log))
    assert file.put("text")
    (tmp_path / "subnet.env.withdrawn").mkdir()
    file.withdraw()
    assert log.events == ["subnet_file_not_withdrawn"]
    assert "could not be withdrawn" in str(file.problem())
    file.check()
    assert path.exists()
    (tmp_path / "subnet.env.withdrawn").rmdir()
    file.check()
    assert not path.exists()
    assert log.events == ["subnet_file_not_withdrawn", "subnet_file_withdrawn"]


def test_a_pipe_at_its_place_does_not_hold_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    os.mkfifo(path)
    assert envfile.read(path) == SubnetEnv()
    assert not SubnetFile(path, ProblemLog(KeptLog())).put("text")


NO_FILES = pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe"),
        (lambda path: path.symlink_to(path.with_name("elsewhere")), "is a symbolic link"),
    ],
)


@NO_FILES
def test_what_is_no_file_is_not_replaced(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    log, path = KeptLog(), tmp_path / "subnet.env"
    make(path)
    before = path.lstat()
    file = SubnetFile(path, ProblemLog(log))
    assert not file.put("text")
    assert os.path.samestat(path.lstat(), before)
    assert [each.name for each in tmp_path.iterdir()] == ["subnet.env"]
    [told] = log.told("subnet_file_not_written")
    assert told["reason"].startswith(words)
    assert told["reason"].endswith("correct subnet_file")
    assert f"could not be written: {words}" in str(file.problem())
    path.unlink()
    assert file.put("text")
    assert file.problem() is None


@NO_FILES
def test_what_is_no_file_is_not_taken_away(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    log, path = KeptLog(), tmp_path / "subnet.env"
    file = SubnetFile(path, ProblemLog(log))
    assert file.put("text")
    path.unlink()
    make(path)
    before = path.lstat()
    with pytest.raises(NetstoreError, match=f"{words}.*; remove it, or correct subnet_file"):
        file.remove()
    assert not file.withdraw()
    assert os.path.samestat(path.lstat(), before)
    assert [each.name for each in tmp_path.iterdir()] == ["subnet.env"]
    [told] = log.told("subnet_file_not_withdrawn")
    assert told["reason"].startswith(words)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    log = KeptLog()
    (tmp_path / "file").write_text("no folder")
    file = SubnetFile(tmp_path / "file" / "subnet.env", ProblemLog(log))
    assert not file.put("text")
    assert "no subnet is held" in str(file.problem())
    assert log.events == ["subnet_file_not_written"]
