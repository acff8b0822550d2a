"""Wheels of made-up plugins, built in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CODE: Final = """\
from netstore.agent import backend


class Mine:
    manifest = backend.Manifest(name="{name}", version="{version}")
"""


def wheel(
    name: str = "my-net",
    version: str = "1.2",
    files: Mapping[str, bytes] | None = None,
    *,
    purelib: str = "true",
    record: Mapping[str, str] | None = None,
    backends: str | None = None,
) -> bytes:
    """A wheel of the distribution `mine` with the backend `name`; `files` are added to it, and `record`
    replaces digests.
    """
    folder = f"mine-{version}.dist-info"
    entry = f"{name} = mine.backend:Mine\n" if backends is None else backends
    content: dict[str, bytes] = {
        "mine/__init__.py": b"",
        "mine/backend.py": CODE.format(name=name, version=version).encode(),
        **(files or {}),
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: mine\nVersion: {version}\n".encode(),
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {purelib}\nTag: py3-none-any\n".encode(),
        f"{folder}/entry_points.txt": f"[netstore.backends]\n{entry}".encode(),
    }
    digests = {path: _digest(data) for path, data in content.items()} | dict(record or {})
    lines = [f"{path},{digest},{len(content.get(path, b''))}" for path, digest in digests.items()]
    content[f"{folder}/RECORD"] = "\n".join([*lines, f"{folder}/RECORD,,", ""]).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return made.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"
