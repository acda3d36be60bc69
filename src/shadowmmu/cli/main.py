# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: options, exit codes, nothing else.

Exit codes: 0 fine, 1 the answer is "no" (guest failed, difference found), 2 the question cannot be answered.
Rooms are imported inside the commands: `--help` needs no compiled core.
"""

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..trace.commands import app as trace_app
from .restart import restart

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="KVM's x86 shadow MMU, executable.")
app.add_typer(trace_app, name="trace")


def _version(wanted: bool):
    if wanted:
        print(f"shadowmmu {__version__}")
        raise typer.Exit


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                  help="Print the version.")] = False):
    """KVM's x86 shadow MMU, executable."""


@app.command()
def run(
    image: Annotated[str | None, typer.Argument(help="Linux bzImage or vmlinux, multiboot kernel, or recorded guest (.cfg). "
                                                        "Default: the demo guest.")] = None,
    entry: Annotated[str, typer.Option(help="How to enter the kernel: auto, linux64, linux32, pvh, multiboot.")] = "auto",
    append: Annotated[str, typer.Option(help="Command line of the guest.")] = "",
    initrd: Annotated[list[str] | None, typer.Option(help="Linux: initrd.  Multiboot: module; may be repeated.")] = None,
    memory: Annotated[int | None, typer.Option(help="Guest memory in MiB. Default 128, for Linux 256.")] = None,
    rules: Annotated[str, typer.Option(help="Kernel whose MMU this is: linux-6.1, linux-6.12, linux-6.12.0, "
                                            "linux-7.2.")] = "linux-6.12",
    mmu: Annotated[str, typer.Option(help="shadow, or none: the engine walks the guest's own tables.")] = "shadow",
    profile: Annotated[str, typer.Option(help="Host CPU: amd, or tcg (as the recordings).")] = "amd",
    events: Annotated[str | None, typer.Option(help="Write the event log to this file, in tracefs format.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; the console goes to stderr.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    max_instructions: Annotated[int | None, typer.Option(help="Stop after so many guest instructions.")] = None,
    la57: Annotated[bool, typer.Option("--la57", help="Offer 5-level paging to the guest.")] = False,
    pcid: Annotated[bool, typer.Option("--pcid", help="Offer PCIDs to the guest.")] = False,
    maxphyaddr: Annotated[int | None, typer.Option(help="Width of guest-physical addresses that CPUID shows.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Save the running guest to this file (then it goes on); "
                                                         "`run FILE` restores it.")] = None,
    snapshot_at: Annotated[int | None, typer.Option(help="After how many guest instructions.")] = None,
    patch: Annotated[str | None, typer.Option(help="Python file with changed functions of the core (state/patch.py "
                                                      "says how).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No guest console.")] = False,
):
    """Run a guest on the shadow page tables and print what the MMU did."""
    if patch is not None and os.environ.get("SHADOWMMU_PATCH") != patch:
        restart("SHADOWMMU_PATCH", patch)
    from . import run_command
    _finish(run_command.main, image, append=append, initrd=initrd or (), memory=memory, rules=rules, mmu=mmu,
            profile=profile, events=events, as_json=json, timeout=timeout, max_instructions=max_instructions, la57=la57,
            pcid=pcid, quiet=quiet, entry=entry, maxphyaddr=maxphyaddr,
            snapshot_file=snapshot, snapshot_at=snapshot_at)


@trace_app.command("compare-run")
def compare_run(
    run_dir: Annotated[str, typer.Argument(help="ROOT/logs/<kernel>/<guest>; the guest is ROOT/guests/<guest>.cfg.")],
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Stop the guest after so many seconds.")] = None,
):
    """Run a recorded guest here and hold events, states, values and memory against the recording."""
    from . import compare_run as command
    _finish(command.main, run_dir, as_json=json, timeout=timeout)


@trace_app.command("function-parity")
def function_parity(
    run_dirs: Annotated[list[str], typer.Argument(help="ROOT/logs/<kernel>/<guest>.functions; one or more.")],
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
):
    """Hold the calls of the interpreted core against the kernel's function trace."""
    from .function_parity import main as command
    _finish(command, run_dirs, as_json=json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def bench(context: typer.Context):
    """Time the core's operations compiled, interpreted and as C; `bench guests`: real guests against the engine's MMU."""
    if context.args[:1] == ["guests"]:
        from ..lab.guest_speed import command as guests
        _finish(guests, context.args[1:])
    from ..lab.bench import command
    _finish(command, context.args)


def _finish(command, *arguments, **options):
    """Call a command's body; errors that a user can mend become one line and exit code 2."""
    from .errors import USER_ERRORS, UsageError
    try:
        code = command(*arguments, **options)
    except (UsageError, *USER_ERRORS) as error:
        print(f"shadowmmu: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("shadowmmu: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    raise typer.Exit(code)


def main():
    """Entry point of the console script."""
    app()
