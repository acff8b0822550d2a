"""Wheels are read without trusting them."""

from __future__ import annotations

import io
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network import wheel as wheel_module
from netstore.network.plugins import MAX_WHEEL_BYTES
from netstore.network.wheel import BadWheel, read_wheel
from tests.support.wheels import wheel


def refusal(data: bytes) -> str:
    with pytest.raises(BadWheel) as caught:
        read_wheel(data)
    return str(caught.value)


def test_a_wheel_tells_what_it_has() -> None:
    found = read_wheel(wheel(files={"mine/data.json": b"{}"}))
    assert (found.name, found.version) == ("mine", "1.2")
    assert found.backends == {"my-net": "mine.backend:Mine"}
    assert found.files["mine/data.json"] == b"{}"


@pytest.mark.parametrize(
    "path",
    [
        "../up.py",
        "/etc/passwd",
        "mine/../../up.py",
        "mine//a.py",
        "a\\..\\b.py",
        ".hidden",
        "C:/a",
    ],
)
def test_a_path_out_of_the_folder_is_refused(path: str) -> None:
    assert "not a path below its folder" in refusal(wheel(files={path: b""}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a wheel that can be read"),
        (b"PK\x03\x04" + bytes(100), "not a wheel that can be read"),
        (bytes(MAX_WHEEL_BYTES + 1), "can be kept"),
        (wheel()[:-40], "not a wheel that can be read"),
        (wheel(purelib="false"), "not in pure Python"),
        (wheel(files={"mine-1.2.data/scripts/run": b""}), ".data folder"),
        (wheel(files={"other-1.dist-info/METADATA": b""}), "no METADATA, or more than one"),
        (wheel(files={"MINE/backend.py": b""}), "has MINE/backend.py twice"),
        (wheel(record={"mine/backend.py": "sha256=x"}), "mine/backend.py is not what its RECORD says"),
        (wheel(backends="]["), "entry_points.txt cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_a_link_is_refused() -> None:
    made = io.BytesIO(wheel())
    with zipfile.ZipFile(made, "a") as archive:
        link = zipfile.ZipInfo("mine/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    assert "mine/link is not a plain file" in refusal(made.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_deflate_is_unpacked(method: int) -> None:
    """Damaged data of the other methods raises errors of their own."""
    made = io.BytesIO(wheel())
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("mine/large", bytes(100), method)
        [info] = [each for each in archive.infolist() if each.filename == "mine/large"]
    data = bytearray(made.getvalue())
    start = info.header_offset + 30 + len(info.filename)
    data[start : start + info.compress_size] = b"\xff" * info.compress_size
    assert "mine/large is compressed by a method other than deflate" in refusal(bytes(data))


def test_bounds_hold_whatever_the_archive_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_module, "MAX_UNPACKED_BYTES", 10_000)
    assert "unpacks to more than" in refusal(wheel(files={"mine/zeros": bytes(20_000)}))
    monkeypatch.setattr(wheel_module, "MAX_FILES", 3)
    assert "files; 3 are read" in refusal(wheel())


@given(st.binary(max_size=300), st.integers(0, 900))
def test_damage_raises_nothing_else(noise: bytes, at: int) -> None:
    data = wheel()
    try:
        read_wheel(data[:at] + noise + data[at + len(noise) :])
    except BadWheel as error:
        assert str(error)  # noqa: PT017 - most examples raise
