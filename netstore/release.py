"""What a program says of its release."""

from __future__ import annotations

import sys

from netstore import __version__


def version_line(program: str) -> str:
    """What `--version` prints."""
    return f"{program} {__version__}"


def version_json(program: str, claims: str = "") -> str:
    """What `--version --json` prints. `claims` is the version that is claimed of the replaced program."""
    import json  # noqa: PLC0415 - these two only for this
    import platform  # noqa: PLC0415

    document = {"program": program, "version": __version__}
    if claims:
        document["etcdVersion"] = claims
    document |= {"python": platform.python_version(), "platform": f"{sys.platform}/{platform.machine()}"}
    return json.dumps(document)
