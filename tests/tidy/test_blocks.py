"""Every code block of the documents is run by a test, or says why not (`tests.support.documents`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
import tomli

from tests.support.daemon import ROOT
from tests.support.documents import READ, RUN, Block, blocks, documents

if TYPE_CHECKING:
    from collections.abc import Mapping

TESTS: Final = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("*.py")}

UNMARKED: Final = {
    "contrib/doc/format-peer.md": "the fields of two messages, in words",
}
"""Documents whose blocks without a mark are pictures."""


def wrong(each: Block, tests: Mapping[str, str]) -> str:
    """What is wrong with a block; empty if nothing is."""
    match each.mark:
        case "shown":
            files = re.findall(r"\btests/[\w/]+\.py", each.words)
            if len(each.words.split()) < 3 or any(name not in tests for name in files):
                return f"{each}: shown needs a reason of some words, and tests that are there"
        case "block" | "command":
            asks = re.compile(
                rf'(block|command)\(\s*("{re.escape(each.document)}", )?"{each.words}"'
                rf"|<!-- command: {each.words} -->"
            )
            if not any(asks.search(text) for text in tests.values()):
                return f"{each}: no test asks for the block {each.words}"
        case _ if each.is_dump:
            name = each.document.rpartition("/")[2]
            if not any(f'"{name}"' in text for text in tests.values()):
                return f"{each}: no test compares this dump"
        case _ if not each.for_sphinx and each.language not in {*RUN, *READ}:
            return (
                f"{each}: name its language (```sh), a test (<!-- block: -->), or why not (<!-- shown: -->)"
            )
    return ""


def test_every_block_is_run_or_says_why_not() -> None:
    all_of_them = [each for name, text in documents().items() for each in blocks(name, text)]
    assert len(all_of_them) > 20
    found = [told for each in all_of_them if (told := wrong(each, TESTS)) and each.document not in UNMARKED]
    assert found == []


STEP: Final = re.compile(
    r"\bnetstorectl .*?\b(import|export|snapshot (restore|verify|save|status)|archive ls|member rm)\b"
    r"|\betcd(ctl|utl) .*?\bsnapshot (save|restore)\b|\b(mv|cp)\b|\bnetstored\b.* --check-config\b"
)
"""What makes a store's folder or file, proves it, or moves it away: when it fails, the next step would begin
an empty store, or lose one.
"""

NEXT: Final = re.compile(
    r"^(\{ )?(netstored|etcd)\b(?!.* --(check-config|inspect-log))|/etc/kubernetes/manifests/"
    r"|^(netstorectl|.*\betcd(ctl|utl)) .*?\b(snapshot (restore|verify)|export)\b|^(rm|mv|cp) |\bsystemctl\b"
)
"""What must not follow a step that failed."""

APART: Final = re.compile(r'cp "?\$NEW_')
"""Steps that are right each by itself: a key and a certificate, which are read when both are there."""


def unlinked(text: str) -> str:
    """The first command of a block that follows a failed step; empty if all are linked by &&."""
    lists = re.sub(r"(\\|&&|\|\||\|)[ ]*\n\s*", r"\1 ", text).replace("\\ ", "").splitlines()
    seen = False
    for each in map(str.strip, lists):
        if seen and NEXT.search(each) and not APART.match(each):
            return each
        seen = seen or STEP.search(each) is not None
    return ""


def test_no_store_is_started_after_a_step_that_failed() -> None:
    shell = [each for name, text in documents().items() for each in blocks(name, text)]
    found = [f"{each}: link it by &&: {told}" for each in shell if (told := unlinked(each.text))]
    assert found == []
    pages = {path.name: path.read_text() for path in (ROOT / "man").iterdir()}
    examples = [
        (name, re.sub(r"^[#$] ", "", each, flags=re.MULTILINE).replace("\\e\n", "\\\n"))
        for name, text in pages.items()
        for each in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text, re.MULTILINE | re.DOTALL)
    ]
    assert len(examples) > 10
    unlinked_in = [name for name, text in examples if unlinked(text)]
    assert unlinked_in == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("netstorectl import e --data-dir n\nnetstored --data-dir n\n", "netstored --data-dir n"),
        ("netstorectl import e \\\n    --data-dir n &&\n    netstored --data-dir n\n", ""),
        ("mv a b\ncp etcd.yaml /etc/kubernetes/manifests/\n", "cp etcd.yaml /etc/kubernetes/manifests/"),
        ("netstorectl snapshot save f\nnetstorectl snapshot verify f\n", "netstorectl snapshot verify f"),
        ("netstorectl export n --snapshot f &&\n    ETCDCTL_API=3 etcdctl snapshot restore f\n", ""),
        ("netstorectl export n --snapshot f\netcdutl snapshot restore f\n", "etcdutl snapshot restore f"),
        ("netstored --check-config\nsystemctl restart netstored\n", "systemctl restart netstored"),
    ],
)
def test_a_step_that_is_not_linked_is_seen(text: str, told: str) -> None:
    assert unlinked(text) == told


def test_documents_for_data_can_be_read() -> None:
    for name, text in documents().items():
        for each in blocks(name, text):
            if each.language == "toml":
                tomli.loads(each.text)
            assert each.language not in {"json", "yaml"}, f"{each}: read it here"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("```sh\nls\n```\n", ""),
        ("```{toctree}\na\n```\n", ""),
        ("```\nls\n```\n", "name its language"),
        ("    ls\n", "name its language"),
        ("<!-- shown: nothing -->\n\n    ls\n", "needs a reason"),
        ("<!-- shown: what ls prints -->\n\n    a b\n", ""),
        ("<!-- shown: tests/test_gone.py compares it -->\n\n    a b\n", "tests that are there"),
        ("<!-- shown: what ls prints -->\n\nText.\n\n    a b\n", "name its language"),
        ("<!-- block: kettle -->\n```sh\nls\n```\n", ""),
        ("<!-- block: iron -->\n```sh\nls\n```\n", "no test asks"),
        ("<!-- command: start -->\n```sh\nls\n```\n", ""),
        ("    0000  00 01 02  ...\n", ""),
    ],
)
def test_what_is_neither_run_nor_marked_is_seen(text: str, what: str) -> None:
    tests = {"tests/test_kettle.py": 'block("a.md", "kettle")\ncommand("start")\ndumped("a.md")\n'}
    [each] = blocks("a.md", text)
    assert what in wrong(each, tests)
    assert bool(what) == bool(wrong(each, tests))
