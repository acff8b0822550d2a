"""What the configuration says about who a member is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.ops.enrollment import member_settings
from netstore.ops.store import DEFAULT_CLUSTER_TOKEN, STORE

if TYPE_CHECKING:
    from pathlib import Path

SHARED = "shared by all members"


def test_a_member_alone_names_no_others() -> None:
    settings = member_settings(STORE.load((), {}).config)
    assert settings.initial == {"default": ("http://127.0.0.1:2380",)}
    assert not settings.names_members
    assert not settings.joins_existing
    assert settings.initial_token == settings.known_token == DEFAULT_CLUSTER_TOKEN
    assert settings.join_token is None


def test_members_are_by_name_and_the_token_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SHARED}\n")
    argv = [
        *("--name", "a", "--initial-cluster", "a=http://a:1,b=http://b:1"),
        *("--initial-cluster-state", "existing", "--join-token-file", str(tmp_path / "token")),
    ]
    settings = member_settings(STORE.load(argv, {}).config)
    assert settings.initial == {"a": ("http://a:1",), "b": ("http://b:1",)}
    assert settings.peer_urls == ("http://a:1",)
    assert settings.names_members
    assert settings.joins_existing
    assert settings.join_token == SHARED
