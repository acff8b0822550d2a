"""The file subnet.env: atomic replacement, reading it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.agent import envfile
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from netstore.network.subnetenv import SubnetEnv, encode_subnet_env

if TYPE_CHECKING:
    from pathlib import Path

NETWORK, SUBNET = Subnet(parse_ip("10.23.0.0"), 16), Subnet(parse_ip("10.23.42.0"), 24)
IPV6 = Subnet6(parse_ip6("fd23::"), 48), Subnet6(parse_ip6("fd23:0:0:2::"), 64)


def test_a_written_file_reads_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    for mtu in (1500, 9000):
        envfile.write(path, encode_subnet_env(NETWORK, SUBNET, mtu, ipv6=IPV6))
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
