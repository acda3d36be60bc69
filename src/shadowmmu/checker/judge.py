# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu check --judge SCRIPT`: what the architecture permits, access by access.  No MMU takes part, only the oracle.

    v0 store 0x20 = pte(gfn=9, ...)   a change         --> every CPU may have cached the old entry before it
    v0 invlpg 0x80                    an invalidation  --> which translations it takes, by which rule, SDM and APM section
    v0 load 0x80                      an access        --> every outcome permitted now, each with what justifies it
    v0 may store 0x80 user            a question       --> the same, and nothing happens

If an access has one permitted outcome, an MMU that can still do another owes a flush; the rules listed say which instruction
demanded it.  If the stale outcome is in the list, no flush is required.

A CPU may cache at any moment, so before every operation each vCPU learns everything that its tables offer.  An access goes
on with the CPU that has nothing cached (A and D are set, a #PF removes what it removes); with `tlb` it goes on with another
permitted translation, if there is one.  Instructions are taken to succeed (no #GP checks).
"""

from dataclasses import dataclass, field

from ..oracle import tlb, walker
from ..x86 import bits
from . import ops
from .geometry import PAGE

ROWS, GFNS = 400, 32
SHIFT, LEVEL_BITS = 5, 2
WORDS_PER_PAGE = PAGE // 8
#: What a question may ask, and how the oracle calls it.
KINDS = {ops.LOAD: ("read", walker.READ), ops.STORE: ("write", walker.WRITE_ACCESS), ops.FETCH: ("fetch", walker.FETCH)}
#: Control bits whose change is an invalidation: (bit, event if it becomes 1, event if it becomes 0).
CR4_EVENTS = ((bits.CR4_PGE, tlb.PGE_TOGGLED, tlb.PGE_TOGGLED), (bits.CR4_PCIDE, tlb.PCIDE_SET, tlb.PCIDE_CLEARED),
              (bits.CR4_PAE, tlb.PAE_TOGGLED, tlb.PAE_TOGGLED), (bits.CR4_PSE, tlb.PSE_TOGGLED, tlb.PSE_TOGGLED),
              (bits.CR4_SMEP, tlb.SMEP_SET, tlb.OTHER_BIT))


@dataclass
class Removal:
    """An invalidation and what it took.  rows: text of the rows; none when the rule asks nothing of this vendor."""

    event: str
    source: str
    rows: list


@dataclass
class Outcome:
    """One permitted outcome of an access: `what` it is and `because` of what."""

    what: str
    because: list


@dataclass
class Step:
    """One line of the script and what the oracle says to it."""

    line: int
    text: str
    question: bool = False
    removals: list = field(default_factory=list)
    outcomes: list = field(default_factory=list)
    gone: list = field(default_factory=list)
    verdict: str = ""
    went_on: str = ""
    note: str = ""


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


class Judge:
    """A script's world: guest memory by gfn and a `Cpu` for each vCPU."""

    def __init__(self, machine, vcpus):
        self.machine = machine
        self.words = [0] * (GFNS * WORDS_PER_PAGE)
        self.slots = {(0, 0): (0, machine.slot_pages, 0)}
        if machine.slot_pages == 12:
            self.slots[0, 1] = 12, 2, 12
        self.frames = [walker.NO_FRAME] * GFNS
        self.memory = walker.Memory(self.words, self.frames, GFNS, SHIFT, LEVEL_BITS)
        self.place_slots()
        for gfn, entries in machine.tables().items():
            for i, entry in enumerate(entries):
                self.write(gfn * PAGE + i * machine.entry_bytes, entry, machine.entry_bytes)
        self.cpus = [Cpu(machine, self.memory) for _ in range(vcpus)]

    def write(self, gpa, value, size):
        """Bytes into guest memory, if there is any."""
        at, writable = walker.locate(self.memory, gpa)
        if at < 0 or not writable:
            return
        shift = 8 * (gpa & 7)
        mask = ((1 << 8 * size) - 1) << shift
        self.words[at] = ops.signed(self.words[at] & (1 << 64) - 1 & ~mask | value << shift & mask)

    def judge(self, lines):
        """Steps for (number, text, row, question) of a script."""
        for _, _, row, _ in lines:
            if row[0] in KINDS:
                for cpu in self.cpus:
                    cpu.gvas.add(row[2] & -PAGE)
        for cpu in self.cpus:
            cpu.learn(0)
        steps = []
        for number, text, row, question in lines:
            step = Step(number, text, question)
            if row[0] in KINDS:
                self.access(step, self.cpus[row[1]], row)
            elif row[0] >= ops.HOST_WRITE:
                self.host(step, row)
            else:
                self.instruction(step, self.cpus[row[1]], row)
            for cpu in self.cpus:
                cpu.learn(number)
            steps.append(step)
        return steps

    # -- accesses

    def access(self, step, cpu, row):
        """An access or a question."""
        code, _, gva, value, size, flags = row[:6]
        cpu.cpu[walker.CPL] = 3 if flags & ops.USER else 0
        cpu.cpu[walker.AC] = 1 if flags & ops.AC else 0
        kind = KINDS[code][1]
        found = cpu.permitted(gva, kind)
        step.outcomes = [Outcome(what, why) for what, why in found.items()]
        step.gone = cpu.gone(gva, kind, found)
        if len(found) > 1:
            step.verdict = "more than one answer: a stale one is permitted, no flush is required up to here"
        elif step.gone:
            step.verdict = "one answer: an MMU that can still give another owed a flush (see what was taken, and where)"
        else:
            step.verdict = "one answer"
        if not step.question:
            self.go_on(step, cpu, gva, kind, value, size, flags, list(found))

    def go_on(self, step, cpu, gva, kind, value, size, flags, found):
        """The access happens."""
        if flags & ops.BY_TLB:
            other = [what for what in found[1:] if what.startswith("gfn")]
            if not other:
                step.went_on = "nothing: no held translation differs from the tables"
                return
            step.went_on = f"{other[0]}, by a held translation"
            gfn = int(other[0].split()[1])
        else:
            step.went_on = found[0]
            removal = cpu.removing(step.line, tlb.PAGE_FAULT, lambda: tlb.access(
                self.memory, cpu.cpu, cpu.table, gva, kind, cpu.out))
            if cpu.out[walker.STATUS] != walker.TRANSLATED:
                step.removals.append(removal)
                return
            gfn = cpu.out[walker.GFN]
        if kind == walker.WRITE_ACCESS:
            self.write(gfn * PAGE + (gva & PAGE - 1), value, size)

    # -- instructions

    def instruction(self, step, cpu, row):
        """A guest instruction or SET_SREGS."""
        code, _, a, b, c, d = row[:6]
        line, registers = step.line, cpu.cpu
        if code == ops.MOV_CR3:
            event = tlb.MOV_CR3
            if registers[walker.CR4] & bits.CR4_PCIDE and a & bits.CR3_NOFLUSH:
                event = tlb.MOV_CR3_NOFLUSH
            step.removals.append(cpu.removing(line, event, lambda: tlb.mov_cr3(
                self.memory, registers, cpu.table, a, cpu.out)))
            walker.prepare(registers, LEVEL_BITS)
            cpu.load_pdptes()
        elif code == ops.MOV_CR0:
            self.cr0(step, cpu, a)
        elif code == ops.MOV_CR4:
            self.cr4(step, cpu, a)
        elif code == ops.WRMSR_EFER:
            registers[walker.EFER] = a & ~bits.EFER_LMA | registers[walker.EFER] & bits.EFER_LMA
            step.removals.append(cpu.invalidate(line, tlb.WRMSR_EFER))
            walker.prepare(registers, LEVEL_BITS)
        elif code == ops.INVLPG:
            step.removals.append(cpu.invalidate(line, tlb.INVLPG, gva=a))
        elif code == ops.INVPCID:
            step.removals.append(cpu.invalidate(line, tlb.INVPCID_ADDRESS + a, b, c))
        elif code in (ops.SMM_ENTER, ops.SMM_LEAVE):
            step.removals.append(cpu.invalidate(line, tlb.SMM))
        elif code == ops.INIT:
            step.removals.append(cpu.invalidate(line, tlb.INIT))
            for place in (walker.CR3, walker.CR4, walker.EFER):
                registers[place] = 0
            registers[walker.CR0] = bits.CR0_ET
            walker.prepare(registers, LEVEL_BITS)
        elif code == ops.SET_SREGS:
            for place, value in ((walker.CR0, a), (walker.CR3, b), (walker.CR4, c), (walker.EFER, d)):
                registers[place] = value
            walker.prepare(registers, LEVEL_BITS)
            cpu.load_pdptes()
            step.note = "no manual speaks of KVM_SET_SREGS: nothing is removed"
        elif code == ops.SET_MSRS:
            registers[walker.EFER] = a
            walker.prepare(registers, LEVEL_BITS)
            step.note = "no manual speaks of KVM_SET_MSRS: nothing is removed"
        elif code == ops.SET_CPUID:
            registers[walker.MAXPHYADDR] = a
            walker.prepare(registers, LEVEL_BITS)
            step.note = "a CPU does not change its MAXPHYADDR: nothing is removed"
        if code in (ops.SMM_ENTER, ops.SMM_LEAVE):
            step.note = "memory is taken to be the same in SMM"

    def cr0(self, step, cpu, value):
        """MOV CR0, with EFER.LMA following CR0.PG."""
        old = cpu.cpu[walker.CR0]
        event = tlb.OTHER_BIT
        if (old ^ value) & bits.CR0_PG:
            event = tlb.PG_SET if value & bits.CR0_PG else tlb.PG_CLEARED
        step.removals.append(cpu.removing(step.line, event, lambda: tlb.mov_cr0(
            self.memory, cpu.cpu, cpu.table, value, cpu.out)))
        if event != tlb.OTHER_BIT:
            efer = cpu.cpu[walker.EFER]
            on = value & bits.CR0_PG and efer & bits.EFER_LME
            cpu.cpu[walker.EFER] = efer | bits.EFER_LMA if on else efer & ~bits.EFER_LMA
            walker.prepare(cpu.cpu, LEVEL_BITS)
        cpu.load_pdptes()

    def cr4(self, step, cpu, value):
        """MOV CR4: each changed bit by its own rule, then the register."""
        changed = cpu.cpu[walker.CR4] ^ value
        for bit, if_set, if_cleared in CR4_EVENTS:
            if changed & bit:
                step.removals.append(cpu.invalidate(step.line, if_set if value & bit else if_cleared))
        if not step.removals:
            step.removals.append(cpu.invalidate(step.line, tlb.OTHER_BIT))
        cpu.cpu[walker.CR4] = value
        walker.prepare(cpu.cpu, LEVEL_BITS)
        cpu.load_pdptes()

    # -- the host

    def host(self, step, row):
        """What the host does changes memory, and no CPU notices: no rule of the architecture speaks of it."""
        code, _, a, b, c, d, e = row[:7]
        if code == ops.HOST_WRITE:
            self.write(a, b, c)
        elif code == ops.SLOT_DELETE:
            self.slots.pop((b, a), None)
        elif code == ops.SLOT_CREATE:
            self.slots[e & 1, a] = (b, c, d)
        elif code == ops.SLOT_MOVE and (c, a) in self.slots:
            _, pages, hva = self.slots[c, a]
            self.slots[c, a] = (b, pages, hva)
        elif code == ops.UNMAP:
            for page in range(a, a + b):
                self.words[page * WORDS_PER_PAGE:(page + 1) * WORDS_PER_PAGE] = [0] * WORDS_PER_PAGE
        self.place_slots()
        step.note = "an act of the host: the guest's CPU is told nothing"

    def place_slots(self):
        """gfn -> frame, from the memslots of address space 0."""
        for gfn in range(GFNS):
            self.frames[gfn] = walker.NO_FRAME
        for (space, _), (base, pages, hva) in self.slots.items():
            for i in range(pages if space == 0 else 0):
                self.frames[base + i] = walker.ram_frame(hva + i, 0)
