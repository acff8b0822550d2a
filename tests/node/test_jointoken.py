"""Which join token a member has, and when its folder keeps it."""

# ruff: noqa: S106 - these tokens are no secrets

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from netstore.disk.datadir import DataDir, MemberIdentity, keep_token, read_token
from netstore.errors import NetstoreError, NoRestart
from netstore.node.jointoken import find_token, read_token_file
from netstore.node.membersettings import MemberSettings
from netstore.types import ClusterId, NodeId
from tests.support.links import Quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = ("http://127.0.0.1:2380",)
ALONE = MemberSettings(
    name="a",
    peer_urls=OWN,
    initial={"a": OWN},
    names_members=False,
    initial_token="known",
    known_token="known",
    joins_existing=False,
    join=(),
    join_token=None,
    force_new=False,
)
SHARED = replace(ALONE, names_members=True, initial_token="shared")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataDir]:
    locked = DataDir.lock(tmp_path / "data")
    yield locked
    locked.close()


def found(settings: MemberSettings, folder: DataDir, lines: Quiet | None = None) -> str | None:
    return find_token(settings, folder, certified=False, log=lines or Quiet())


def own(folder: DataDir) -> None:
    folder.adopt(MemberIdentity(ClusterId(1), NodeId(1), "a"))


def test_a_member_alone_makes_a_token_and_keeps_it(folder: DataDir) -> None:
    made = found(ALONE, folder)
    assert made is not None
    assert len(made) == 64
    assert read_token(folder.path) == made
    assert found(ALONE, folder) == made, "a start that ended before the folder had an identity"
    own(folder)
    assert found(ALONE, folder) == made


@pytest.mark.parametrize(
    "settings",
    [
        SHARED,
        replace(ALONE, initial_token="shared"),
        replace(ALONE, joins_existing=True, initial_token="shared"),
    ],
)
def test_members_that_settings_name_share_the_cluster_token(
    settings: MemberSettings, folder: DataDir
) -> None:
    assert found(settings, folder) == "shared"
    assert read_token(folder.path) == "shared"


def test_a_given_token_is_taken_by_a_folder_without_an_identity_only(folder: DataDir) -> None:
    keep_token(folder.path, "old")
    given = replace(SHARED, join_token="given")
    assert found(given, folder) == "given"
    own(folder)
    lines = Quiet()
    assert found(replace(SHARED, join_token="other"), folder, lines) == "given"
    assert len(lines.events("join_token_ignored")) == 1


def test_a_member_that_joins_over_http_needs_a_token(folder: DataDir) -> None:
    joining = replace(ALONE, join=("http://10.0.0.1:2380",))
    with pytest.raises(NoRestart, match=r"^join_token: is needed to join over http: run netstorectl member"):
        found(joining, folder)
    assert found(replace(joining, join=("https://10.0.0.1:2380",)), folder) is None
    assert read_token(folder.path) is None
    assert found(replace(joining, join_token="given"), folder) == "given"


def test_a_member_without_a_token_stays_without_one(folder: DataDir) -> None:
    own(folder)
    assert found(ALONE, folder) is None, "it may have joined by its certificate"


@pytest.mark.parametrize(("certified", "warnings"), [(False, 1), (True, 0)])
def test_a_token_that_everybody_knows_is_warned_of_where_it_is_the_only_proof(
    folder: DataDir, certified: bool, warnings: int
) -> None:
    lines = Quiet()
    settings = replace(SHARED, initial_token="known")
    assert find_token(settings, folder, certified=certified, log=lines) == "known"
    assert len(lines.events("join_token_weak")) == warnings


def test_a_token_file_holds_a_token_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" secret \n")
    assert read_token_file(file) == "secret"
    for content in (b"", b"\n", b"x" * 257, b"a\nb", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(NetstoreError, match=r"^join_token_file: .*token: (holds no|is not UTF-8)"):
            read_token_file(file)
    file.unlink()
    with pytest.raises(NetstoreError, match="No such file or directory; name a file"):
        read_token_file(file)
