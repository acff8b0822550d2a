"""Replace links that lead nowhere by their text, in the pages of a folder: a package has not all files that
the pages of a checkout lead to.

    python3 links.py FOLDER
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

LINK: Final = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
"""A link or picture of Markdown: its text and its target."""

ELSEWHERE: Final = re.compile(r"[a-z]+:|#")
"""How a target begins that is not a file beside the page."""


def is_dead(page: Path, target: str) -> bool:
    """Whether a link of this page leads to a file that there is not."""
    return not ELSEWHERE.match(target) and not (page.parent / target.partition("#")[0]).exists()


def dead(page: Path) -> list[str]:
    """The targets of a page's links that lead nowhere."""
    return [target for _, target in LINK.findall(page.read_text("utf-8")) if is_dead(page, target)]


def mend(page: Path) -> None:
    """Replace the links of a page that lead nowhere."""
    text = page.read_text("utf-8")
    mended = LINK.sub(lambda link: link[1] if is_dead(page, link[2]) else link[0], text)
    if mended != text:
        page.write_text(mended, "utf-8")


def main(folder: str) -> None:
    """Do it in all pages below a folder."""
    for page in sorted(Path(folder).rglob("*.md")):
        mend(page)


if __name__ == "__main__":
    main(*sys.argv[1:])
