"""netstorectl, the command line client for operators.

`cli` is the tree of commands. `run` turns every exception into an exit status and one line on standard error;
a traceback is never shown.
"""

from __future__ import annotations

if __name__ == "__main__":  # ahead of the imports below, which take a while
    from netstore import entry

    entry.netstorectl()

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import shell_complete

from netstore.cli.commands import completion
from netstore.cli.commands.archive import archive
from netstore.cli.commands.doctor import doctor
from netstore.cli.commands.endpoint import endpoint
from netstore.cli.commands.exporting import export
from netstore.cli.commands.failures import Exit, Failure, system_problem
from netstore.cli.commands.history import diff, undo
from netstore.cli.commands.history import history as key_history
from netstore.cli.commands.importing import import_
from netstore.cli.commands.invocation import PROGRAM, say
from netstore.cli.commands.key import key
from netstore.cli.commands.member import member, move_leader
from netstore.cli.commands.migrate import migrate
from netstore.cli.commands.mirror import mirror
from netstore.cli.commands.network import network
from netstore.cli.commands.options import Command, Group
from netstore.cli.commands.plugin import plugin
from netstore.cli.commands.route import route
from netstore.cli.commands.snapshot import snapshot
from netstore.cli.commands.status import status
from netstore.cli.commands.subnet import subnet
from netstore.cli.commands.subnetmoves import drain, move, undrain
from netstore.cli.commands.subnetviews import history, map_
from netstore.release import version_json, version_line

if TYPE_CHECKING:
    from collections.abc import Sequence

_AS_JSON = f"{__name__}.json"
"""Where click's context keeps that the version is to be printed as JSON."""


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(version_json(PROGRAM) if context.meta.get(_AS_JSON) else version_line(PROGRAM))
        context.exit()


def _take_json(context: click.Context, _: click.Parameter, asked: bool) -> None:
    context.meta[_AS_JSON] = asked


@click.group(cls=Group, outermost=True)
@click.option(
    "--json", is_flag=True, is_eager=True, expose_value=False, callback=_take_json, help="Version as JSON."
)
@click.option(
    "--version", is_flag=True, expose_value=False, callback=_show_version, help="Show the version and exit."
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Look after a netstore (or etcd) cluster: its pod network, subnets, plugins, keys, members."""
    if context.meta.get(_AS_JSON):
        raise click.UsageError("--json is for --version; the form of an answer is -o json", context)


for noun in (network, subnet, route, plugin, key, member, endpoint, snapshot, status, doctor):
    cli.add_command(noun)
for command in (archive, key_history, diff, undo):
    cli.add_command(command)
for verb in (history, map_, move, drain, undrain):
    subnet.add_command(verb)
cli.add_command(import_)
cli.add_command(export)
cli.add_command(mirror)
network.add_command(migrate)
cli.add_command(move_leader, "move-leader")
cli.add_command(click.command(cls=Command)(completion.completion))


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status."""
    try:
        asked = os.environ.get(completion.VARIABLE)
        if asked:
            return shell_complete(cli, {}, PROGRAM, completion.VARIABLE, asked)
        with cli.make_context(PROGRAM, list(arguments)) as context:
            cli.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except Failure as failure:
        say(failure.text)
        return failure.status
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else PROGRAM
        text = error.format_message()
        stop = "" if text.endswith((".", "?")) else "."
        say(f"{text}{stop} See '{path} --help'.")
        return Exit.USAGE
    except click.ClickException as error:
        say(error.format_message())
        return Exit.REFUSED
    except RecursionError:
        say("nested too deep to be shown; ask for a part of it")
        return Exit.REFUSED
    except BrokenPipeError:
        _close_standard_output()
        return Exit.PIPE_CLOSED
    except OSError as error:
        if error.filename is not None:
            say(system_problem(error))
            return Exit.REFUSED
        _close_standard_output()
        say(f"standard output: {error.strerror or error}")
        return Exit.REFUSED
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            return Exit.INTERRUPTED
        return _defect(group)
    except Exception as error:  # noqa: BLE001 - the last resort: every defect becomes one line
        return _defect(error)
    return Exit.OK


def main() -> None:
    """The entry point."""
    if sys.stdout is None:  # the caller has closed it
        say("standard output: is closed; open it, or write to /dev/null")
        sys.exit(Exit.REFUSED)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - to the end of the process
    for stream in (sys.stdout, sys.stderr):
        # Characters that the locale cannot encode are escaped: an error would cut the output.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def _defect(error: BaseException) -> int:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    say(f"defect, please report it: {type(error).__name__} at {place}: {error}")
    return Exit.INTERNAL


def _close_standard_output() -> None:
    """Redirect standard output to /dev/null: otherwise the interpreter's last flush would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
