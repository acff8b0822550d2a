"""What comments, docstrings and documents name is there: files, sections of documents, modules, and names
in them.

What stands in backticks is judged word by word where a word must be one of this repository: it has the form
of a path, or begins with a module or class of ours, or has the form of a name in code. Without backticks only
paths and names that begin with a room are. What others call their own is in `FOREIGN`. Decision records and
the change log tell what was so then, and are not judged.
"""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES: Final = ("netstore", "plugins", "tests", "contrib", "man")
RECORDS: Final = ("CHANGELOG.md", "contrib/doc/adr/")

FOREIGN: Final = {
    "NLM_F_REPLACE": "a flag of netlink",
    "RangeStream": "a call of etcd 3.7",
    "TooManyRequests": "an error of etcd",
    "client.crt": "a file in an example",
    "example_package.py": "a file in an example",
    "client.key": "a file in an example",
    "full-disk.store.2.md": "a file in an example",
    "full-disk.store.md": "a file in an example",
    "net.core.rmem_max": "a setting of Linux",
    "reproduce_failure": "a decorator of hypothesis",
    "tcp_rmem": "a setting of Linux",
    "tcp_wmem": "a setting of Linux",
}
"""What looks like a name of ours, and whose it is."""

_QUOTED: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_WORD: Final = re.compile(r"[\w./*-]+")
_PATH: Final = re.compile(rf"(?:[\w.*-]+/)*[\w.*-]*\w\.(?:py|md)|(?:{'|'.join(PLACES)})/[\w./*-]*")
_BARE: Final = re.compile(
    rf"(?<![\w/.:-])(?:(?:{'|'.join(PLACES)})/[\w./-]*[\w/]|[\w/-]+\.(?:py|md)\b"
    r"|(?:agent|api|cli|client|disk|etcdfile|net|network|node|ops|peer|proto|raft|state|watch)(?:\.[a-z]\w+)+)(?![\w/])"
)
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAME: Final = re.compile(r"_+[A-Za-z]\w+|[a-z]+(?:_\w+)+|[A-Z]+(?:_[A-Z0-9]+)+|(?:[A-Z][a-z0-9]+){2,}")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_PLAIN: Final = ("Exception", "Generic", "NamedTuple", "Protocol", "TypedDict")
"""Bases that give a class no names worth telling of."""
_COMMENT: Final = re.compile(r"(?:^|\s)#(.*)$")


class Module:
    """A source: what people read in it, and the words of its code."""

    def __init__(self, source: str) -> None:
        lines = source.splitlines()
        self.text: list[tuple[int, str]] = []
        """Line by line, with its number."""
        classes: list[ast.ClassDef] = []
        for each in _statements(ast.parse(source)):
            match each:
                case ast.ClassDef():
                    classes.append(each)
                case ast.Expr(ast.Constant(str())):
                    for at in range(each.lineno - 1, each.end_lineno or 0):
                        self.text.append((at + 1, lines[at]))
                        lines[at] = ""
        for at, line in enumerate(lines):
            if "#" in line and (comment := _COMMENT.search(line)):
                self.text.append((at + 1, comment[1]))
                lines[at] = line[: comment.start()]
        code = "\n".join(lines)
        self.words = frozenset(re.findall(r"\w+", code))
        self.classes: dict[str, tuple[frozenset[str], list[str]]] = {}
        """Class -> the words of its code, and the names of what it is made from."""
        for made in classes:
            body = "\n".join(lines[made.lineno - 1 : made.end_lineno])
            bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in made.bases]
            self.classes[made.name] = frozenset(re.findall(r"\w+", body)), bases
        self.pairs = frozenset(re.findall(r"(?=\b([A-Za-z_]\w*\.\w+))", code))
        """What code has of something that it calls so: `member.jobs`."""


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All of a source, each before those in it."""
    for branch in ("body", "orelse", "handlers", "finalbody", "cases"):
        for each in getattr(node, branch, ()):
            if isinstance(each, ast.stmt):
                yield each
            if not isinstance(each, ast.expr):
                yield from _statements(each)


class Repository:
    """What can be named."""

    def __init__(self, files: dict[str, str]) -> None:
        """Path of each file -> its text; empty where that does not matter."""
        self.paths = set(files) | {f"{up}/" for path in files for up in _folders(path)}
        self.documents = {path: text for path, text in files.items() if path.endswith(".md")}
        self.modules = {path: Module(text) for path, text in files.items() if path.endswith(".py")}
        self.words = frozenset[str]().union(*(each.words for each in self.modules.values()))
        for path, text in files.items():
            if path.startswith("man/"):
                self.words |= set(re.findall(r"\w+", text))
        self.pairs = frozenset[str]().union(*(each.pairs for each in self.modules.values()))
        self.homes: dict[str, list[Module]] = {}
        """Class -> the modules that define one so called."""
        for module in self.modules.values():
            for name in module.classes:
                self.homes.setdefault(name, []).append(module)
        self.named: dict[str, list[str]] = {}
        """Last part of the name of a module or package -> their whole names."""
        for path in (*self.modules, *(each for each in self.paths if each.endswith("/"))):
            name = path.removesuffix(".py").removesuffix("/__init__").strip("/").replace("/", ".")
            self.named.setdefault(name.rpartition(".")[2], []).append(name)
        self.words |= set(self.named)

    def wrong(self) -> list[str]:
        """What is named and not there."""
        found = []
        for path, module in self.modules.items():
            found += [f"{path}:{line}: {name}" for line, text in module.text for name in self.missing(text)]
        for path, document in self.documents.items():
            if not path.startswith(RECORDS):
                for at, line in enumerate(document.splitlines(), 1):
                    found += [
                        f"{path}:{at}: {name}" for name in (*self.missing(line), *self.dangling(path, line))
                    ]
        return found

    def missing(self, text: str) -> Iterator[str]:
        """What a line names that is not there."""
        names = [word for quoted in _QUOTED.findall(text) for word in _WORD.findall(quoted)]
        names += _BARE.findall(_QUOTED.sub("", text))
        yield from (name for name in names if name not in FOREIGN and not self.has(name))

    def has(self, name: str) -> bool:
        """False where this must be something of ours, and is not."""
        if _PATH.fullmatch(name):
            return self._has_path(name)
        if _DOTTED.fullmatch(name):
            return self._has_dotted(name.removeprefix("netstore.").split("."))
        return not _NAME.fullmatch(name) or name in self.words

    def _has_path(self, path: str) -> bool:
        return any(fnmatch(f"/{each.rstrip('/')}", f"*/{path.rstrip('/')}") for each in self.paths)

    def _has_dotted(self, parts: list[str]) -> bool:
        if ".".join(parts[-2:]) in self.pairs:
            return True
        head, *rest = parts
        if head in self.homes:
            return all(self._in_class(head, each, set()) for each in rest[:1])
        if head not in self.named:
            return True
        return any(self._in_module(name, rest) for name in self.named[head])

    def _in_module(self, name: str, rest: list[str]) -> bool:
        while rest and f"{name}.{rest[0]}" in self.named.get(rest[0], ()):
            name, rest = f"{name}.{rest[0]}", rest[1:]
        if not rest:
            return True
        path = name.replace(".", "/")
        module = self.modules.get(f"{path}.py") or self.modules.get(f"{path}/__init__.py")
        if module is None or rest[0] not in module.words:
            return False
        return len(rest) == 1 or rest[0] not in self.homes or self._in_class(rest[0], rest[1], set())

    def _in_class(self, name: str, attribute: str, seen: set[str]) -> bool:
        """Also where the class is made from one of another module, or from one of nobody's here."""
        seen.add(name)
        for home in self.homes.get(name, ()):
            words, bases = home.classes[name]
            if attribute in words or any(
                base not in {*self.homes, *_PLAIN}
                or (base not in seen and self._in_class(base, attribute, seen))
                for base in bases
            ):
                return True
        return False

    def dangling(self, path: str, line: str) -> Iterator[str]:
        """Links of a document that lead nowhere."""
        for link in _LINK.findall(line):
            target, _, section = link.partition("#")
            if "://" in target:
                continue
            parts = path.split("/")[:-1]
            for each in target.split("/") if target else []:
                parts = parts[:-1] if each == ".." else [*parts, each]
            there = "/".join(parts) if target else path
            if there.rstrip("/") not in {each.rstrip("/") for each in self.paths} or (
                section and section not in _sections(self.documents[there])
            ):
                yield link


def _folders(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _sections(document: str) -> set[str]:
    """The names by which a link finds a section."""
    heads = re.findall(r"^#+ (.*)$", document, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.fixture(scope="module")
def repository() -> Repository:
    files = [
        *(path for place in PLACES for path in (ROOT / place).rglob("*") if "__pycache__" not in path.parts),
        *ROOT.iterdir(),
    ]
    return Repository(
        {
            str(path.relative_to(ROOT)): path.read_text()
            if path.suffix in (".py", ".md") or path.parent.name == "man"
            else ""
            for path in files
            if path.is_file()
        }
    )


def test_what_is_named_is_there(repository: Repository) -> None:
    assert len(repository.modules) > 500
    assert repository.wrong() == []
    said = "".join(text for module in repository.modules.values() for _, text in module.text)
    said += "".join(repository.documents.values())
    assert [name for name in FOREIGN if name not in said] == [], "an exception that is needed no more"


def test_what_is_missing_is_seen() -> None:
    here = Repository(
        {
            "netstore/net/DESIGN.md": "## Some words\n",
            "netstore/net/http2/__init__.py": "from netstore.net.http2.stream import Stream\n",
            "netstore/net/http2/stream.py": "class Stream(Base):\n    def take(self): ...\nCONST_ANT = 1\n",
            "tests/test_kettle.py": "",
            "netstore/net/kettle.py": "class Kettle(Protocol):\n    def boil(self): self.steam = water.hot\n",
        }
    )

    def missing(text: str) -> list[str]:
        return list(here.missing(text))

    for there in (
        "`net.http2.Stream.take`, `http2.Stream.of_base`, `Kettle.boil()`, `Kettle.steam`",
        "`kettle.py`, `net/DESIGN.md`, netstore/net/http2/, netstore/net/kettle.py, net.kettle, `net/*.py`",
        "`netstore.net.kettle`, `test_kettle`",
        "`CONST_ANT`, `os.path`, `word`, `x-header`, tcp_other, client.crt, `if kettle.Kettle(x):`",
    ):
        assert missing(there) == []
    for gone in (
        "Kettle.pour",
        "net.pot",
        "http2.Pot",
        "pot.py",
        "net/http2/kettle.py",
        "CONST_ANTS",
        "boil_it",
        "_boil",
        "KettleOfIron",
    ):
        assert missing(f"see `{gone}`") == [gone]
    bare = "net.pot, netstore/pot/, pot.md"
    assert missing(f"see `f(Kettle.pour)`, {bare}") == ["Kettle.pour", "net.pot", "netstore/pot/", "pot.md"]
    assert missing("`boil`, `netstore.net.pot`") == ["netstore.net.pot"]


def test_a_link_that_leads_nowhere_is_seen() -> None:
    here = Repository({"a/b.md": "# One, two\n## It's `three`\n", "c.md": "", "LICENSE": ""})
    there = "[](../c.md) [](b.md#one-two) [](#its-three) [](https://x/y) [](../a/)"
    assert list(here.dangling("a/b.md", there)) == []
    gone = "[](c.md) [](#four) [](../LICENSES)"
    assert list(here.dangling("a/b.md", gone)) == ["c.md", "#four", "../LICENSES"]


def test_docstrings_and_comments_are_read_and_code_is_not() -> None:
    module = Module(
        '"""`a`"""\nX = 1  # `b`\n"""`c`\n`d`"""\ndef f():\n    """`e`"""\n    return "`f`"  # `g`\n'
    )
    assert re.findall(r"`(\w)`", " ".join(text for _, text in module.text)) == ["a", "c", "d", "e", "b", "g"]
    assert {"X", "f"} <= module.words
    assert not {"a", "b", "c", "d", "e"} & module.words
