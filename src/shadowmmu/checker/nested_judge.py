# SPDX-License-Identifier: GPL-2.0-or-later
"""`check --judge` for machines with nested paging: what the architecture permits L2, by L1's nested tables.

    v0 vmrun ncr3=root(gfn=1) asid=1 flush=0     L2 runs; what L1's tables offer may be cached, under the ASID (EP4TA)
    v0 may store 0x80                            a question about L2's physical address 0x80
    v0 vm exit; v0 invept 1 eptp(...)            L1 runs: nothing new is cached; which rows an instruction takes, by which rule

L1's own accesses go to their own place and are not judged.  Machines whose L2 pages itself are refused: there an access has two
translations (oracle.nested, `permitted`), which this text has no form for yet.
"""

from ..oracle import nested, tlb, walker
from ..x86 import bits
from . import ops
from .judge import Judge
from .judge_cpu import LEVEL_BITS, Cpu, Removal
from .places import L1_PAGES, L1_TABLES, MEMORY_PAGES, PAGE

#: TLB_CONTROL -> event.
FLUSHES = {0: nested.VMRUN, 1: nested.VMRUN_FLUSH_ALL, 3: nested.VMRUN_FLUSH_ASID}


class NestedCpu(Cpu):
    """A CPU whose table is that of L1's nested tables while L2 runs, and of nothing while L1 runs."""

    def __init__(self, machine, memory):
        super().__init__(machine, memory)
        self.l1_cr4, self.l1_efer, self.in_l2, self.tag = machine.cr4, machine.efer, False, 0
        self.cpu[walker.EXECUTE_ONLY] = 1
        self.leave()

    def leave(self):
        """L1 runs: no nested tables."""
        self.in_l2 = False
        self.cpu[walker.FORMAT], self.cpu[walker.CR0] = walker.BY_REGISTERS, 0
        walker.prepare(self.cpu, LEVEL_BITS)

    def nested_event(self, line, what, tag, address=0):
        """An event of oracle.nested; there are no combined rows."""
        before = self.rows()
        nested.event(self.memory, self.cpu, self.table, [0, 0, 0], what, tag, address, self.out)
        taken = sorted(before - self.rows())
        name, source = nested.SOURCES[what]
        for row in taken:
            self.since.pop(row, None)
            self.removed[row] = f"line {line}: {name}"
        return Removal(name, source, [self.row_text(row) for row in taken if row[0] & tlb.KIND != tlb.HOLE])

    def outcome_text(self):
        """The outcomes as text: a refusal is an exit to L1."""
        word = "exit qualification" if self.machine.nested == "ept" else "error code"
        out = []
        for text, (kind, value) in zip(super().outcome_text(), self._pairs()):
            if kind != walker.DENIED:
                out.append(text)
            elif value & nested.MISCONFIGURATION:
                out.append("exit to L1: EPT misconfiguration")
            else:
                out.append(f"exit to L1: {word} {value:#x}")
        return out

    def _pairs(self):
        return [(self.outcomes[1 + 2 * i], self.outcomes[2 + 2 * i]) for i in range(self.outcomes[0])]


class NestedJudge(Judge):
    """A script's world with nested paging."""

    def __init__(self, machine, vcpus):
        if machine.l2_paging:
            raise ops.ScriptError(f"machine {machine.name}: L2 pages itself, and --judge speaks of one translation only; ask on "
                                  f"machine {machine.name.removesuffix('-l2')}")
        super().__init__(machine, vcpus)
        self.slots[0, 7] = L1_TABLES, L1_PAGES, MEMORY_PAGES
        self.place_slots()
        self.cpus = [NestedCpu(machine, self.memory) for _ in range(vcpus)]
        for gfn, entries in machine.tables().items():
            for i, entry in enumerate(entries):
                self.write(gfn * PAGE + i * machine.entry_bytes, entry, machine.entry_bytes)

    def access(self, step, cpu, row):
        """An access of L2 or a question about one; of L1."""
        if not cpu.in_l2:
            step.note = "L1, at its own place"
            if row[0] == ops.STORE and not step.question:
                self.write(row[2], row[3], row[4])
            return
        super().access(step, cpu, (*row[:5], row[5] | ops.USER, *row[6:]))

    def go_on(self, step, cpu, gva, kind, value, size, flags, found):
        """The access happens; a refusal is L2's exit."""
        super().go_on(step, cpu, gva, kind, value, size, flags, found)
        if step.removals:
            taken = step.removals.pop()
            name, source = nested.SOURCES[nested.EPT_VIOLATION if self.machine.nested == "ept" else nested.NESTED_PAGE_FAULT]
            step.removals.append(Removal(name, source, taken.rows))
            cpu.leave()

    def instruction(self, step, cpu, row):
        """What L1 or L2 does."""
        code, _, a, b, c = row[:5]
        line, here = step.line, step.removals.append
        if code == ops.VMRUN and not cpu.in_l2:
            cpu.in_l2, cpu.tag = True, b
            nested.npt_host(cpu.cpu, a, cpu.l1_cr4, cpu.l1_efer, b, LEVEL_BITS)
            here(cpu.nested_event(line, FLUSHES.get(c, nested.VMRUN), b))
            if cpu.cpu[walker.MODE] == walker.PAE:
                walker.load_pdptes(self.memory, cpu.cpu, a)
        elif code == ops.EPT_ENTRY and not cpu.in_l2 or code == ops.VMFUNC and cpu.in_l2:
            cpu.in_l2 = True
            nested.ept_host(cpu.cpu, a, LEVEL_BITS)
            step.note = "guest-physical mappings of this EP4TA may be used, and made from now on (SDM vol. 3 29.4.2)"
        elif code == ops.VM_EXIT and cpu.in_l2:
            cpu.leave()
            step.note = "guest-physical mappings stay; none is made while L1 runs"
        elif code == ops.INVEPT:
            here(cpu.nested_event(line, nested.INVEPT_ALL if a == 2 else nested.INVEPT_CONTEXT, nested.ep4ta(b)))
        elif code == ops.INVVPID:
            here(cpu.nested_event(line, nested.INVVPID_ADDRESS + a, b, c))
        elif code == ops.INVLPGA:
            here(cpu.nested_event(line, nested.INVLPGA, b, a))
        elif code == ops.MOV_CR4 and not cpu.in_l2:
            cpu.l1_cr4 = a
            step.note = "the next VMRUN reads L1's nested tables so"
        elif code == ops.WRMSR_EFER and not cpu.in_l2:
            cpu.l1_efer = a & ~bits.EFER_LMA | cpu.l1_efer & bits.EFER_LMA
            step.note = "the next VMRUN reads L1's nested tables so"
        elif code == ops.LEVELS and not cpu.in_l2:
            cpu.l1_cr4 &= ~(bits.CR4_PAE | bits.CR4_LA57)
            cpu.l1_cr4 |= (bits.CR4_PAE if a > 2 else bits.CR4_PSE) | (bits.CR4_LA57 if a == 5 else 0)
            cpu.l1_efer &= ~(bits.EFER_LME | bits.EFER_LMA)
            cpu.l1_efer |= bits.EFER_LME | bits.EFER_LMA if a > 2 else 0
            step.note = "the next VMRUN reads L1's nested tables so; what is held of L2 stays (EPT: no difference)"
        else:
            step.note = "nothing about L2's physical addresses"


def of(machine, vcpus):
    """The judge for a machine."""
    return (NestedJudge if machine.nested else Judge)(machine, vcpus)
