# SPDX-License-Identifier: GPL-2.0-or-later
"""The command behind `check --judge SCRIPT`: reading a script with questions, and printing what `judge` says.

    v0 may load 0x80 user      a question: `may` in front of load, store or fetch; a store needs no value
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from ..state import JIT
from . import nested_judge, ops, tasks
from .finding import wrap
from .geometry import MACHINES, PAGE
from .judge import KINDS
from .saved import read_text

#: Reasons and rows of one kind that the text shows; JSON has all.
SHOWN = 4
#: What makes a line a question.
QUESTION = "may"


def read(path):
    """(Script, [(line number, text, row, question)]) of a judge script: like any other, with `may` lines."""
    lines, text = [], []
    for number, raw in enumerate(read_text(path, 1 << 18).splitlines(), 1):
        line = raw.partition("#")[0].strip()
        actor, _, rest = line.partition(" ")
        question = rest.strip().startswith(QUESTION + " ")
        if question:
            rest = rest.strip()[len(QUESTION):].strip()
            if rest.startswith("store ") and "=" not in rest:
                address, _, flags = rest.removeprefix("store ").strip().partition(" ")
                rest = f"store {address} = 0{' ' + flags if flags else ''}"
            line = f"{actor} {rest}"
        text.append(line)
        lines.append((number, raw.partition("#")[0].strip(), question))
    try:
        script = ops.parse("\n".join(text))
        tasks.Settings(script.rules, (script.machine,), (script.vcpus,)).check()
    except (ops.ScriptError, tasks.SettingsError) as error:
        raise ops.ScriptError(f"{path}: {str(error).replace('--', '')}") from None
    used = [entry for entry, line in zip(lines, text) if line and line.partition(" ")[0] not in ("machine", "rules", "vcpus")]
    out = []
    for (number, raw, question), row in zip(used, script.rows, strict=True):
        if question and row[0] not in KINDS:
            raise ops.ScriptError(f"{path}: line {number}: one can ask for load, store and fetch, not for {raw!r}")
        out.append((number, raw, row, question))
    if not out:
        raise ops.ScriptError(f"{path}: no operations")
    return script, out


def as_dict(script, steps):
    """For JSON."""
    return {"machine": script.machine, "vcpus": script.vcpus, "vendor": "intel" if MACHINES[script.machine].intel else "amd",
            "steps": [{"line": s.line, "text": s.text, "question": s.question,
                       "removals": [vars(r) for r in s.removals], "permitted": [vars(o) for o in s.outcomes],
                       "taken_before": s.gone, "verdict": s.verdict, "went_on": s.went_on, "note": s.note} for s in steps]}


def text(script, steps, rows):
    """For the terminal."""
    asked = {hex(row[2] & -PAGE) for row in rows if row[0] in KINDS}
    vendor = "Intel" if MACHINES[script.machine].intel else "AMD"
    lines = [f"machine {script.machine}: {MACHINES[script.machine].what}; rules of {vendor} where the vendors differ"]
    for s in steps:
        lines += ["", f"line {s.line}: {s.text}"]
        for o in s.outcomes:
            lines.append(f"    permitted: {o.what}")
            for reason in o.because[:SHOWN]:
                lines += wrap(reason, indent=8)
            if len(o.because) > SHOWN:
                lines.append(f"        and by {len(o.because) - SHOWN} more (--json)")
        for row in s.gone:
            lines += wrap(f"no longer: {row}", indent=4)
        for r in s.removals:
            lines += wrap(f"{r.event}. {r.source}", indent=4)
            about = [row for row in r.rows if any(f" {address} " in row for address in asked)]
            lines += ["      takes " + row for row in about[:SHOWN]]
            more = len(r.rows) - len(about[:SHOWN])
            if more or not r.rows:
                lines.append(f"      takes {more} other rows (--json)" if more else "      takes nothing")
        lines += ["    " + t for t in (s.verdict, s.went_on and f"goes on with {s.went_on}", s.note) if t]
    return "\n".join(lines)


def document(script_text):
    """What `--judge --json` says of a script, from a process in any mode: the oracle is asked interpreted."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(script_text)
        file.flush()
        if not JIT:
            script, lines = read(file.name)
            return as_dict(script, nested_judge.of(MACHINES[script.machine], script.vcpus).judge(lines))
        root = str(pathlib.Path(__file__).resolve().parents[2])
        environment = dict(os.environ, SHADOWMMU_JIT="0", SHADOWMMU_PATCH="",
                           PYTHONPATH=os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))))
        done = subprocess.run([sys.executable, "-m", "shadowmmu", "check", "--judge", file.name, "--json"], text=True,
                              capture_output=True, env=environment)
        if done.returncode:
            raise ops.ScriptError(done.stderr.strip().splitlines()[-1])
        return json.loads(done.stdout)


def command(path, as_json=False, out=sys.stdout):
    """Body of `check --judge`: 0."""
    if JIT:
        raise ops.ScriptError("--judge runs interpreted: set SHADOWMMU_JIT=0 (the command line does)")
    script, lines = read(path)
    steps = nested_judge.of(MACHINES[script.machine], script.vcpus).judge(lines)
    print(json.dumps(as_dict(script, steps), indent=2) if as_json else text(script, steps, script.rows), file=out)
    return 0


