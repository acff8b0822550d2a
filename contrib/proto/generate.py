"""Turn the .proto files of this folder into the Python modules of `netstore/api/v3/pb`.

    python -m contrib.proto.generate

Needs grpcio-tools, at development time alone. What it wrote is committed, and compared by
`tests/tidy/test_protos.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from grpc_tools import protoc  # type: ignore[import-untyped]  # it has no annotations

HERE: Final = Path(__file__).parent
TARGET: Final = HERE.parents[1] / "netstore" / "api" / "v3" / "pb"
PROTOS: Final = ("kv", "rpc", "health")


def generate(target: Path) -> None:
    """Write a module and its types for each .proto file into `target`. RuntimeError when protoc
    refuses one.
    """
    for name in PROTOS:
        scratch = target / "scratch"
        scratch.mkdir(parents=True)
        words = ("protoc", f"-I{HERE}", f"--python_out={scratch}", f"--pyi_out={scratch}")
        if protoc.main([*words, f"netstore/{name}.proto"]) != 0:
            raise RuntimeError(f"netstore/{name}.proto was refused; protoc said why above")
        for file in (scratch / "netstore").iterdir():
            own = re.compile(r"^from netstore import", re.MULTILINE)
            text = own.sub("from netstore.api.v3.pb import", file.read_text())
            (target / file.name).write_text(text)
            file.unlink()
        (scratch / "netstore").rmdir()
        scratch.rmdir()


if __name__ == "__main__":
    generate(TARGET)
