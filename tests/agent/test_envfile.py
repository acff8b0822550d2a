"""subnet.env: flannel's format, atomic replacement, reading it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.agent import envfile
from netstore.network.addresses import Subnet, parse_ip

if TYPE_CHECKING:
    from pathlib import Path

NETWORK, SUBNET = Subnet(parse_ip("10.23.0.0"), 16), Subnet(parse_ip("10.23.42.0"), 24)


def test_fields_have_flannels_names_and_order() -> None:
    assert envfile.content(NETWORK, SUBNET, 1500) == (
        "FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET=10.23.42.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
    )


def test_a_written_file_reads_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    for mtu in (1500, 9000):
        envfile.write(path, envfile.content(NETWORK, SUBNET, mtu))
    assert envfile.read(path) == (NETWORK, SUBNET)
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (None, None)),
        ('FLANNEL_NETWORK=10.23.5.6/16\nFLANNEL_SUBNET="10.23.42.1/24"\n', (NETWORK, SUBNET)),
        ("FLANNEL_SUBNET=junk\nFLANNEL_NETWORK=10.23.0.0/16", (NETWORK, None)),
        ("FLANNEL_SUBNET=10.23.42.1/99", (None, None)),
        ("\0\xff\n=\nFLANNEL_SUBNET", (None, None)),
    ],
)
def test_a_file_of_an_earlier_run_may_be_invalid(
    tmp_path: Path, text: str, found: tuple[Subnet | None, Subnet | None]
) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text, encoding="latin-1")
    assert envfile.read(path) == found
    assert envfile.read(tmp_path) == (None, None)
