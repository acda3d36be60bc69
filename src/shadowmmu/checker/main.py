# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands behind `shadowmmu check`: one function with the command's options, its output, its exit code.

    0  nothing found; how much was searched is printed       1  a finding       2  the question cannot be answered
"""

import json
import sys
import time
from pathlib import Path

from .. import rules as rule_sets
from . import known, ops, search
from .finding import explain, minimal
from .geometry import MACHINES, Arena


class CheckError(Exception):
    """The options do not make sense; the message says which and why."""


def _machine(name):
    if name not in MACHINES:
        raise CheckError(f"no machine {name!r}; there are: {', '.join(MACHINES)}")
    return MACHINES[name]


def _rules(name):
    if name not in rule_sets.RULES:
        raise CheckError(f"no rules named {name!r}; there are: {', '.join(rule_sets.RULES)}")
    return name


def _aside(names):
    try:
        return known.mask(names)
    except KeyError as error:
        raise CheckError(f"no known deviation {error.args[0]!r}; there are: {', '.join(known.DEVIATIONS)}") from None


def _report(result, findings, as_json, out):
    if as_json:
        print(json.dumps(result | {"findings": [f.as_dict() for f in findings]}, indent=2), file=out)
        return
    for f in findings:
        print(f.text(), end="\n\n", file=out)
    for key, value in result.items():
        print(f"{key}: {value:.0f}" if isinstance(value, float) else f"{key}: {value}", file=out)
    print(f"findings: {len(findings)}", file=out)


def _show_progress(stream):
    """One line on a terminal; nothing elsewhere."""
    last = [0.0]

    def show(p):
        now = time.monotonic()
        if now - last[0] > 0.5 and stream.isatty():
            last[0] = now
            stream.write(f"\r{p.operations:,} operations, {p.rate:,.0f}/s, {p.states:,} states, depth {p.depth}\x1b[K")
            stream.flush()

    return show


def replay(path, as_json=False, aside=(), out=sys.stdout):
    """Run a script: 0 if nothing is wrong, 1 with the finding explained."""
    try:
        script = ops.parse(Path(path).read_text())
    except OSError as error:
        raise CheckError(f"{path}: {error.strerror}") from None
    except ops.ScriptError as error:
        raise CheckError(f"{path}: {error}") from None
    arena = Arena(_machine(script.machine), _rules(script.rules), script.vcpus, aside=_aside(aside))
    started = time.monotonic()
    failure, done = search.replay(arena, script.rows)
    seconds = time.monotonic() - started
    findings = [explain(arena, script.rows[:done], failure)] if failure else []
    _report({"operations": done, "operations_per_second": done / seconds if seconds else 0.0, "states": done,
             "depth": done, "seconds": round(seconds, 3)}, findings, as_json, out)
    return 1 if findings else 0


def check(*, rules="linux-6.12", machine="4-level", vcpus=1, seconds=0, operations=0, seed=1, depth=0, length=40, aside=(),
          as_json=False, out=sys.stdout, err=sys.stderr):
    """Search one machine: exhaustively if `depth` is given, else at random (10 seconds if no budget is given)."""
    if not 1 <= vcpus <= 2:
        raise CheckError(f"{vcpus} vCPUs: the small machines have 1 or 2")
    if not depth and not seconds and not operations:
        seconds = 10
    finder = search.Search(_machine(machine), _rules(rules), vcpus, seed, _show_progress(err), aside=_aside(aside))
    try:
        found = finder.exhaustive(depth, seconds, operations) if depth else finder.random(seconds, operations, length)
    except KeyboardInterrupt:
        found = None
    finally:
        if err.isatty():
            err.write("\r\x1b[K")
    p = finder.progress
    result = {"rules": rules, "machine": machine, "vcpus": vcpus, "seed": seed, "aside": list(aside),
              "operations": p.operations, "operations_per_second": round(p.rate), "states": p.states, "depth": p.depth,
              "seconds": round(p.seconds, 2), "skipped": p.skipped, "abandoned": p.abandoned}
    if depth:
        result |= {"exhaustive_depth": p.complete_depth, "exhausted": p.exhausted}
    findings = [minimal(finder.arena, found)] if found else []
    _report(result, findings, as_json, out)
    return 1 if findings else 0
