"""What is loaded of protobuf with the messages."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from netstore.proto import kv_pb2
message = kv_pb2.KeyValue(key=b"a", version=3)
assert kv_pb2.KeyValue.FromString(message.SerializeToString()) == message
print([name for name in sys.modules if name.startswith("google.protobuf.internal.python_message")])
from google.protobuf import text_format
from google.protobuf.internal import python_message
print(text_format.MessageToString(message, as_one_line=True))
print(python_message.GeneratedProtocolMessageType.__name__)
"""


def test_messages_in_python_are_loaded_when_somebody_wants_them() -> None:
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["[]", 'key: "a" version: 3', "GeneratedProtocolMessageType"]
