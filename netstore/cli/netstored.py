"""netstored: the words of its command line turned into one call of the server (exit codes: `cli.program`)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from netstore import __version__
from netstore.cli import program
from netstore.ops.config import STORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.ops.config import StoreConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run netstored with the words after its name (the process's own by default). Returns the exit code."""
    return program.main(STORE, argv, _serve)


def _serve(config: StoreConfig, notices: Sequence[str]) -> None:
    # Imported here because help and --check-config should not wait for what only a running member needs.
    import trio  # noqa: PLC0415

    from netstore.ops import logging  # noqa: PLC0415
    from netstore.server import serve  # noqa: PLC0415

    logging.configure(config.log_level, config.log_format)
    log = logging.get_logger("netstored")
    for notice in notices:
        log.warning("setting_without_effect", notice=notice)
    log.info("member_starting", version=__version__, name=config.name, data_dir=config.data_dir)
    trio.run(serve, config)


if __name__ == "__main__":
    sys.exit(main())
