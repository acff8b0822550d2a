"""The messages of etcd's v3 API and of the gRPC health check, and how they are put together as bytes.

`python -m contrib.proto.generate` makes `*_pb2.py` and `*_pb2.pyi` of the .proto files here; they are never
edited by hand.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final

from google.protobuf.internal import api_implementation

_PURE: Final = "google.protobuf.internal.python_message"
"""protobuf's messages in Python: 1.4 MB, which its other modules import and use only where there is no
compiled implementation."""

if api_implementation.Type() != "python" and _PURE not in sys.modules:
    # An empty module stands for it until all are imported that name it. Who imports it later gets it.
    sys.modules[_PURE] = ModuleType(_PURE)
    try:
        import_module("google.protobuf.internal.builder")
    finally:
        del sys.modules[_PURE]
