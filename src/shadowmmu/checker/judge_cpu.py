# SPDX-License-Identifier: GPL-2.0-or-later
"""One CPU of `--judge`: the oracle's table of what it may hold, with since when, by what it went, and what an access may then do.

    learn (all that the tables offer)  -->  row: since line 3
    invalidate (an event of tlb.SOURCES) -> row: removed in line 7 by INVLPG
    permitted (gva, kind)              -->  Outcomes, each with the rows that justify it
"""

from dataclasses import dataclass

from ..oracle import tlb, walker
from ..x86 import bits
from . import ops
from .geometry import PAGE

ROWS, GFNS = 400, 32
SHIFT, LEVEL_BITS = 5, 2


@dataclass
class Removal:
    """An invalidation and what it took.  rows: text of the rows; none when the rule asks nothing of this vendor."""

    event: str
    source: str
    rows: list


def error_text(error):
    """A page-fault error code: 0x7 (P W U)."""
    names = (("P", 1), ("W", 2), ("U", 4), ("RSVD", 8), ("F", 16), ("PK", 32))
    return f"{error:#x} ({' '.join(n for n, b in names if error & b) or 'not present'})"


class Cpu:
    """One vCPU of the oracle, and the names of what its table holds."""

    def __init__(self, machine, memory):
        self.machine, self.memory = machine, memory
        self.cpu, self.out = [0] * walker.CPU_WORDS, [0] * walker.OUT_WORDS
        self.table, self.outcomes = [0] * tlb.words_for(ROWS), [0] * (2 * ROWS + 8)
        for place, value in ((walker.CR0, machine.cr0), (walker.CR3, machine.cr3), (walker.CR4, machine.cr4),
                             (walker.EFER, machine.efer), (walker.MAXPHYADDR, 40), (walker.GBPAGES, 1),
                             (walker.AMD, 0 if machine.intel else 1)):
            self.cpu[place] = value
        tlb.clear(self.table, ROWS)
        self.gvas = set(machine.gvas)
        self.since, self.removed, self.smm = {}, {}, 0
        walker.prepare(self.cpu, LEVEL_BITS)
        self.load_pdptes()

    def load_pdptes(self):
        """PAE paging: the PDPTE registers (SDM vol. 3 4.4.1)."""
        if self.cpu[walker.MODE] == walker.PAE:
            walker.load_pdptes(self.memory, self.cpu, self.cpu[walker.CR3])

    def rows(self):
        """The table as a set of rows (name, address, value)."""
        return {tuple(self.table[tlb.row_at(i):tlb.row_at(i) + tlb.ROW_WORDS]) for i in range(self.table[tlb.COUNT])}

    def learn(self, line):
        """Everything that may be cached now; `line`: since when, for what is new."""
        for gva in sorted(self.gvas):
            tlb.learn(self.memory, self.cpu, self.table, gva, self.out)
        tlb.require_room(self.table)
        for row in self.rows():
            self.since.setdefault(row, line)
            self.removed.pop(row, None)

    def removing(self, line, event, action):
        """Do an invalidation; the Removal says what it took."""
        before = self.rows()
        action()
        name, source = tlb.SOURCES[event]
        taken = sorted(before - self.rows())
        for row in taken:
            self.since.pop(row, None)
            self.removed[row] = f"line {line}: {name}"
        return Removal(name, source, [self.row_text(row) for row in taken if row[0] & tlb.KIND != tlb.HOLE])

    def invalidate(self, line, event, pcid=None, gva=0):
        """An event of the oracle's table."""
        pcid = tlb.current_pcid(self.cpu) if pcid is None else pcid
        return self.removing(line, event, lambda: tlb.invalidate(self.memory, self.cpu, self.table, event, pcid, gva, self.out))

    def row_text(self, row):
        """One row of the oracle's table in words."""
        name, address, value = row
        kind = {tlb.TRANSLATION: "translation", tlb.WALK: "partial walk", tlb.PIECES: "pieces of a large translation",
                tlb.HOLE: "hole"}[name & tlb.KIND]
        letters = "".join(letter if value & bit else "-" for letter, bit in (
            ("W", bits.PT_WRITABLE), ("U", bits.PT_USER), ("D", bits.PT_DIRTY), ("G", bits.PT_GLOBAL)))
        where = "table gfn" if name & tlb.KIND == tlb.WALK else "gfn"
        return (f"pcid {tlb.name_pcid(name)} {kind} level {name & tlb.LEVEL_BITS} {address:#x} -> {where} "
                f"{(value & bits.FRAME_MASK) >> 12} {letters}{' NX' if value < 0 else ''}")

    def covers(self, row, gva):
        """Does the row speak of this address at all?"""
        return row[1] == tlb.covered_from(self.memory, self.cpu, gva, row[0] & tlb.LEVEL_BITS)

    def outcome_text(self):
        """The outcomes noted in the table of outcomes, as text."""
        out = []
        for i in range(self.outcomes[0]):
            kind, value = self.outcomes[1 + 2 * i], self.outcomes[2 + 2 * i]
            if kind == walker.TRANSLATED:
                out.append(f"gfn {value}" + ("" if self.has_memory(value) else " (no memory: MMIO)"))
            else:
                out.append("#GP (not canonical)" if kind == walker.NONCANONICAL else f"#PF {error_text(value)}")
        return out

    def has_memory(self, gfn):
        """Is there memory at this gfn?"""
        return 0 <= gfn < GFNS and self.memory.frames[gfn] >= 0

    def path(self):
        """The walk in `out`, entry by entry."""
        names = {1: "PTE", 2: "PDE", 3: "PDPTE", 4: "PML4E", 5: "PML5E"}
        steps = []
        for level in range(self.out[walker.TOP], self.out[walker.LEVEL] - 1, -1):
            entry = self.out[walker.ENTRY + level - 1]
            place = self.out[walker.ADDRESS + level - 1]
            steps.append(f"{names[level]} at gfn {place >> SHIFT}+{place & PAGE - 1:#x} = {ops.pte_text(entry)}")
        return " > ".join(steps) or "paging is off"

    def permitted(self, gva, kind):
        """Every permitted outcome with its reasons, by asking for each source alone."""
        found = {}

        def add(reason):
            for what in self.outcome_text():
                found.setdefault(what, []).append(reason)
            self.outcomes[0] = 0

        self.outcomes[0] = 0
        m, cpu = self.memory, self.cpu
        if not walker.is_canonical(m, cpu, gva):
            tlb.add_outcome(self.outcomes, walker.NONCANONICAL, 0)
            add("SDM vol. 1 3.3.7.1")
            return found
        gva = tlb.linear(m, cpu, gva)
        status = walker.walk(m, cpu, gva, self.out)
        path = self.path()
        error = 0
        if status == walker.TRANSLATED:
            error = walker.judge(cpu, kind, *(self.out[k] for k in (walker.WRITE, walker.USER, walker.NO_EXECUTE, walker.KEY)))
        elif status != walker.NONCANONICAL:
            error = walker.fault_of(cpu, kind, status)
        failed = status != walker.TRANSLATED or error
        tlb.add_outcome(self.outcomes, walker.DENIED if failed else walker.TRANSLATED, error if failed else self.out[walker.GFN])
        add(f"the tables now: {path}")
        if cpu[walker.MODE] == walker.NO_PAGING:
            return found
        pcid = tlb.current_pcid(cpu)
        for i in range(self.table[tlb.COUNT]):
            if not tlb.usable(self.table, i, m, cpu, cpu[walker.TAG], pcid, gva):
                continue
            row = tuple(self.table[tlb.row_at(i):tlb.row_at(i) + tlb.ROW_WORDS])
            since = f"since {'the start' if not self.since.get(row) else 'line ' + str(self.since[row])}"
            if row[0] & tlb.KIND == tlb.WALK:
                level, table = tlb.resume(self.table, i, self.out)
                tlb.walk_outcome(m, cpu, gva, kind, level, table, self.out, self.outcomes)
                add(f"held {since}, walked on: {self.row_text(row)}")
            elif row[0] & tlb.KIND == tlb.TRANSLATION or not tlb.in_hole(self.table, i, m, gva):
                tlb.row_outcome(m, cpu, self.table, i, gva, kind, self.outcomes)
                add(f"held {since}: {self.row_text(row)}")
        return found

    def gone(self, gva, kind, found):
        """Rows that would give another outcome, that an invalidation took, and that did not come back: text, by what."""
        out = []
        for row, by in sorted(self.removed.items()):
            would = self.alone(row, gva, kind)
            if would and would not in found:
                out.append(f"{would} ({self.row_text(row)}), taken in {by}")
        return out

    def alone(self, row, gva, kind):
        """Outcome if the CPU still had this row and used it; None if it does not serve this access."""
        m, cpu, table = self.memory, self.cpu, [0] * tlb.words_for(1)
        if row[0] & tlb.KIND not in (tlb.TRANSLATION, tlb.WALK) or cpu[walker.MODE] == walker.NO_PAGING:
            return None
        tlb.clear(table, 1)
        tlb.hold(table, *row)
        gva = tlb.linear(m, cpu, gva)
        if not tlb.usable(table, 0, m, cpu, cpu[walker.TAG], tlb.current_pcid(cpu), gva):
            return None
        self.outcomes[0] = 0
        if row[0] & tlb.KIND == tlb.WALK:
            level, first = tlb.resume(table, 0, self.out)
            tlb.walk_outcome(m, cpu, gva, kind, level, first, self.out, self.outcomes)
        else:
            tlb.row_outcome(m, cpu, table, 0, gva, kind, self.outcomes)
        return next(iter(self.outcome_text()), None)
