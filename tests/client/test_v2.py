"""What the client of the v2 API takes from an answer."""

from __future__ import annotations

import pytest

from netstore.client.faults import BadAnswer
from netstore.client.v2 import _index


class Head:
    """That of an answer with this index of the store."""

    def __init__(self, index: str) -> None:
        self.endpoint, self.status, self.write = "http://127.0.0.1:1", 200, False
        self._index = index

    def header(self, name: str) -> str:
        return self._index if name == "x-etcd-index" else ""


def test_an_index_of_the_store_is_an_int64() -> None:
    assert _index(Head("9223372036854775807")) == 2**63 - 1


@pytest.mark.parametrize("text", ["", "-1", "1.5", "\u0661", "9" * 20, "9" * 5000])
def test_what_is_no_index_is_refused_in_words(text: str) -> None:
    with pytest.raises(BadAnswer, match="sent no X-Etcd-Index"):
        _index(Head(text))
