# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu museum --small-states`: the seeds' data structures, every small state, for each version of the code.

    root cache    today, before seed 003, before and with seed 000, its mutants
    unsync bits   today, seed 001 alone, with patch 04, the reviewer's version, a vector that refuses
"""

import json
import os
import sys
import textwrap

from . import exhibit as exhibits
from . import in_place

ROOT_CACHE = ("S003.before", "S000.before", "S000.posted", "S000.f1", "S000.f2", "S000.f3")
UNSYNC = ("S001.alone", "S001.with04", "S001.review", "S001.refuse", "S001.parents")


def verdicts(which, judge):
    """(name, Verdict) of today's code and of each exhibit."""
    yield "today", judge()
    for id in which:
        with in_place.applied(exhibits.named(id).path):
            yield id, judge()


def main(as_json=False, out=sys.stdout):
    """Judge all of them; interpreted, because the functions are exchanged on the way."""
    from ..state import JIT
    if JIT:
        environment = dict(os.environ, SHADOWMMU_JIT="0")
        os.execve(sys.executable, [sys.executable, "-m", "shadowmmu", *sys.argv[1:]], environment)
    from . import small_states
    result = {}
    for title, which, judge in (("root cache", ROOT_CACHE, small_states.root_cache),
                                ("unsync bits", UNSYNC, small_states.unsync_graphs)):
        if not as_json:
            print(title, file=out)
        for name, verdict in verdicts(which, judge):
            if not as_json:
                row = textwrap.fill(str(verdict), 76, initial_indent=f"  {name:<13}", subsequent_indent=" " * 15)
                print(row, file=out, flush=True)
            result.setdefault(title, {})[name] = {"states": verdict.states, "wrong": verdict.wrong,
                                                  "examples": {k: repr(v) for k, v in verdict.example.items()}}
    if as_json:
        print(json.dumps(result, indent=2), file=out)
    return 0
