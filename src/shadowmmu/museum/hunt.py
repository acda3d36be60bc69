# SPDX-License-Identifier: GPL-2.0-or-later
"""One search for all exhibits and for their fixes: no exhibit says where it is to be looked for.

    slice 0: 4-level, seed 1 | slice 1: pcid, seed 1 | ... | slice n: 4-level, seed 2 | ...     until the time is over

The machines take turns, each with a fresh seed, known deviations set aside.  What is found is shrunk; further slices go on
looking for a shorter script until the time is over or `patience` slices brought none.
"""

import itertools
import time
from dataclasses import dataclass, field

from ..checker import known, ops, search
from ..checker.finding import explain
from ..checker.geometry import MACHINES, Arena
from ..checker.shrink import shrink
from ..state import JIT

#: Machines and numbers of vCPUs that take turns.
TURNS = (("4-level", 1), ("pcid", 1), ("32-bit", 1), ("pae", 1), ("4-level", 2), ("huge", 1), ("nonpaging", 1), ("pcid", 2),
         ("huge", 2))
#: Operations of one slice, and of one walk (short ones first: they shrink faster).
SLICE = 200_000 if JIT else 700
LENGTHS = (12, 40, 24, 80)
ASIDE = known.mask(known.DEVIATIONS)


@dataclass
class Hunt:
    """What a hunt came to.  script: rows, None if nothing was found; seconds: until the first finding (of all, if none)."""

    machine: str = ""
    vcpus: int = 1
    rows: list | None = None
    failure: int = 0
    seconds: float = 0.0
    operations: int = 0
    states: int = 0
    slices: int = 0
    kind: str = ""
    finds: list = field(default_factory=list)


def hunt(rules, seconds, slices=0, patience=12, progress=lambda hunt: None):
    """Search under `rules` (a dictionary) with whatever patch this process has: a Hunt.

    slices: number of slices at most (0: no limit).
    """
    out, started, waited = Hunt(), time.monotonic(), 0
    for seed in itertools.count(1):
        for machine, vcpus in TURNS:
            left = seconds - (time.monotonic() - started)
            if left <= 0 or slices and out.slices >= slices or out.rows and waited >= patience:
                out.seconds = out.seconds or time.monotonic() - started
                return out
            out.slices += 1
            finder = search.Search(MACHINES[machine], rules, vcpus, seed, aside=ASIDE)
            found = finder.random(left, SLICE, LENGTHS[(seed - 1) % len(LENGTHS)])
            out.operations += finder.progress.operations
            out.states += finder.progress.states
            waited += 1
            if found:
                out.seconds = out.seconds or time.monotonic() - started
                rows = shrink(finder.arena, found.rows, found.failure)
                out.finds.append(len(rows))
                if out.rows is None or (len(rows), vcpus) < (len(out.rows), out.vcpus):
                    out.machine, out.vcpus, out.rows, out.failure, waited = machine, vcpus, rows, found.failure, 0
                    out.kind = explain(finder.arena, rows, found.failure).rule
            progress(out)


def replay(rules, script):
    """A script (text) under `rules`: number of the failure or 0, operations done, and the arena."""
    parsed = ops.parse(script)
    arena = Arena(MACHINES[parsed.machine], rules, parsed.vcpus, aside=ASIDE)
    failure, done = search.replay(arena, parsed.rows)
    return failure, done, arena
