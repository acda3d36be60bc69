# SPDX-License-Identifier: GPL-2.0-or-later
"""What is searched (`Settings`), cut into pieces that can be done anywhere and in any order.

    Settings --task(i)--> Task (machine, vCPUs, strategy, seed, operations) --Runner--> Result

    i   0           1           ...  n-1         n         n+1       ...  2n            n: machines x vCPUs
        4-level 1   4-level 2        wide 2      4-level 1 4-level 2      4-level 1
        exhaustive  exhaustive       exhaustive  seed s    seed s         seed s+1

With a depth the list is finite: one exhaustive task for each machine and number of vCPUs.  A task gives the same result
wherever and whenever it runs, so a list of what is done (the ledger) is all that has to be kept.  A search in one process
uses `portfolio.Plan` instead, which goes on in the middle of a task.
"""

import hashlib
import pathlib
from dataclasses import asdict, dataclass, field

from .. import rules as rule_sets
from ..state import JIT, PATCH
from . import breadth, known, search
from .geometry import MACHINES

#: Rooms whose sources decide the result of a task.
ROOMS = ("x86", "state", "mmu", "rules", "vm", "oracle", "checker")
#: Operations of a task: ten seconds or more.
OPERATIONS = 5_000_000 if JIT else 4_000


class SettingsError(Exception):
    """The options do not make sense; the message says which and why."""


def source_key():
    """Hash of the sources that decide what a search finds (hex, 12 characters)."""
    root = pathlib.Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def patch_key(text=None):
    """Hash of a patch's text (that in force if not given), "" without one."""
    text = PATCH.text if text is None else text
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


@dataclass(frozen=True)
class Settings:
    """What is searched.  aside: names of deviations.  depth: 0 for random walks of `length` operations from `seed` on."""

    rules: str = rule_sets.DEFAULT
    machines: tuple = tuple(MACHINES)
    vcpus: tuple = (1, 2)
    aside: tuple = tuple(known.DEVIATIONS)
    seed: int = 1
    length: int = 40
    depth: int = 0

    def check(self):
        """Raise SettingsError if something is not there."""
        if self.rules not in rule_sets.RULES:
            raise SettingsError(f"--rules {self.rules}: there is {', '.join(rule_sets.RULES)}")
        for name in self.machines:
            if name not in MACHINES:
                raise SettingsError(f"--machine {name}: there is {', '.join(MACHINES)}")
        for n in self.vcpus:
            if n not in (1, 2):
                raise SettingsError(f"--vcpus {n}: the small machines have 1 or 2")
        for name in self.aside:
            if name not in known.DEVIATIONS:
                raise SettingsError(f"no known deviation {name!r}; there is {', '.join(known.DEVIATIONS)}")
        if not 1 <= self.length <= search.MAX_LENGTH:
            raise SettingsError(f"--length {self.length}: 1 to {search.MAX_LENGTH}")
        if not 0 <= self.depth <= 60:
            raise SettingsError(f"--depth {self.depth}: 1 to 60")
        if not 0 <= self.seed < 1 << 32:
            raise SettingsError(f"--seed {self.seed}: 0 to {(1 << 32) - 1}")

    @property
    def pairs(self):
        """(machine, vCPUs) of one round."""
        return [(machine, n) for machine in self.machines for n in self.vcpus]

    def as_dict(self):
        """For JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values):
        """The inverse of `as_dict`; SettingsError if it is not one."""
        try:
            settings = cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
            settings.check()
        except (TypeError, AttributeError):
            raise SettingsError("the settings in it are damaged") from None
        return settings


@dataclass(frozen=True)
class Task:
    """One piece of work.  operations: 0 for one that ends by itself."""

    machine: str
    vcpus: int
    strategy: str
    seed: int
    operations: int
    length: int
    depth: int

    @property
    def name(self):
        """Short text for people: "pcid, 2 vCPUs, random, seed 3"."""
        what = f"depth {self.depth}" if self.strategy == "exhaustive" else f"seed {self.seed}"
        return f"{self.machine}, {self.vcpus} vCPU{'s' if self.vcpus > 1 else ''}, {self.strategy}, {what}"


def task(settings, i, operations=None):
    """The i-th task, or None after the last."""
    pairs = settings.pairs
    operations = operations or OPERATIONS
    turn, at = divmod(i, len(pairs))
    machine, vcpus = pairs[at]
    if settings.depth:
        return Task(machine, vcpus, "exhaustive", 0, 0, 0, settings.depth) if turn == 0 else None
    if turn == 0:
        return Task(machine, vcpus, "exhaustive", 0, operations, 0, breadth.MAX_DEPTH)
    return Task(machine, vcpus, "random", settings.seed + turn - 1, operations, settings.length, 0)


@dataclass
class Result:
    """What came of a task.  complete: it ran to its end, not to a limit from outside.  exhausted, complete_depth: of an
    exhaustive one.  found: (failure, rows) or None."""

    task: Task
    operations: int = 0
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    skipped: int = 0
    abandoned: int = 0
    complete: bool = False
    exhausted: bool = False
    complete_depth: int = -1
    found: tuple | None = None
    finding: dict | None = field(default=None)
    covered: int = 0


class Runner:
    """Does tasks one after the other, in this process."""

    def __init__(self, settings, progress=None):
        self.settings, self.callback = settings, progress or (lambda task, p: None)
        self.current = None

    def run(self, task, seconds=0, operations=0):
        """Do a task; seconds, operations: limits from outside.  KeyboardInterrupt passes through."""
        self.finder = search.Search(MACHINES[task.machine], self.settings.rules, task.vcpus, task.seed or 1,
                                    lambda p: self.callback(task, p), aside=known.mask(self.settings.aside))
        self.current = task
        limit = min(filter(None, (task.operations, operations)), default=0)
        if task.strategy == "exhaustive":
            found = self.finder.exhaustive(task.depth, seconds, limit)
        else:
            found = self.finder.random(seconds, limit, task.length)
        return self.result(found)

    def result(self, found=None):
        """Result of the current task as far as it got."""
        task, p = self.current, self.finder.progress
        complete = p.exhausted or bool(task.operations) and p.operations >= task.operations
        return Result(task, p.operations, p.states, p.depth, p.seconds, p.skipped, p.abandoned,
                      complete or found is not None, p.exhausted, p.complete_depth,
                      (found.failure, found.rows) if found else None, covered=p.covered)
