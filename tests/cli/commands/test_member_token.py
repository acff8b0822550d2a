"""`netstorectl member token`: from the data folder, and never from the network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from netstore.cli.netstorectl import run
from netstore.disk.datadir import keep_token

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOBODY = "http://127.0.0.1:1"


def test_it_prints_what_the_folder_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_token(tmp_path, "a token")
    words = ["--endpoints", NOBODY, "member", "token", "--data-dir", str(tmp_path)]
    assert run(words) == 0
    assert capsys.readouterr().out == "a token\n"
    assert run([*words, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"token": "a token"}


def test_without_a_folder_it_looks_where_a_store_keeps_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    keep_token(tmp_path, "another")
    assert run(["member", "token"]) == 0
    assert capsys.readouterr().out == "another\n"


def test_a_folder_without_one_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["member", "token", "--data-dir", str(tmp_path)]) == 3
    assert "has no join token: name the data folder of a member with --data-dir" in capsys.readouterr().err


def test_one_that_others_may_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_token(tmp_path, "a token")
    (tmp_path / "token").chmod(0o644)
    assert run(["member", "token", "--data-dir", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "run chmod 600" in told.err
    assert "a token" not in told.out + told.err
