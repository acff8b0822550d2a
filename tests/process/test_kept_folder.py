"""The program of this release starts on a folder that an earlier one left."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

from tests.support import kept
from tests.support.daemon import start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path


def test_a_kept_folder_is_served(tmp_path: Path) -> None:
    kept.unpack(kept.ARCHIVE, tmp_path / "data")
    with start_netstored(tmp_path, "--name", kept.NAME, data_dir=tmp_path / "data") as daemon:
        for path, value in (("/dir/a", "3"), ("/last", "in the log only")):
            with urllib.request.urlopen(f"{daemon.url}/v2/keys{path}", timeout=seconds(20)) as answer:  # noqa: S310
                assert json.load(answer)["node"]["value"] == value
        assert daemon.stop() == 0
        daemon.start_again()
