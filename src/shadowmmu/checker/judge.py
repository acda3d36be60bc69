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
from .judge_cpu import GFNS, LEVEL_BITS, SHIFT, Cpu

WORDS_PER_PAGE = PAGE // 8
#: What a question may ask, and how the oracle calls it.
KINDS = {ops.LOAD: ("read", walker.READ), ops.STORE: ("write", walker.WRITE_ACCESS), ops.FETCH: ("fetch", walker.FETCH)}
#: Control bits whose change is an invalidation: (bit, event if it becomes 1, event if it becomes 0).
CR4_EVENTS = ((bits.CR4_PGE, tlb.PGE_TOGGLED, tlb.PGE_TOGGLED), (bits.CR4_PCIDE, tlb.PCIDE_SET, tlb.PCIDE_CLEARED),
              (bits.CR4_PAE, tlb.PAE_TOGGLED, tlb.PAE_TOGGLED), (bits.CR4_PSE, tlb.PSE_TOGGLED, tlb.PSE_TOGGLED),
              (bits.CR4_SMEP, tlb.SMEP_SET, tlb.OTHER_BIT))


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
