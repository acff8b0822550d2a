"""Which causes of failures are the same."""

from __future__ import annotations

from netstore.node.causes import without_figures


def test_figures_and_names_of_files_make_no_other_cause() -> None:
    assert without_figures("/a: 5 bytes are free") == without_figures("/a: 4096 bytes are free")
    one, other = "00000000000003e9-00000000000003f1", "000000000000000a-000000000000000f"
    assert without_figures(f"/a/{one}.entries: damaged") == without_figures(f"/a/{other}.entries: damaged")
    assert without_figures("backup-c1-7-09afb2e4.part") == without_figures("backup-c1-7-dead0bee.part")


def test_other_words_are_another_cause() -> None:
    assert without_figures("/a: No space left on device") != without_figures("/a: Input/output error")
    assert without_figures("a dead face") == "a dead face", "words without a digit stay"
