"""netstore-agent: the words of its command line turned into one running agent.

Exit codes: 0 after a stop that was asked for, and when help, version or a valid configuration was printed;
1 when the agent could not go on; 2 when the configuration cannot be used, so that a service manager need not
try again.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from netstore import __version__
from netstore.errors import NetstoreError
from netstore.ops.config import AGENT, load_agent_config
from netstore.ops.layered import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.ops.config import AgentConfig

STOPPED: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run netstore-agent with the words after its name, or those of the process. Returns the exit code."""
    try:
        loaded = load_agent_config(sys.argv[1:] if argv is None else argv, os.environ)
    except NetstoreError as error:
        _tell(error)
        return UNUSABLE
    match loaded.task:
        case Task.HELP:
            print(AGENT.usage())
        case Task.VERSION:
            print(f"netstore-agent {__version__}")
        case Task.CHECK:
            print(AGENT.report(loaded))
            for notice in loaded.notices:
                print(f"# {notice}")
        case Task.RUN:
            return _run(loaded.config, loaded.notices)
    return STOPPED


def _run(config: AgentConfig, notices: Sequence[str]) -> int:
    # Imported here because help and --check-config should not wait for what only a running agent needs.
    import trio  # noqa: PLC0415

    from netstore.agent.netlink import Netlink  # noqa: PLC0415
    from netstore.agent.service import Agent  # noqa: PLC0415
    from netstore.ops import logging  # noqa: PLC0415
    from netstore.ops.notify import ServiceManager  # noqa: PLC0415

    logging.configure(config.log_level, config.log_format)
    log = logging.get_logger("agent")
    for notice in notices:
        log.warning("setting_without_effect", notice=notice)
    log.info("agent_starting", version=__version__, prefix=config.prefix)

    async def agent() -> None:
        with Netlink() as kernel:
            await Agent(config, kernel, log, ServiceManager(os.environ).ready).run()

    try:
        trio.run(agent)
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
    return STOPPED


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _tell(error: BaseException) -> None:
    print(f"netstore-agent: {' '.join(str(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
