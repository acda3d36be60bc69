# SPDX-License-Identifier: GPL-2.0-or-later
"""Checked operations per second: an operation on a small machine, the oracle, the model TLB and every check after it.

    random       walks of 40 operations, as `shadowmmu check` does them (digest and set of states included)
    exhaustive   breadth first: a copy of the state for each operation, too

Best of the rounds; the budget is DESIGN section 7's for one core on tiny geometry.
"""

from dataclasses import dataclass

from ..checker import known, search
from ..checker.geometry import MACHINES

BUDGET = 200_000
#: (machine, vCPUs, exhaustive)
RUNS = (("4-level", 1, False), ("4-level", 2, False), ("pcid", 1, False), ("4-level", 1, True))


@dataclass
class Checked:
    """One row: operations per second, best of the rounds."""

    name: str
    rate: float
    rounds: list
    budget: float = BUDGET


def measure(options):
    """Rows of `Checked`; every round takes about ten timings' length."""
    out = []
    for machine, vcpus, exhaustive in RUNS:
        finder = search.Search(MACHINES[machine], "linux-6.12", vcpus, aside=known.mask(known.DEVIATIONS))

        def run(seconds, finder=finder, exhaustive=exhaustive):
            found = finder.exhaustive(seconds=seconds) if exhaustive else finder.random(seconds)
            return finder.progress.rate if not found else 0.0

        run(options.seconds)        # loads the code
        rounds = [run(10 * options.seconds) for _ in range(max(1, options.rounds // 2))]
        name = f"{machine}, {vcpus} vCPU{'s' if vcpus > 1 else ''}, {'exhaustive' if exhaustive else 'random'}"
        out.append(Checked(name, max(rounds), rounds))
    return out
