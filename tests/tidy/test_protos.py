"""The generated modules are what protoc makes of the .proto files beside them today."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from contrib.proto.generate import PROTOS, ROOT, generate

if TYPE_CHECKING:
    from pathlib import Path


def content(folder: Path) -> dict[str, str]:
    """Generated files below a folder, by name; without the compiler's release, which another machine may have
    newer.
    """
    return {
        file.name: re.sub(
            r"^# Protobuf Python Version.*|PUBLIC,\n(    \d+,\n){3}", "", file.read_text(), flags=re.MULTILINE
        )
        for file in (folder / "netstore" / "proto").glob("*_pb2.py*")
    }


def test_generated_modules_are_those_of_the_protos(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = content(tmp_path)
    assert fresh.keys() == {f"{name}_pb2.{kind}" for name in PROTOS for kind in ("py", "pyi")}
    assert content(ROOT) == fresh, "run `python -m contrib.proto.generate` and commit what it wrote"
