# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark measures: one row of its table each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One row of the benchmark.

    driver: function in `drivers` and, with limit_ before it, in limit.c.  guest: function in `guest`.  form: what the
    driver's two arguments are ("n", "processes n", "n words").  budget: least share of C's speed (DESIGN, section 7;
    0.8 where the prototype had it).
    """

    name: str
    text: str
    driver: str
    guest: str
    budget: float = 0.5
    form: str = "n"
    events: bool = False


OPERATIONS = {operation.name: operation for operation in (
    Operation("fault", "shadow fault", "faults", "processes", 0.8, "processes n"),
    Operation("fault-events", "shadow fault, events on", "faults", "processes", 0.5, "processes n", True),
    Operation("hit", "batched hit", "hits", "hits", 0.8),
    Operation("cr3", "cached CR3 switch", "cr3", "warm_processes"),
    Operation("ptewrite", "tracked PTE write", "ptewrite", "warm_processes"),
    Operation("refault", "PTE write + refault", "refault", "warm_processes"),
    Operation("unsync", "unsync + sync cycle", "unsync", "warm_processes", 0.8),
    Operation("invlpg", "INVLPG cycle", "invlpg", "warm_processes", 0.8),
    Operation("clone-tiny", "clone + hash, tiny", "clone", "tiny", 0.5, "n words"),
    Operation("clone-full", "clone + hash, 40 pages", "clone", "full40", 0.5, "n words"),
)}
