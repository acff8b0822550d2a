"""The code blocks of the documents, and how those are run that are commands.

Every block is run or says why not. By its language: `sh` is run by bash beside a store, `python` as a program
or, where it has tests, by pytest; `toml`, `json` and `yaml` are read. By a comment in the lines before it:

- `<!-- block: NAME -->` or `<!-- command: NAME -->`: a test of its own finds it under that name;
- `<!-- shown: REASON -->`: it is output, a picture of a format or an example that cannot be run.

A block in braces (`{toctree}`) is for Sphinx, and a dump of bytes is compared by the test of its format.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt

from tests.support.daemon import ROOT, clean_environment, free_port
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RUN: Final = ("sh", "python")
READ: Final = ("toml", "json", "yaml")

_COMMENT: Final = re.compile(r"<!-- (block|command|shown): (.*?) -->\s*", re.DOTALL)
_DUMP: Final = re.compile(r"([0-9a-f]{4}  ([0-9a-f]{2} )+ .*\n)+")
_PORT: Final = re.compile(r"\b2[345]\d\d\b")

_PRELUDE: Final = """\
set -eu
trap 'status=$?; set +e; kill $(jobs -p) 2>/dev/null; wait; exit $status' EXIT
serve() {
    local event=$1 log; shift
    log=$(mktemp log.XXXX)
    (exec "$@" >"$log" 2>&1) &
    until grep -q "$event" "$log"; do
        kill -0 $! 2>/dev/null || { cat "$log" >&2; exit 1; }
        sleep 0.1
    done
}
netstored() {
    case " $* " in
    *" --check-config "* | *" --inspect-log "* | *" --skip-entry "*) command netstored "$@" ;;
    *) serve serving_clients ${STORE_IN-} env netstored "$@" ;;
    esac
}
netstore-agent() { serve subnet_held ${AGENT_IN-} env netstore-agent "$@"; }
"""
"""Daemons go on in the background, and the next command runs when they serve."""


@dataclass(frozen=True)
class Block:
    """A code block. `mark` and `words` are those of the comment before it, empty where there is none."""

    document: str
    line: int
    language: str
    text: str
    mark: str = ""
    words: str = ""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def is_dump(self) -> bool:
        """Bytes with their offsets."""
        return _DUMP.fullmatch(self.text) is not None

    @property
    def for_sphinx(self) -> bool:
        return self.language.startswith("{")


def blocks(document: str, text: str) -> Iterator[Block]:
    """All code blocks of a text, in order."""
    mark = words = ""
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            found = _COMMENT.fullmatch(token.content)
            mark, words = (found[1], " ".join(found[2].split())) if found else ("", "")
        elif token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            yield Block(document, line, token.info.strip(), token.content, mark, words)
            mark = words = ""
        else:
            mark = words = ""


def documents() -> dict[str, str]:
    """Every document of the repository: path -> text."""
    places = (ROOT.glob("*.md"), (ROOT / "contrib").rglob("*.md"), (ROOT / "netstore").rglob("*.md"))
    return {str(path.relative_to(ROOT)): path.read_text() for place in places for path in sorted(place)}


def block(document: str, name: str) -> str:
    """The text of the block with this name."""
    found = [each.text for each in blocks(document, (ROOT / document).read_text()) if each.words == name]
    assert len(found) == 1, f"{document} has {len(found)} blocks named {name}"
    return found[0]


def with_ports(text: str, store: str = "") -> str:
    """The text with free ports in the place of those of the documents; `store` is the URL of what listens on
    2379, if anything does.
    """
    ports = {"2379": store.rpartition(":")[2]} if store else {}
    return _PORT.sub(lambda found: ports.setdefault(found[0], str(free_port())), text)


def bash(text: str, folder: Path, variables: Mapping[str, str], *, limit: float = 30.0) -> str:
    """Run a block in this folder, and end what it started. What it printed; AssertionError if a command
    failed, or the block takes longer than `limit` seconds of a quiet machine.
    """
    link = folder / ".venv"
    if not link.exists():
        link.symlink_to(sys.prefix)
    path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ("bash", "--norc", "-c", _PRELUDE + text),
        cwd=folder,
        env={**clean_environment(), "PATH": path, "STATE_DIRECTORY": str(folder), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            told, _ = shell.communicate(timeout=seconds(limit))
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            told = f"{shell.communicate()[0]}\nnot done after {seconds(limit):.0f} s"
    assert shell.returncode == 0, f"{text}\nended with {shell.returncode}:\n{told}"
    return told
