# SPDX-License-Identifier: GPL-2.0-or-later
"""One search over one machine: exhaustively to a depth (`breadth`) or at random with restarts (`random_walk`).

Both draw from geometry.alphabet and run compiled, in slices; between slices Python shows progress and can stop.
`portfolio` spreads searches over all machines.
"""

import time
from dataclasses import dataclass, field

from ..state import JIT
from . import breadth, random_walk
from .alphabet import alphabet
from .entries import perform, prepare, replay
from .geometry import Arena
from .lanes import BreadthFirst, RandomWalk
from .random_walk import MAX_LENGTH
from .seen import Seen

__all__ = ["MAX_LENGTH", "Found", "Progress", "Search", "perform", "prepare", "replay"]


@dataclass
class Progress:
    """What a search has done so far."""

    operations: int = 0
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    restarts: int = 0
    skipped: int = 0
    abandoned: int = 0
    complete_depth: int = -1
    exhausted: bool = False
    covered: int = 0

    @property
    def rate(self):
        return self.operations / self.seconds if self.seconds else 0.0

    def take(self, lane):
        """Add what one lane has done."""
        w = lane.work
        self.operations += int(w[random_walk.OPERATIONS])
        self.states += int(w[random_walk.STATES])
        self.depth = max(self.depth, int(w[random_walk.DEPTH]))
        self.skipped += int(w[random_walk.SKIPS])
        self.abandoned += int(w[random_walk.FULLS])
        self.covered |= lane.covered
        if lane.mode == "random":
            self.restarts += int(w[random_walk.RESTARTS])


@dataclass
class Found:
    """A failure, and the operations that lead to it from the initial state."""

    failure: int
    rows: list = field(default_factory=list)


class Search:
    """One search over one machine.  `random` and `exhaustive` return a Found, or None when the budget is used up.

    progress: called with a Progress after every slice; may raise to stop (KeyboardInterrupt is the user's way).
    """

    def __init__(self, machine, rules, vcpus=1, seed=1, progress=None, aside=0):
        self.machine, self.rules, self.vcpus, self.seed = machine, rules, vcpus, seed
        self.arena = Arena(machine, rules, vcpus, copies=RandomWalk.COPIES, aside=aside)
        self.rows, self.small = alphabet(machine, vcpus), alphabet(machine, vcpus, small=True)
        self.callback = progress or (lambda p: None)
        self.progress = Progress()

    def _run(self, lane, seconds, operations):
        started, size = time.monotonic(), 20_000 if JIT else 200
        while True:
            done = int(lane.work[random_walk.OPERATIONS])
            result = lane.step(min(operations - done, size) if operations else size)
            p = self.progress = Progress(seconds=time.monotonic() - started)
            p.take(lane)
            p.complete_depth = lane.complete_depth
            p.exhausted = lane.mode == "exhaustive" and lane.exhausted
            self.callback(p)
            if result > 0:
                return Found(result, lane.found())
            if result < 0 or (operations and p.operations >= operations) or (seconds and p.seconds >= seconds):
                return None

    def random(self, seconds=0, operations=0, length=40):
        """Random walks of `length` operations until a budget is used up."""
        lane = RandomWalk(self.arena, self.rows, Seen(), self.seed, length)
        return self._run(lane, seconds, operations)

    def exhaustive(self, depth=breadth.MAX_DEPTH, seconds=0, operations=0):
        """All sequences of up to `depth` operations of the short alphabet, states that were met before left out."""
        return self._run(BreadthFirst(self.arena, self.small, Seen(), depth), seconds, operations)
