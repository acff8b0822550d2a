"""What programs say of their release."""

from __future__ import annotations

import json
import platform

from netstore import __version__
from netstore.release import version_json, version_line


def test_a_line_and_a_document() -> None:
    assert version_line("netstored") == f"netstored {__version__}"
    told = json.loads(version_json("netstored", "3.5.30"))
    assert list(told) == ["program", "version", "etcdVersion", "python", "platform"]
    assert (told["program"], told["version"], told["etcdVersion"]) == ("netstored", __version__, "3.5.30")
    assert told["python"] == platform.python_version()
    assert "etcdVersion" not in json.loads(version_json("netstorectl"))
