"""The format documents agree with what is written, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.archivefile import ArchiveWriter
from netstore.disk.datadir import MemberIdentity, keep_token
from netstore.disk.diagnose import segment_name
from netstore.disk.frame import Identity
from netstore.disk.wal import Wal
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.dump import DOCUMENTS, dump, dumped
from tests.support.member import HandDevice

if TYPE_CHECKING:
    from pathlib import Path


def test_the_log_is_as_documented() -> None:
    device = HandDevice()
    wal, _ = Wal.open(device, Identity(0xC1, 0xA))
    entry = Entry(Index(1), Term(2), EntryKind.NORMAL, b"hello")
    wal.append(HardState(Term(2), NodeId(0xA), Index(0)), [entry], lambda _: None)
    device.sync()
    written = bytes(device.files[segment_name(0)])
    shown = dumped("format-wal.md", "## A worked dump")
    assert written.rstrip(b"\0") == shown.rstrip(b"\0"), f"it is\n{dump(written)}"


def test_the_identity_is_as_documented() -> None:
    text = (DOCUMENTS / "format-datadir.md").read_text()
    identity = MemberIdentity(ClusterId(0xC1), NodeId(0xA), "node1").encode().decode()
    assert "".join(f"    {line}\n" for line in identity.splitlines()) in text


def test_the_identity_of_an_archive_is_as_documented(tmp_path: Path) -> None:
    text = (DOCUMENTS / "format-archive.md").read_text()
    ArchiveWriter.open(tmp_path, ClusterId(0xC1), "0f3c6f0e9e6e4d0f8a4f8f9a7e1d2c3b").close()
    identity = (tmp_path / "identity").read_text()
    assert "".join(f"    {line}\n" for line in identity.splitlines()) in text


def test_the_join_token_is_as_documented(tmp_path: Path) -> None:
    text = (DOCUMENTS / "format-datadir.md").read_text()
    keep_token(tmp_path, "a token")
    kept = (tmp_path / "token").read_text()
    assert "".join(f"    {line}\n" for line in kept.splitlines()) in text
