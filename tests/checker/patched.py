# SPDX-License-Identifier: GPL-2.0-or-later
"""The broken MMUs of patches/: one patch file for all of them, compiled once; the rule `exhibit` says which is in force.

    python tests/checker/patched.py combine FILE              write that patch
    SHADOWMMU_PATCH=FILE python tests/checker/patched.py hunt SECONDS [NAME...]
                                                              the generic plan over each, told nothing: one line per mutant
    SHADOWMMU_PATCH=FILE python tests/checker/patched.py replay
                                                              every script of scripts/, with and without its mutant: JSON
"""

import ast
import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in (HERE / "patches").glob("*.py"))
RULES_NAME = "linux-6.12"


class Patch:
    """What museum.combined wants of an exhibit."""

    def __init__(self, name):
        self.id, self.path = name, HERE / "patches" / f"{name}.py"
        self.functions = [node.decorator_list[0].args[0].value for node in ast.parse(self.path.read_text()).body
                          if isinstance(node, ast.FunctionDef)]


def combine(target):
    """Write the combined patch."""
    from shadowmmu.museum import combined
    text, numbers = combined.combine([Patch(name) for name in NAMES])
    assert [numbers[name] for name in NAMES] == list(range(1, len(NAMES) + 1))
    pathlib.Path(target).write_text(text)


def rules(name):
    """Rules under which the mutant is in force."""
    from shadowmmu.rules import RULES
    return RULES[RULES_NAME] | {"exhibit": NAMES.index(name) + 1 if name else 0}


def hunt(seconds, names):
    """The plan over each mutant; a found script is written to scripts/ if there is none or a longer one."""
    from shadowmmu.checker import ops, verify
    from shadowmmu.checker.portfolio import Plan
    for name in names or NAMES:
        started = time.monotonic()
        plan = Plan(rules(name))
        leads = plan.run(seconds=seconds)
        spent = time.monotonic() - started
        if not leads:
            print(f"{name:36} not found in {plan.progress().operations:,} operations, {spent:.0f} s", flush=True)
            continue
        lead = leads[0]
        text = ops.script(lead.machine, RULES_NAME, lead.vcpus, lead.rows)
        path = HERE / "scripts" / f"{name}.txt"
        if not path.exists() or len(ops.parse(path.read_text()).rows) > len(lead.rows):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        print(f"{name:36} {verify.FAILURES[lead.failure][0]:18} {len(lead.rows):3} operations, found on {lead.machine} "
              f"({lead.vcpus} vCPU, {lead.mode}) after {lead.operations:,}, {spent:.0f} s", flush=True)


def replay():
    """name -> failure without the mutant, failure with it, length of the script, length when shrunk."""
    from shadowmmu.checker import geometry, known, ops
    from shadowmmu.checker.entries import replay as run
    from shadowmmu.checker.shrink import shrink
    out = {}
    for path in sorted((HERE / "scripts").glob("*.txt")):
        script = ops.parse(path.read_text())
        machine, aside = geometry.MACHINES[script.machine], known.mask(known.DEVIATIONS)
        sound = run(geometry.Arena(machine, rules(None), script.vcpus, copies=2, aside=aside), script.rows)[0]
        arena = geometry.Arena(machine, rules(path.stem), script.vcpus, copies=2, aside=aside)
        failure = run(arena, script.rows)[0]
        out[path.stem] = [sound, failure, len(script.rows), len(shrink(arena, script.rows, failure)) if failure else 0]
    return out


if __name__ == "__main__":
    if sys.argv[1] == "combine":
        combine(sys.argv[2])
    elif sys.argv[1] == "hunt":
        hunt(float(sys.argv[2]), sys.argv[3:])
    else:
        print(json.dumps(replay()))
