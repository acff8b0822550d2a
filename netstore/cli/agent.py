"""The command netstore-agent: reads its settings and runs the agent (exit codes: `cli.program`)."""

from __future__ import annotations

if __name__ == "__main__":  # ahead of the imports below, which take a while
    from netstore import entry

    entry.netstore_agent()

import gc
import os
import sys
from typing import TYPE_CHECKING

if "typing_extensions" not in sys.modules:
    # msgspec takes two functions from there that typing has too, and 0.4 MB with them. None in the place of a
    # module makes its import fail, which msgspec allows for.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment] # the import system knows None
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]

from netstore import __version__, collector
from netstore.cli import program
from netstore.ops.agent import AGENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.ops.agent import AgentConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run netstore-agent with these arguments, by default those of the process. Returns the exit code."""
    return program.main(AGENT, argv, _run)


def _run(config: AgentConfig, notices: Sequence[str]) -> None:
    # Imported here so that --help and --check-config do not load what only a running agent needs.
    with collector.paused():
        import trio  # noqa: PLC0415

        from netstore.agent.netlink import Netlink  # noqa: PLC0415
        from netstore.agent.ruleset import Ruleset  # noqa: PLC0415
        from netstore.agent.service import Agent  # noqa: PLC0415
        from netstore.ops import logging  # noqa: PLC0415
        from netstore.ops.notify import ServiceManager  # noqa: PLC0415

    logging.configure(config.log_level, config.log_format)
    log = logging.get_logger("agent")
    for notice in notices:
        log.warning("setting_warning", notice=notice)
    log.info("agent_starting", version=__version__, prefix=config.prefix)

    async def agent() -> None:
        with Netlink() as kernel:
            # What is known of the first leases stays for long, and is not traversed again (`gc.freeze`).
            await Agent(
                config,
                kernel,
                log,
                manager=ServiceManager(os.environ),
                ruleset=Ruleset(),
                on_placed=gc.freeze,
            ).run()

    trio.run(agent)
