"""Turn the .proto files of `netstore/proto` into the Python modules beside them.

    python -m contrib.proto.generate

Needs grpcio-tools, at development time alone. What it wrote is committed, and compared by
`tests/tidy/test_protos.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grpc_tools import protoc  # type: ignore[import-untyped]  # it has no annotations

ROOT: Final = Path(__file__).parents[2]
PROTOS: Final = ("kv", "rpc", "health")


def generate(target: Path) -> None:
    """Write a module and its types for each .proto file below `target`, in `netstore/proto`. RuntimeError
    when protoc refuses one.
    """
    for name in PROTOS:
        words = ("protoc", f"-I{ROOT}", f"--python_out={target}", f"--pyi_out={target}")
        if protoc.main([*words, f"netstore/proto/{name}.proto"]) != 0:
            raise RuntimeError(f"netstore/proto/{name}.proto was refused; protoc said why above")


if __name__ == "__main__":
    generate(ROOT)
