"""The join token of a member's cluster: from the data folder, from settings, or newly made.

Members prove to each other that they know the token if they do not show TLS certificates. It is written to
the data folder before the identity is, and stays when the folder gets another identity.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from netstore.disk.datadir import MAX_TOKEN_CHARACTERS, keep_token, read_token
from netstore.errors import NetstoreError, NoRestart

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.disk.datadir import DataDir
    from netstore.node.membersettings import MemberSettings
    from netstore.seams import Log

HOW_TO_GET_ONE: Final = (
    "run netstorectl member token on a machine of another member, and give what it prints with --join-token"
    " or --join-token-file"
)
"""What to do if the join token is missing or wrong."""


def read_token_file(path: Path) -> str:
    """The token in the file that `join_token_file` names. Blocks. NetstoreError if it contains none."""
    try:
        with path.open(encoding="utf-8") as opened:
            token = opened.read(4 * MAX_TOKEN_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise NetstoreError(
            f"join_token_file: {path}: {why}; name a file that holds nothing but the token"
        ) from None
    if not token or len(token) > MAX_TOKEN_CHARACTERS or not token.isprintable():
        raise NetstoreError(
            f"join_token_file: {path}: holds no token of 1 to {MAX_TOKEN_CHARACTERS} printable characters;"
            " write what netstorectl member token prints"
        )
    return token


def find_token(settings: MemberSettings, folder: DataDir, *, certified: bool, log: Log) -> str | None:
    """The join token of this member; None if it has none, and needs none. Blocks.

    A token in the folder wins, except that a folder without an identity takes the one that is given. A new
    token is on disk when this returns. `certified`: every member has to show a certificate.
    """
    stored, given = read_token(folder.path), settings.join_token
    token = stored
    if folder.found is None or stored is None:
        token = given or _first_token(settings, folder, stored) or stored
    elif given is not None and given != stored:
        log.warning("join_token_ignored", reason=f"{folder.path} has another one already")
    if token is not None and token != stored:
        keep_token(folder.path, token)
    if token == settings.known_token and not certified:
        log.warning(
            "join_token_weak",
            reason="it is the default initial_cluster_token, which everybody knows",
            fix="begin the cluster with a secret --initial-cluster-token, or use TLS between members",
        )
    return token


def _first_token(settings: MemberSettings, folder: DataDir, stored: str | None) -> str | None:
    """The token of a member that was given none: `initial_cluster_token` if other members use it too, else
    the stored one or a random one.
    """
    if settings.join:
        if folder.found is None and any(url.startswith("http:") for url in settings.join):
            raise NoRestart(f"join_token: is needed to join over http: {HOW_TO_GET_ONE}")
        return None
    shared = settings.names_members or settings.joins_existing
    if shared or settings.initial_token != settings.known_token:
        return settings.initial_token
    if folder.found is not None:
        return None  # it may have joined by its certificate; the others would have a different token
    return stored or secrets.token_hex(32)
