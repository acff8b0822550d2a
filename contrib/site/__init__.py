"""Sphinx extension of the documentation site: manual pages by mandoc, and a check of every internal link.

A link that leads nowhere is a warning, and `make docs` turns warnings into errors.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from contrib.site.links import broken

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = frozenset(path.name for path in (ROOT / "man").iterdir())

_REFERENCE: Final = re.compile(r'<a class="Xr"[^>]*>([^<(]+)\((\d)\)</a>')

_logger = logging.getLogger(__name__)


class ManualPage(SphinxDirective):
    """Shows the manual page that its argument names, relative to the repository: as mandoc renders it, or,
    where mandoc is not installed, as its source.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The page as one node."""
        path = ROOT / self.arguments[0]
        self.env.note_dependency(str(path))
        try:
            made = subprocess.run(
                ("mandoc", "-T", "html", "-O", "fragment,man=%N.%S.html", path),
                capture_output=True,
                text=True,
                check=True,
            )
        except FileNotFoundError:
            _logger.info("mandoc is not installed: %s is shown as its source", path.name)
            return [nodes.literal_block(text=path.read_text(), language="none")]
        return [nodes.raw(text=adapted(made.stdout), format="html")]


def adapted(page: str) -> str:
    """What mandoc made, for a page that has a title: its headings one level lower, and without links to
    manual pages of others.
    """
    page = re.sub(r"(</?h)([1-5])\b", lambda match: f"{match[1]}{int(match[2]) + 1}", page)
    return _REFERENCE.sub(
        lambda match: match[0] if f"{match[1]}.{match[2]}" in PAGES else f"{match[1]}({match[2]})", page
    )


def check_links(app: Sphinx, error: Exception | None) -> None:
    """Warn of each link between pages of the site that leads nowhere."""
    if error is None and app.builder.name == "html":
        for each in broken(Path(app.outdir)):
            _logger.warning("%s", each)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("manpage", ManualPage)
    app.connect("build-finished", check_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
