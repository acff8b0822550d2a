"""`netstorectl doctor`: checks this machine and the store, and says what to do about what is wrong."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netstore.cli.commands.failures import Exit, Failure
from netstore.cli.commands.options import NAME, Command, pass_settings
from netstore.cli.output import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.cli.checks.finding import Finding
    from netstore.cli.commands.invocation import Settings
    from netstore.ops.layers import Layered
    from netstore.ops.store import StoreConfig

HEADINGS = ("CHECK", "STATE", "FOUND", "WHAT TO DO")


@click.command(cls=Command)
@click.option(
    "--config-file",
    metavar="PATH",
    type=NAME,
    help="The daemons' file.  [/etc/netstore/netstore.toml]",
)
@click.option("--data-dir", metavar="DIR", type=NAME, help="The data folder of this machine's member.")
@pass_settings
def doctor(settings: Settings, *, config_file: str | None, data_dir: str | None) -> None:
    """Check this machine and the store, and say what to do about what is wrong: settings and modules of the
    kernel, interface, MTU and next hops, the disk of the log, clocks, configuration, leases.

    Exit status 1 if something is wrong, else 4 if something could not be read; a warning alone is status 0.
    """
    findings = settings.run(partial(_examine, settings, config_file, data_dir))
    settings.show(
        {
            "findings": [
                {
                    "check": each.subject,
                    "state": each.state.value,
                    "found": each.told,
                    "advice": each.advice or None,
                }
                for each in findings
            ]
        },
        Table(
            HEADINGS, [(each.subject, each.state.value, each.told, each.advice or None) for each in findings]
        ),
    )
    _end(findings)


def _end(findings: Sequence[Finding]) -> None:
    """`Failure` unless all is well, warnings apart."""
    from netstore.cli.checks.finding import State  # noqa: PLC0415 - as in `_examine`

    bad = [each.subject for each in findings if each.state is State.WRONG]
    if bad:
        raise Failure(Exit.REFUSED, f"wrong: {', '.join(bad)}")
    lost = [each.subject for each in findings if each.state is State.UNKNOWN]
    if lost:
        raise Failure(Exit.UNAVAILABLE, f"could not be read: {', '.join(lost)}")


async def _examine(settings: Settings, config_file: str | None, data_dir: str | None) -> list[Finding]:
    # Imported here: the agent's rooms and msgspec take longer to load than most commands run.
    from netstore.cli.checks import disk, kernel, node, stores  # noqa: PLC0415
    from netstore.cli.checks.finding import absent  # noqa: PLC0415
    from netstore.ops.agent import AGENT  # noqa: PLC0415
    from netstore.ops.store import STORE, StoreConfig  # noqa: PLC0415

    findings: list[Finding] = []
    agent, found = _loaded(AGENT, config_file)
    findings.append(found)
    store, found = _loaded(STORE, config_file)
    findings.append(found)
    here = await node.look(agent)
    has_agent = agent != AGENT.form() or here.subnet is not None
    known = await stores.look(settings, has_agent=has_agent)
    interface = None if here.choice is None else here.choice.link.name
    backend = None if known.network is None else known.network.backend_type
    of_node = [*kernel.check_kernel(Path("/"), interface, backend), *node.judge(agent, here, known)]
    if known.is_unneeded:
        of_node = [absent(each.subject, "there is no network, and no agent here") for each in of_node]
    findings += of_node
    folder = Path(data_dir) if data_dir is not None else _log_folder(store)
    is_named = data_dir is not None or store.data_dir != StoreConfig().data_dir
    findings += disk.check_disk(folder, is_named=is_named)
    return [*known.findings, *findings]


def _log_folder(store: StoreConfig) -> Path:
    return store.wal_dir if store.wal_dir is not None else store.data_dir


def _loaded(layered: Layered[Any], config_file: str | None) -> tuple[Any, Finding]:
    """A daemon's configuration, as its `--check-config` would find it here, or its defaults if that cannot be
    used; and which it was.
    """
    from netstore.cli.checks.finding import ok, wrong  # noqa: PLC0415 - as in `_examine`
    from netstore.errors import NetstoreError  # noqa: PLC0415 - same

    subject = f"config {layered.program}"
    try:
        loaded = layered.load(() if config_file is None else ("--config-file", config_file), os.environ)
        layered.check_files(loaded)
    except NetstoreError as error:
        advice = f"see {layered.program} --check-config"
        return layered.form(), wrong(subject, " ".join(str(error).split()), advice)
    told = "the defaults: there is no file" if loaded.file is None else f"{loaded.file} is valid"
    mark = "environment "
    variables = sorted(each.removeprefix(mark) for each in loaded.sources.values() if each.startswith(mark))
    return loaded.config, ok(
        subject, f"{told}; {', '.join(variables)} of this environment" if variables else told
    )
