# SPDX-License-Identifier: GPL-2.0-or-later
"""One search for all exhibits and for their fixes: checker.portfolio.Plan, which is told nothing.

    broken:  plan until the first finding, then a little longer for a shorter script        --> Hunt
    mended:  the same plan (it counts operations, not time) at least as far, and on until the time is over

The process has the exhibit's functions in it (SHADOWMMU_PATCH, or in_place); the rules say the rest.
"""

import time
from dataclasses import dataclass, replace

from ..checker import finding, geometry, known, ops, portfolio, search, verify

ASIDE = known.mask(known.DEVIATIONS)


@dataclass
class Hunt:
    """What a hunt came to.  script: the shortest one, None if nothing was found; seconds: until the first finding, or of the
    whole; searched, states: operations done and states met until then; bounds: rows of Plan.bounds."""

    script: str | None
    length: int
    kind: str
    seconds: float
    searched: int
    states: int
    bounds: list

    @property
    def found(self):
        return self.script is not None


def hunt(rules, seconds, operations=0, more=0.0, seed=1, progress=lambda p: None, first=lambda hunt: None):
    """Search under `rules` (a dictionary) for `seconds`, and on until `operations` are done.

    more: after the first finding, the share of its time that is spent on looking for a shorter one (at most 10 s).  first: is
    told the first finding at once: an MMU that is broken badly enough takes the process with it later.
    """
    # compiled, or loaded, before the clock starts
    geometry.Arena(geometry.MACHINES["4-level"], rules, 1, copies=1)
    plan = portfolio.Plan(rules, seed=seed, aside=ASIDE, progress=progress)
    leads = plan.run(seconds=seconds, findings=1) if seconds else []
    while not leads and plan.progress().operations < operations:
        leads = plan.run(operations=operations - plan.progress().operations, findings=1)
    p, took = plan.progress(), plan.seconds
    if leads:
        first(_hunt(plan, rules, leads, took, p))
    if leads and more:
        end = time.monotonic() + min(10.0, 1.0 + more * took)
        while time.monotonic() < end and min(len(lead.rows) for lead in leads) > 1 and len(leads) < 12:
            leads += plan.run(seconds=end - time.monotonic(), findings=1)
    return _hunt(plan, rules, leads, took, p)


def _hunt(plan, rules, leads, took, p):
    """The Hunt of these leads."""
    if not leads:
        return Hunt(None, 0, "", took, p.operations, p.states, plan.bounds())
    best = min(leads, key=lambda lead: (len(lead.rows), lead.vcpus))
    name = rules if isinstance(rules, str) else "linux-6.12"
    return Hunt(ops.script(best.machine, name, best.vcpus, best.rows), len(best.rows), verify.FAILURES[best.failure][0], took,
                p.operations, p.states, plan.bounds())


def replay(rules, script):
    """A script (text) under `rules`: (number of the failure or 0, arena, rows)."""
    parsed = ops.parse(script)
    arena = geometry.Arena(geometry.MACHINES[parsed.machine], rules, parsed.vcpus, aside=ASIDE)
    return search.replay(arena, parsed.rows)[0], arena, parsed.rows


def explained(rules, script, name):
    """The Finding of a script under `rules`, called `name` in it, or None where it finds nothing."""
    failure, arena, rows = replay(rules, script)
    if not failure:
        return None
    found = finding.explain(arena, rows, failure)
    return replace(found, rules=name, script=ops.script(found.machine, name, found.vcpus, rows))
