"""netstored: the words of its command line turned into one call of the server.

Exit codes: 0 after a stop that was asked for, and when help, version or a valid configuration was printed;
1 when the member could not start or had to stop; 2 when the configuration cannot be used, so that a service
manager need not try again.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from netstore import __version__
from netstore.errors import NetstoreError
from netstore.ops.config import STORE, load_store_config
from netstore.ops.layered import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.ops.config import StoreConfig

STOPPED: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run netstored with the words after its name (the process's own by default). Returns the exit code."""
    try:
        loaded = load_store_config(sys.argv[1:] if argv is None else argv, os.environ)
    except NetstoreError as error:
        _tell(error)
        return UNUSABLE
    match loaded.task:
        case Task.HELP:
            print(STORE.usage())
        case Task.VERSION:
            print(f"netstored {__version__}")
        case Task.CHECK:
            print(STORE.report(loaded))
            for notice in loaded.notices:
                print(f"# {notice}")
        case Task.RUN:
            return _run(loaded.config, loaded.notices)
    return STOPPED


def _run(config: StoreConfig, notices: Sequence[str]) -> int:
    # Imported here because help and --check-config should not wait for what only a running member needs.
    import trio  # noqa: PLC0415

    from netstore.ops import logging  # noqa: PLC0415
    from netstore.server import serve  # noqa: PLC0415

    logging.configure(config.log_level, config.log_format)
    log = logging.get_logger("netstored")
    for notice in notices:
        log.warning("setting_without_effect", notice=notice)
    log.info("member_starting", version=__version__, name=config.name, data_dir=config.data_dir)
    try:
        trio.run(serve, config)
    except BaseExceptionGroup as group:
        told, others = group.split(NetstoreError)
        if told is None or others is not None:
            raise
        for error in _leaves(told):
            _tell(error)
        return FAILED
    except NetstoreError as error:
        _tell(error)
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return STOPPED


def _leaves(group: BaseExceptionGroup[NetstoreError]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def _tell(error: BaseException) -> None:
    print(f"netstored: {' '.join(str(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
