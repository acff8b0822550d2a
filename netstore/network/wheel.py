"""Reading the wheel of a plugin (PyPA specification "Binary distribution format") without trusting it. Pure:
a wheel is its bytes.

Only wheels in pure Python are read, which are installed by unpacking them. Nothing is unpacked here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import stat
import struct
import zipfile
import zlib
from configparser import ConfigParser
from configparser import Error as ConfigError
from email.parser import HeaderParser
from typing import Final, NamedTuple

from netstore.errors import NetstoreError
from netstore.network.plugins import MAX_WHEEL_BYTES

GROUP: Final = "netstore.backends"
"""The entry points of backends."""

MAX_FILES: Final = 2_000
MAX_UNPACKED_BYTES: Final = 32 * 1024 * 1024
MAX_PATH_BYTES: Final = 200

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,100}")
_DIST_INFO: Final = re.compile(r"([A-Za-z0-9_.]+-[A-Za-z0-9_.!+]+\.dist-info)/METADATA")


class BadWheel(NetstoreError):  # noqa: N818 - named for what was found
    """The wheel cannot be used: what is wrong with it, and what to do."""


class WheelContent(NamedTuple):
    """A wheel: its files by path, the name and version of the distribution, and its backends (name in the
    network config -> object).
    """

    files: dict[str, bytes]
    name: str
    version: str
    backends: dict[str, str]


def read_wheel(data: bytes) -> WheelContent:
    """What a wheel holds. BadWheel if it is none, has more than the bounds allow, would be unpacked outside
    of its folder, or has files that are not what its RECORD says.
    """
    if len(data) > MAX_WHEEL_BYTES:
        raise BadWheel(f"the wheel has {len(data)} bytes; {MAX_WHEEL_BYTES} can be kept")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = _files(archive)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise BadWheel(f"not a wheel that can be read ({error}); build it again") from None
    folders = {match[1] for path in files if (match := _DIST_INFO.fullmatch(path))}
    if len(folders) != 1:
        raise BadWheel("it has no METADATA, or more than one; build it again")
    [folder] = folders
    if any(path.partition("/")[0].endswith(".data") for path in files):
        raise BadWheel("it has a .data folder, which unpacking does not install; build it in pure Python")
    wheel = HeaderParser().parsestr(_text(files, f"{folder}/WHEEL"))
    if wheel.get("Root-Is-Purelib", "").strip().lower() != "true":
        raise BadWheel("it is not in pure Python (Root-Is-Purelib); build it without extension modules")
    _check_record(files, folder)
    metadata = HeaderParser().parsestr(_text(files, f"{folder}/METADATA"))
    return WheelContent(
        files,
        str(metadata.get("Name", "")).strip(),
        str(metadata.get("Version", "")).strip(),
        _backends(files.get(f"{folder}/entry_points.txt", b"")),
    )


def _files(archive: zipfile.ZipFile) -> dict[str, bytes]:
    members = [each for each in archive.infolist() if not each.is_dir()]
    if len(members) > MAX_FILES:
        raise BadWheel(f"it has {len(members)} files; {MAX_FILES} are read")
    if sum(each.file_size for each in members) > MAX_UNPACKED_BYTES:
        raise BadWheel(f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    files: dict[str, bytes] = {}
    folded: set[str] = set()
    left = MAX_UNPACKED_BYTES
    for member in members:
        path = member.filename
        parts = path.split("/")
        if len(path) > MAX_PATH_BYTES or not all(_PART.fullmatch(part) for part in parts):
            raise BadWheel(f"it has the file {path[:80]!r}, which is not a path below its folder")
        kind = member.external_attr >> 16
        if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
            raise BadWheel(f"{path} is not a plain file")
        if path.lower() in folded:
            raise BadWheel(f"it has {path} twice")
        folded.add(path.lower())
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadWheel(f"{path} is compressed by a method other than deflate; build it again")
        with archive.open(member) as file:  # what the archive says of its size need not be true
            files[path] = file.read(left + 1)
        left -= len(files[path])
        if left < 0:
            raise BadWheel(f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    return files


def _text(files: dict[str, bytes], path: str) -> str:
    if path not in files:
        raise BadWheel(f"it has no {path}; build it again")
    return files[path].decode("utf-8", "replace")


def _check_record(files: dict[str, bytes], folder: str) -> None:
    recorded: dict[str, str] = {}
    for line in _text(files, f"{folder}/RECORD").splitlines():
        path, _, rest = line.rpartition(",")[0].rpartition(",")
        if path:
            recorded[path.strip('"')] = rest
    for path, content in files.items():
        if path in (f"{folder}/RECORD", f"{folder}/RECORD.jws", f"{folder}/RECORD.p7s"):
            continue
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if recorded.get(path) != f"sha256={digest}":
            raise BadWheel(f"{path} is not what its RECORD says; build it again")


def _backends(text: bytes) -> dict[str, str]:
    parser = ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    try:
        parser.read_string(text.decode("utf-8", "replace"))
    except ConfigError as error:
        raise BadWheel(f"its entry_points.txt cannot be read ({error}); build it again") from None
    return dict(parser[GROUP]) if parser.has_section(GROUP) else {}
