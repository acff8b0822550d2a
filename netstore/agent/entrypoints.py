"""The plugins that are installed: the entry points of the distributions on `sys.path` (PyPA specifications
"Entry points" and "Recording installed projects").

`importlib.metadata` does the same, with what it needs to read mail and zip files: 1.4 MB for as long as the
agent runs. Distributions in zip files are not looked at here.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMS: Final = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}
"""How the folder of a distribution ends, and the file there that has its version."""

_ENTRY: Final = re.compile(r"\s*([^=#;\[]*[^=\s])\s*=\s*([\w.]+)\s*(?::\s*([\w.]+)\s*)?(?:\[.*\])?\s*")


class EntryPoint(NamedTuple):
    """An object of a module by its name in a group, or the module itself if `attribute` is "". `version` is
    that of its distribution, "" if that does not tell it.
    """

    name: str
    module: str
    attribute: str
    version: str

    @property
    def value(self) -> str:
        """Where it is, as the distribution says it."""
        return f"{self.module}:{self.attribute}" if self.attribute else self.module

    def load(self) -> Any:
        """Import it. Any exception of the module's own code, ImportError, or AttributeError."""
        module = import_module(self.module)
        return attrgetter(self.attribute)(module) if self.attribute else module


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, in the order of `sys.path`. Of several distributions with one name the
    first is used; within one folder, as after an upgrade that was interrupted, that which was installed last.
    What cannot be read is not installed.
    """
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for folder in _distributions():
        name = _canonical(folder)
        if name in seen:
            continue
        seen.add(name)
        entries = list(_entries(_text(folder / "entry_points.txt"), group))
        if entries:
            version = _version(_text(folder / _FORMS[folder.suffix]))
            found += [EntryPoint(*each, version) for each in entries]
    return found


def _distributions() -> Iterator[Path]:
    for place in dict.fromkeys(sys.path):
        try:
            folders = [each for each in Path(place or ".").iterdir() if each.suffix in _FORMS]
        except OSError:  # not a folder, or none that this process may read
            continue
        yield from sorted(folders, key=lambda each: (_canonical(each), -_changed(each), each.name))


def _canonical(folder: Path) -> str:
    """The name of a distribution, as names are compared."""
    return re.sub(r"[-_.]+", "_", folder.stem.partition("-")[0]).lower()


def _changed(folder: Path) -> int:
    """When something was installed there last, in nanoseconds; 0 if that cannot be read."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _entries(text: str, group: str) -> Iterator[tuple[str, str, str]]:
    is_inside = False
    for line in text.splitlines():
        if line.strip().startswith("["):
            is_inside = line.strip() == f"[{group}]"
        elif is_inside and (match := _ENTRY.fullmatch(line)):
            name, module, attribute = match.groups()
            yield name, module, attribute or ""


def _version(text: str) -> str:
    head = text.partition("\n\n")[0]
    match = re.search(r"^version:\s*(\S+)", head, re.IGNORECASE | re.MULTILINE)
    return match[1] if match else ""


def _text(path: Path) -> str:
    """The text of a file, "" if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
