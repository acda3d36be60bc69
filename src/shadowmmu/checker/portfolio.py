# SPDX-License-Identifier: GPL-2.0-or-later
"""A search that is told nothing: every machine, one and two vCPUs, exhaustively and at random, a slice each in turn.

            lanes: machine x vCPUs x {random, exhaustive}             one slice = so many operations of one lane
    round 0   r 4-level 1 | x 4-level 1 | r 4-level 2 | ... | x wide 2        SLICES[0] operations each
    round 1   r 4-level 1 | ...                                               SLICES[1] each
      ...                                              SLICES[-1] each (x: EXHAUSTIVE_SLICE), for ever

    plan = Plan("linux-6.12", seed=1)
    found = plan.run(seconds=60)              list of Lead; [] when the time is used up
    plan.explain(found[0]).text()             the Finding: minimal script, what was permitted, tables before and after
    saved = plan.save()                       bytes
    plan = Plan.restore(saved); plan.run(...) goes on where it stopped

The schedule is a function of (rules, seed, machines, vcpus, aside, share, length) and counts operations, never time: the same
plan finds the same things in the same order on every computer, interpreted or compiled.  An interrupted plan resumes exactly.

run(seconds, operations, findings=N)   stops at the Nth lead with a cause of its own (see `Lead.cause`; 1: the first)
aside                                  mask of known deviations (known.mask); ALL_KNOWN is what a search wants usually
share=(i, n)                           part i of n of the work: random lanes of all parts differ by their seed, exhaustive
                                       lanes are dealt out, so n parts together do the exhaustive work once
progress                               called with a Progress (of the whole) after every slice; may raise to stop
"""

import json
import time
import zlib
from dataclasses import dataclass, field

from ..state import PATCH, cache
from . import alphabet, entries, finding, geometry, known, search, verify
from .lanes import BreadthFirst, RandomWalk
from .seen import Seen
from .shrink import shrink

#: Operations of a lane's slice by round.
SLICES = (500, 1_000, 2_000, 4_000, 8_000, 16_000)
#: At most so many of an exhaustive lane: what is close to the initial state it has soon been through, the rest is for walks.
EXHAUSTIVE_SLICE = 4_000
#: A lane is left after so many leads: its MMU is broken in a way that hides everything else.
ENOUGH = 8
ALL_KNOWN = known.mask(known.DEVIATIONS)
FORMAT = 2


class PlanError(Exception):
    """A saved plan that cannot be resumed; the message says why."""


@dataclass
class Lead:
    """A failure that a plan came upon, already as short as it gets.  lane: its index in the plan."""

    lane: int
    machine: str
    vcpus: int
    mode: str
    failure: int
    rows: list
    operations: int = field(compare=False, default=0)

    @property
    def cause(self):
        """What makes two leads the same finding: the check, and the operations in order without their values."""
        return verify.FAILURES[self.failure][0], self.machine, tuple(row[0] for row in self.rows)


class Plan:
    """See the module's text."""

    def __init__(self, rules, seed=1, machines=None, vcpus=None, aside=ALL_KNOWN, share=(0, 1), progress=None,
                 length=40):
        self.length = length
        self.rules, self.seed, self.aside, self.share = rules, seed, aside, tuple(share)
        self.machines = list(machines or geometry.MACHINES)
        self.vcpus = list(vcpus or (1, 2))
        self.callback = progress or (lambda p: None)
        self.seconds, self.round, self.turn, self.leads = 0.0, 0, 0, []
        self.names = [(machine, n, mode) for machine in self.machines for n in self.vcpus for mode in ("random", "exhaustive")]
        self.lanes, self.closed, self.failed = [None] * len(self.names), {}, {}
        #: Seconds that each lane took.
        self.spent = [0.0] * len(self.names)
        self.seen = Seen()

    # -- lanes

    def lane(self, i):
        """Lane `i`, made when it is first wanted."""
        if self.lanes[i] is None:
            name, vcpus, mode = self.names[i]
            machine, kind = geometry.MACHINES[name], RandomWalk if mode == "random" else BreadthFirst
            arena = geometry.Arena(machine, self.rules, vcpus, copies=kind.COPIES, aside=self.aside)
            seen, salt = self.seen, (i + 1) * 0x9E3779B97F4A7C15 & (1 << 61) - 1
            if mode == "random":
                seed = (self.seed * 65_537 + i) * 4_099 + self.share[0]
                self.lanes[i] = RandomWalk(arena, alphabet.alphabet(machine, vcpus), seen, seed, self.length, salt)
            else:
                self.lanes[i] = BreadthFirst(arena, alphabet.alphabet(machine, vcpus, small=True), seen, salt=salt)
        return self.lanes[i]

    def _mine(self, i):
        """Does this share work on lane `i`?"""
        part, parts = self.share
        return self.names[i][2] == "random" or i // 2 % parts == part

    def progress(self):
        """What has been done so far, over all lanes."""
        p = search.Progress(seconds=self.seconds)
        for lane in self.lanes:
            if lane:
                p.take(lane)
        return p

    def bounds(self):
        """One row per lane: machine, vcpus, mode, operations, states, depth; `complete_depth` and `exhausted` if exhaustive."""
        out = []
        for (machine, vcpus, mode), lane in zip(self.names, self.lanes):
            p = search.Progress()
            if lane:
                p.take(lane)
            row = {"machine": machine, "vcpus": vcpus, "mode": mode, "operations": p.operations, "states": p.states,
                   "depth": p.depth}
            if mode == "exhaustive":
                row |= {"complete_depth": lane.complete_depth if lane else 0, "exhausted": bool(lane and lane.exhausted)}
            out.append(row)
        return out

    # -- searching

    def run(self, seconds=0, operations=0, findings=1):
        """Go on until `seconds` or `operations` (of this call) are used up or so many new causes are known: the new leads."""
        if not seconds and not operations:
            raise PlanError("a plan runs until it is told to stop: give seconds or operations")
        started, before = time.monotonic(), self.seconds
        first, begun = len(self.leads), self.progress().operations
        while True:
            if not self._slice():
                break
            self.seconds = before + time.monotonic() - started
            p = self.progress()
            self.callback(p)
            if len(self.leads) - first >= findings or operations and p.operations - begun >= operations \
                    or seconds and self.seconds - before >= seconds:
                break
        return self.leads[first:]

    def _slice(self):
        """One slice of the lane whose turn it is; False when no lane has anything left to do."""
        n = len(self.names)
        for _ in range(n):
            i = self.turn
            if not self._mine(i) or i in self.closed:
                self._next()
                continue
            size = SLICES[min(self.round, len(SLICES) - 1)]
            started = time.monotonic()
            try:
                result = self.lane(i).step(size if self.names[i][2] == "random" else min(size, EXHAUSTIVE_SLICE))
            finally:
                self.spent[i] += time.monotonic() - started
            if result > 0:
                self._note(i, result)
            elif result < 0:
                self.closed[i] = "done"
            self._next()
            return True
        return False

    def _next(self):
        self.turn += 1
        if self.turn == len(self.names):
            self.turn, self.round = 0, self.round + 1

    def _note(self, i, failure):
        """A lane has failed: shorten, keep it if its cause is new, let the lane go on."""
        lane, (machine, vcpus, mode) = self.lanes[i], self.names[i]
        lead = Lead(i, machine, vcpus, mode, failure, lane.found(), self.progress().operations)
        lead.rows = shrink(self.arena(lead), lead.rows, failure)
        if lead.cause not in {known_lead.cause for known_lead in self.leads}:
            self.leads.append(lead)
        lane.go_on()
        self.failed[i] = self.failed.get(i, 0) + 1
        if self.failed[i] == ENOUGH:
            self.closed[i] = "enough"

    def arena(self, lead):
        """A fresh machine on which the lead's operations can be replayed."""
        return geometry.Arena(geometry.MACHINES[lead.machine], self.rules, lead.vcpus, copies=2, aside=self.aside)

    def explain(self, lead):
        """The Finding for a lead."""
        return finding.explain(self.arena(lead), lead.rows, lead.failure)

    # -- stopping and going on
    #
    #   one line of JSON: settings, progress, numbers of words | the lanes' tables, compressed | digests that were met

    def save(self):
        """Everything needed to go on, as bytes."""
        lanes = [lane and lane.save() for lane in self.lanes]
        tables = zlib.compress(b"".join(bytes(table) for lane in lanes if lane for table in lane), 1)
        digests = bytes(self.seen.words())
        head = {"format": FORMAT, "sources": cache.key(__file__, PATCH.text),
                "settings": {"rules": self.rules, "seed": self.seed, "machines": self.machines, "vcpus": self.vcpus,
                             "aside": self.aside, "share": self.share, "length": self.length},
                "seconds": self.seconds, "spent": self.spent, "round": self.round, "turn": self.turn, "closed": self.closed,
                "failed": self.failed,
                "leads": [vars(lead) for lead in self.leads],
                "lanes": [lane and [len(table) for table in lane] for lane in lanes],
                "tables": len(tables), "digests": len(digests), "sum": zlib.crc32(digests, zlib.crc32(tables))}
        return json.dumps(head).encode() + b"\n" + tables + digests

    @classmethod
    def restore(cls, saved, progress=None):
        """The plan that was saved.  PlanError if it was made by other sources: its traces would mean something else."""
        line, _, rest = saved.partition(b"\n")
        try:
            head = json.loads(line)
            if head["format"] != FORMAT or head["sources"] != cache.key(__file__, PATCH.text):
                raise PlanError("the plan was saved by another version of shadowmmu or with another patch; begin a new one")
            if len(rest) != head["tables"] + head["digests"] or zlib.crc32(rest) != head["sum"]:
                raise PlanError("this is not a saved plan, or damaged")
            tables = memoryview(zlib.decompress(rest[:head["tables"]])).cast("q")
        except (ValueError, KeyError, TypeError, zlib.error):
            raise PlanError("this is not a saved plan, or damaged") from None
        plan = cls(progress=progress, **head["settings"])
        plan.seconds, plan.spent, plan.round, plan.turn = head["seconds"], head["spent"], head["round"], head["turn"]
        plan.closed = {int(i): why for i, why in head["closed"].items()}
        plan.failed = {int(i): count for i, count in head["failed"].items()}
        plan.leads = [Lead(**dict(lead, rows=[tuple(row) for row in lead["rows"]])) for lead in head["leads"]]
        plan.seen.take(entries.table_from(memoryview(rest)[head["tables"]:].cast("q")))
        at = 0
        for i, lengths in enumerate(head["lanes"]):
            if lengths:
                ends = [at + sum(lengths[:k]) for k in range(len(lengths) + 1)]
                plan.lane(i).restore([entries.table_from(tables[a:b]) for a, b in zip(ends, ends[1:])])
                at = ends[-1]
        return plan
