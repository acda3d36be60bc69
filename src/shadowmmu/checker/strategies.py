# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypothesis: operations as strategies, and a stateful machine over the same operations.

    operations("pcid")                 strategy: rows of the machine's alphabet, drawn as the search draws them
    any_operation("pcid")              strategy: any row that `ops.OPS` can write, well-formed values of every kind
    class TestMine(machine_class("pcid")): pass         a RuleBasedStateMachine: every step is an operation and is checked

Both come from `ops.OPS` and `alphabet`; there is no second list.  A failing example is already a script: the message holds the
finding, as small as Hypothesis makes it.

    from shadowmmu.checker.strategies import machine_class
    TestMmu = machine_class("4-level", rules="linux-7.2").TestCase
"""

import re

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from . import entries, known, ops
from .alphabet import alphabet
from .finding import explain
from .geometry import MACHINES, Arena
from .places import eptp

#: How a parameter of an operation is drawn, by the letter in `ops.OPS`.
_ENTRIES = st.builds(lambda gfn, flags: ops.signed(gfn << 12 | sum(flags)), st.integers(0, 15),
                     st.sets(st.sampled_from(list(ops.PTE_BITS.values()))))
_PARAMETERS = {
    "n": lambda machine: st.integers(0, 15),
    "x": lambda machine: st.sampled_from([gva + offset for gva in machine.gvas for offset in (0, 8, 24)]),
    "p": lambda machine: _ENTRIES,
    "r": lambda machine: st.builds(lambda gfn, pcid, keep: ops.signed(gfn << 12 | pcid | keep << 63), st.sampled_from((1, 6)),
                                   st.sampled_from(machine.pcids), st.integers(0, int(len(machine.pcids) > 1))),
    "t": lambda machine: st.builds(eptp, st.sampled_from((1, 6)), st.booleans()),
    "0": lambda machine: st.builds(lambda clear: machine.cr0 & ~clear, st.sampled_from((0, ops.CR0_BITS["WP"]))),
    "4": lambda machine: st.builds(lambda change: machine.cr4 ^ change, st.sampled_from(
        [0, *(ops.CR4_BITS[name] for name in ("PGE", "SMEP", "SMAP"))])),
    "e": lambda machine: st.just(machine.efer),
    "f": lambda machine: st.sampled_from((0, ops.USER, ops.AC, ops.BY_TLB)),
    "s": lambda machine: st.just(machine.entry_bytes),
    "b": lambda machine: st.integers(0, 1),
    "m": lambda machine: st.sampled_from((0, 2, 4)),
    "w": lambda machine: st.just(0),
    "_": lambda machine: st.just(0),
}


def any_operation(machine="4-level", vcpus=1):
    """Rows with well-formed values of every operation that there is; some are refused, as a kernel refuses them."""
    m = MACHINES[machine]

    def of(op):
        letters = re.findall(r"\{(.)\}", op.text)
        who = st.just(0) if op.code >= ops.HOST_WRITE else st.integers(0, vcpus - 1)
        return st.builds(lambda v, *values: ops.row(op.code, v, *values), who, *(_PARAMETERS[letter](m) for letter in letters))

    return st.one_of([of(op) for op in ops.OPS])


def operations(machine="4-level", vcpus=1, small=False):
    """Rows of the machine's alphabet, by the weights of the random search."""
    m = MACHINES[machine]
    rows = alphabet(m, vcpus, small)
    kinds = [kind for kind, weight in m.weights.items() if rows.get(kind) for _ in range(max(weight // 4, 1))]
    return st.sampled_from(kinds).flatmap(lambda kind: st.sampled_from(rows[kind]))


def scripts(machine="4-level", vcpus=1, max_size=20):
    """Lists of rows."""
    return st.lists(operations(machine, vcpus), max_size=max_size)


class _Walk(RuleBasedStateMachine):
    """Every step is an operation on one small machine; after each all checks of the search are made."""

    #: Names that RuleBasedStateMachine does not use: (machine, rules, vCPUs, mask of deviations set aside).
    mmu = ("4-level", "linux-6.12", 1, 0)
    arena = None

    def __init__(self):
        super().__init__()
        kind = type(self)
        if kind.arena is None:
            machine, kernel, vcpus, aside = self.mmu
            kind.arena = Arena(MACHINES[machine], kernel, vcpus, copies=2, aside=aside)
        self.arena.copy(1, 0)
        self.done = []

    def do(self, row):
        """One operation; AssertionError with the finding if a check fails."""
        self.done.append(row)
        failure = int(entries.perform(self.arena.handle(1), self.arena.area, entries.table_of([row]), 0))
        if failure:
            raise AssertionError("\n" + explain(self.arena, self.done, failure).text())


def machine_class(machine="4-level", *, rules="linux-6.12", vcpus=1, aside=tuple(known.DEVIATIONS), small=False):
    """A RuleBasedStateMachine with rules for each kind of operation of the machine's alphabet.  aside: names of known
    deviations that are not looked for."""
    m = MACHINES[machine]
    body = {"mmu": (machine, rules, vcpus, known.mask(aside)), "arena": None}
    for kind, rows in alphabet(m, vcpus, small).items():
        # Hypothesis draws rules evenly: a kind that the search draws often has several
        for i in range(-(-m.weights.get(kind, 0) // 4) if rows else 0):
            name = f"{kind.replace(' ', '_')}_{i}"
            body[name] = rule(row=st.sampled_from(rows))(_step(name))
    return type(f"Mmu_{machine.replace('-', '_')}", (_Walk,), body)


def _step(name):
    def operation(self, row):
        self.do(row)

    operation.__name__ = name
    return operation
