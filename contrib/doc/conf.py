"""Sphinx's settings for the documentation site. `make docs` builds it.

The source folder is the repository: README and the design notes beside the code are pages of the site, and
their links work there as they do in a checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

sys.path[:0] = [str(ROOT), str(ROOT / "contrib" / "editable")]

from netstore import __version__  # noqa: E402 - from the checkout

project = "netstore"
author = "the netstore authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "contrib.site"]
root_doc = "contrib/doc/index"
include_patterns = ["*.md", "contrib/doc/**.md", "contrib/changes/README.md", "netstore/**/DESIGN.md"]
exclude_patterns = [".*", "build", "dist", "tests", "**/__pycache__"]

myst_heading_anchors = 4
myst_links_external_new_tab = False

default_role = "literal"  # docstrings put names in single backticks
autoclass_content = "both"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
add_module_names = False

nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!netstore).*"), (r"py:.*", r"netstore\.proto\..*")]
"""Names of other projects: their indexes are not on this machine. And messages of etcd's protocol, which its
files describe.
"""

linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost|10\.)"]

html_theme = "furo"
html_title = f"netstore {release}"
html_extra_path = ["../site/extra"]
html_show_sourcelink = False
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
