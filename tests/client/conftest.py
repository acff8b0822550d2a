"""A source that is begun anew with the ids that it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd
from tests.support.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(
    params=[pytest.param("etcd", marks=[pytest.mark.peer("etcd"), pytest.mark.slow]), "netstored"]
)
def twins(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Twins]:
    with start_netstored(tmp_path) as target:
        twins = Twins(tmp_path / "source", target, start_etcd if request.param == "etcd" else start_netstored)
        yield twins
        twins.end()
