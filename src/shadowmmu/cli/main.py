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
lab_app = typer.Typer(help="Experiments.", no_args_is_help=True, add_completion=False)
app.add_typer(lab_app, name="lab")


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
    mmu: Annotated[str, typer.Option(help="shadow; tdp, tdp-legacy: nested paging; none: the engine's own MMU.")] = "shadow",
    profile: Annotated[str, typer.Option(help="Host CPU: amd, or tcg (as the recordings).")] = "amd",
    events: Annotated[str | None, typer.Option(help="Write the event log to this file, in tracefs format.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; the console goes to stderr.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    max_instructions: Annotated[int | None, typer.Option(help="Stop after so many guest instructions.")] = None,
    la57: Annotated[bool, typer.Option("--la57", help="Offer 5-level paging to the guest.")] = False,
    nested: Annotated[bool, typer.Option("--nested", help="Offer SVM to the guest: it may run guests of its own.")] = False,
    pcid: Annotated[bool, typer.Option("--pcid", help="Offer PCIDs to the guest.")] = False,
    maxphyaddr: Annotated[int | None, typer.Option(help="Width of guest-physical addresses that CPUID shows.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Save the running guest to this file (then it goes on); "
                                                         "`run FILE` restores it.")] = None,
    snapshot_at: Annotated[int | None, typer.Option(help="After how many guest instructions.")] = None,
    lockstep: Annotated[bool, typer.Option("--lockstep", help="Run beside the engine's own MMU and stop at the first difference: "
                                                              "exit code 0 equal, 1 different, 2 not to its end.")] = False,
    every: Annotated[int | None, typer.Option(help="--lockstep: compare memory after so many instructions "
                                                   "(default 100000).")] = None,
    patch: Annotated[str | None, typer.Option(help="Python file with changed functions of the core (state/patch.py "
                                                      "says how).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No guest console.")] = False,
    vcpus: Annotated[int, typer.Option(help="Number of vCPUs, which take turns.")] = 1,
    quantum: Annotated[int | None, typer.Option(help="--vcpus: guest instructions of one turn (default 100000).")] = None,
):
    """Run a guest on the shadow page tables and print what the MMU did."""
    if patch is not None and os.environ.get("SHADOWMMU_PATCH") != patch:
        restart("SHADOWMMU_PATCH", patch)
    from . import run_command
    _finish(run_command.main, image, append=append, initrd=initrd or (), memory=memory, rules=rules, mmu=mmu,
            profile=profile, events=events, as_json=json, timeout=timeout, max_instructions=max_instructions, la57=la57,
            nested=nested, pcid=pcid, quiet=quiet, entry=entry, maxphyaddr=maxphyaddr, snapshot_file=snapshot,
            snapshot_at=snapshot_at, in_lockstep=lockstep, every=every, vcpus=vcpus, quantum=quantum)


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


@app.command()
def check(
    rules: Annotated[str | None, typer.Option(help="Kernel whose MMU is searched: linux-6.1, linux-6.12 (default), "
                                                   "linux-6.12.0, linux-7.0, linux-7.2.")] = None,
    machine: Annotated[list[str] | None, typer.Option(help="Small machine: 4-level, pcid, pae, 32-bit, intel, "
                                                           "nested, nested-pae; may be repeated. Default: all.")] = None,
    vcpus: Annotated[list[int] | None, typer.Option(help="Number of vCPUs, 1 or 2; may be repeated. Default: both.")] = None,
    seconds: Annotated[float, typer.Option(help="Stop after so many seconds. Default 10 for random walks.")] = 0,
    operations: Annotated[int, typer.Option(help="Stop after so many operations.")] = 0,
    depth: Annotated[int, typer.Option(help="Exhaustive: every sequence of up to so many operations.")] = 0,
    seed: Annotated[int | None, typer.Option(help="First seed of the random walks. Default 1.")] = None,
    length: Annotated[int | None, typer.Option(help="Operations in a random walk before it starts again. Default 40.")] = None,
    patch: Annotated[str | None, typer.Option(help="Python file with changed functions of the core; docs/checker.md says "
                                                   "how.")] = None,
    variant: Annotated[str | None, typer.Option(help="A changed MMU by name: an exhibit (shadowmmu museum) or a rule set of the "
                                                     "past (docs/rules.md), e.g. C1, avi-2007.")] = None,
    aside: Annotated[list[str] | None, typer.Option(help="Set a known deviation of KVM aside (all are, unless --with "
                                                         "names them); may be repeated.")] = None,
    sought: Annotated[list[str] | None, typer.Option("--with", help="Look for a known deviation, or for all; may be "
                                                                    "repeated.")] = None,
    replay: Annotated[str | None, typer.Option(help="Run this script instead of searching.")] = None,
    judge: Annotated[str | None, typer.Option(help="Say what the architecture permits for each access of this script; no MMU "
                                                   "is involved.")] = None,
    resume: Annotated[str | None, typer.Option(help="Continue from this file, and save to it (made if it is not there).")] = None,
    workers: Annotated[int | None, typer.Option(help="Campaign: so many processes on this machine.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Campaign: dask scheduler at this address, tcp://HOST:PORT.")] = None,
    ledger: Annotated[str | None, typer.Option(help="SQLite file that keeps what was searched. Alone: show it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    reproducer: Annotated[str | None, typer.Option(help="Write a C test in the style of kvm-unit-tests for the finding.")] = None,
):
    """Search an MMU for something that the architecture does not permit, and print the shortest way to it.

    Exit codes: 0 nothing found (what was searched is printed), 1 a finding, 2 the question cannot be answered,
    130 interrupted (the state is saved).
    """
    if variant is not None:
        _finish(_variant, variant, rules, patch, stop=False)
        rules = variant
    if patch is not None and os.environ.get("SHADOWMMU_PATCH") != patch:
        restart("SHADOWMMU_PATCH", patch)
    if judge is not None and os.environ.get("SHADOWMMU_JIT") != "0":
        restart("SHADOWMMU_JIT", "0")       # a few calls of the oracle, not worth compiling
    from ..checker.main import command
    _finish(command, rules=rules, machine=machine or (), vcpus=vcpus or (), seconds=seconds, operations=operations, depth=depth,
            seed=seed, length=length, aside=aside or (), sought=sought or (), replay_file=replay, judge_file=judge,
            resume=resume, workers=workers, scheduler=scheduler, ledger=ledger, as_json=json, reproducer=reproducer)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def bench(context: typer.Context):
    """Time the core's operations compiled, interpreted and as C; `bench guests`: real guests against the engine's MMU."""
    if context.args[:1] == ["guests"]:
        from ..lab.guest_speed import command as guests
        _finish(guests, context.args[1:])
    from ..lab.bench import command
    _finish(command, context.args)


@lab_app.command("two-dimensional")
def two_dimensional(
    guest: Annotated[str, typer.Option(help="Guest of the demo hypervisor: 64 or pae.")] = "64",
    rules: Annotated[str, typer.Option(help="Kernel whose MMU this is.")] = "linux-6.12",
    profile: Annotated[str, typer.Option(help="Host CPU: amd, or tcg.")] = "amd",
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Stop a run after so many seconds.")] = None,
):
    """One guest under shadow paging, two-dimensional paging and a guest hypervisor: exits, faults, walk references."""
    from ..engines.unicorn_svm.profile import PROFILES
    from ..lab.two_dimensional import command
    from ..rules import RULES
    choices = {"rules": (rules, RULES), "profile": (profile, PROFILES)}
    _finish(_known, command, guest, rules, profile, json, timeout, choices=choices)


def _known(command, *arguments, choices):
    """`command` after a look at options that are names.  UsageError says which there are."""
    from .errors import UsageError
    for option, (value, known) in choices.items():
        if value not in known:
            raise UsageError(f"--{option} {value!r}: there is {', '.join(known)}")
    return command(*arguments)


@app.command()
def museum(
    exhibit: Annotated[list[str] | None, typer.Argument(help="Id of an exhibit, or several; without one, the list.")] = None,
    score: Annotated[bool, typer.Option("--score", help="Search for every exhibit and with every fix; print the "
                                                        "table. Interrupted, it goes on where it stopped.")] = False,
    role_audit: Annotated[bool, typer.Option("--role-audit", help="Leave out each bit of the page role in turn; the shortest "
                                                                  "visible difference.")] = False,
    small_states: Annotated[bool, typer.Option("--small-states", help="Judge every small state of the root cache and of the "
                                                                      "unsync bits, for each version of that code.")] = False,
    only: Annotated[str | None, typer.Option(help="For --score: ids, separated by commas.")] = None,
    seconds: Annotated[float, typer.Option(help="Time of one search; an exhibit that is not found gets a second one with "
                                                "another seed.")] = 60.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="For --score: forget what an earlier one found.")] = False,
    save: Annotated[bool, typer.Option("--save", help="For --score: store scripts that are shorter than those in the "
                                                      "museum.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
):
    """Historical bugs as runnable exhibits: list them, tell and run one, score all.

    Exit codes: 0 every bug that was searched was found and its fix is clean, 1 not so, 2 the question cannot be answered,
    130 interrupted.
    """
    problem = None
    if bool(exhibit) + score + role_audit + small_states > 1:
        problem = "an exhibit, --score, --role-audit and --small-states exclude each other"
    elif (only is not None or fresh or save) and not score:
        problem = "--only, --fresh and --save belong to --score"
    elif only is not None and not only.replace(",", "").strip():
        problem = "--only names no exhibit"
    elif not 0 < seconds < float("inf"):
        problem = f"--seconds {seconds:g} is no time to search"
    if problem:
        print(f"shadowmmu: {problem}", file=sys.stderr)
        raise typer.Exit(2)
    from ..museum import claims, command
    from ..museum import role_audit as audit
    if small_states:
        _finish(claims.main, as_json=json)
    elif score:
        ids = [id.strip() for id in (only or "").split(",") if id.strip()]
        _finish(command.score, ids, seconds=seconds, as_json=json, fresh=fresh, save=save)
    elif role_audit:
        _finish(audit.main, seconds=seconds, as_json=json)
    elif exhibit:
        _finish(command.tell, exhibit, seconds=seconds, as_json=json)
    else:
        _finish(command.list_all, as_json=json)


def _variant(name, rules, patch):
    """Put a variant's rules among the rules under its name; start again if it has functions of its own."""
    from .. import rules as rule_sets
    from ..museum import history
    from .errors import UsageError
    if rules is not None or patch is not None:
        raise UsageError("--variant has its own rules and functions; it excludes --rules and --patch")
    values, paths = history.variant(name)
    if paths and os.environ.get("SHADOWMMU_PATCH") != os.pathsep.join(paths):
        restart("SHADOWMMU_PATCH", os.pathsep.join(paths))
    rule_sets.RULES[name] = values


def _finish(command, *arguments, stop=True, **options):
    """Call a command's body; errors that a user can mend become one line and exit code 2.  stop: this is all there is to do."""
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
    if stop or code:
        raise typer.Exit(code)


def main():
    """Entry point of the console script."""
    app()
