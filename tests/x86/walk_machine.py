# SPDX-License-Identifier: GPL-2.0-or-later
"""One page-table path in guest memory, seen by the oracle walker and by KVM's walker.

    gfn 0x13 0x14 0x15   tables of levels 3 (PAE: the four PDPTEs), 4, 5; in 32-bit and PAE paging 0x12 is level 2
    gfn 0x20 .. 0x23     pages that 4K leaves map
    gfn 0x400            table of level 1: its address also suits a 2M or 4M page
    gfn 0x40000          table of level 2 in 64-bit paging: its address also suits a 1G page (memslot 1, RAM frame 0x30)

One entry in each table lies on the path of GVA.  Memslot 0 has RAM frames with the numbers of its gfns.

`compare` is the compiled loop: every combination of chosen bits in two entries of the path, one mode and one setting of
the control bits, some kinds of access; it stops at the first difference.
"""

from dataclasses import dataclass

from shadowmmu import state
from shadowmmu.mmu import walk
from shadowmmu.oracle import walker as ow
from shadowmmu.state import core
from shadowmmu.vm import calls
from shadowmmu.vm.machine import Vm, signed
from shadowmmu.x86 import bits as b

PAGES = 0x440
DATA_GFN = 0x20
LEVEL1_GFN = 0x400
HIGH_GFN, HIGH_FRAME, HIGH_PAGES = 0x40000, 0x30, 4

#: A different index at every level; PAE index 2 at level 3.
GVA = {"bits32": 6 << 22 | 5 << 12, "pae": 2 << 30 | 6 << 21 | 5 << 12,
       "level4": 8 << 39 | 7 << 30 | 6 << 21 | 5 << 12, "level5": 9 << 48 | 8 << 39 | 7 << 30 | 6 << 21 | 5 << 12}
ROOT = {"bits32": 2, "pae": 3, "level4": 4, "level5": 5}
PERMISSIVE = b.PT_PRESENT | b.PT_WRITABLE | b.PT_USER

#: Kinds of access: (KVM's access bits, oracle's kind, CPL).
ACCESSES = {
    "user read": (b.PFERR_USER, ow.READ, 3), "user write": (b.PFERR_USER | b.PFERR_WRITE, ow.WRITE_ACCESS, 3),
    "user fetch": (b.PFERR_USER | b.PFERR_FETCH, ow.FETCH, 3),
    "read": (0, ow.READ, 0), "write": (b.PFERR_WRITE, ow.WRITE_ACCESS, 0), "fetch": (b.PFERR_FETCH, ow.FETCH, 0),
    "implicit read": (b.PFERR_IMPLICIT_ACCESS, ow.IMPLICIT | ow.READ, 3),
    "implicit write": (b.PFERR_IMPLICIT_ACCESS | b.PFERR_WRITE, ow.IMPLICIT | ow.WRITE_ACCESS, 3),
}

#: What differed (REPORT[0]); 0: nothing.
VERDICTS = ("", "one faults, the other does not", "error codes", "translations", "upper entry afterwards",
            "lower entry afterwards", "rights of the path")
VERDICT, UPPER, LOWER, THEIRS, OURS, CASES = range(6)


@core
def put_entry(vm, at, size, value):
    """Write the entry at byte `at` of the RAM."""
    if size == 8:
        state.words(vm, vm.ram)[at >> 3] = value
    else:
        state.words32(vm, vm.ram)[at >> 2] = value


@core
def get_entry(vm, at, size):
    if size == 8:
        return state.words(vm, vm.ram)[at >> 3]
    return state.words32(vm, vm.ram)[at >> 2] + 0


@core
def scatter(number, positions, count):
    """The bits of `number` at these positions."""
    value = 0
    for i in range(count):
        if number >> i & 1:
            value |= -(1 << 63) if positions[i] == 63 else 1 << positions[i]
    return value


@core
def memory_of(vm, frames):
    """The state's RAM as the oracle's memory."""
    return ow.Memory(state.words(vm, vm.ram), frames, len(frames), vm.page_shift, vm.level_bits)


@core
def path_rights(out, kind):
    """ACC_* bits as KVM's walker reports them: X W U; no W before D is set."""
    rights = (0 if out[ow.NO_EXECUTE] else 1) | (2 if out[ow.WRITE] else 0) | (4 if out[ow.USER] else 0)
    if not kind & ow.WRITE_ACCESS and not out[ow.DIRTY]:
        rights &= ~2
    return rights


@core
def same(vm, vcpu, memory, cpu, out, report, gva, access, kind, size, upper_at, lower_at, upper, lower):
    """One case: write the entries, let both walk, compare.  False: `report` says what differed."""
    put_entry(vm, upper_at, size, upper)
    put_entry(vm, lower_at, size, lower)
    status = ow.access(memory, cpu, gva, kind, out)
    upper_after = get_entry(vm, upper_at, size)
    lower_after = get_entry(vm, lower_at, size)
    put_entry(vm, upper_at, size, upper)
    put_entry(vm, lower_at, size, lower)
    gpa = walk.gva_to_gpa(vm, vcpu, gva, access)
    w = walk.walker_of(vm, vcpu, walk.OTHER_WALKER)
    verdict = 0
    ours, theirs = 0, 0
    if (status == ow.TRANSLATED) != (gpa >= 0):
        verdict = 1
        ours = out[ow.ERROR]
        theirs = w.fault_error
    elif status != ow.TRANSLATED:
        if w.fault_error != out[ow.ERROR]:
            verdict = 2
            ours = out[ow.ERROR]
            theirs = w.fault_error
    else:
        if gpa != out[ow.GFN] << vm.page_shift | gva & ((1 << vm.page_shift) - 1):
            verdict = 3
            ours = out[ow.GFN] << vm.page_shift
            theirs = gpa
        elif w.pte_access != path_rights(out, kind):
            verdict = 6
            ours = path_rights(out, kind)
            theirs = w.pte_access + 0
    if not verdict and get_entry(vm, upper_at, size) != upper_after:
        verdict = 4
        ours = upper_after
        theirs = get_entry(vm, upper_at, size)
    if not verdict and get_entry(vm, lower_at, size) != lower_after:
        verdict = 5
        ours = lower_after
        theirs = get_entry(vm, lower_at, size)
    if verdict:
        report[0] = verdict
        report[1] = upper
        report[2] = lower
        report[3] = theirs
        report[4] = ours
        return False
    return True


@core
def compare(handle, frames, cpu, out, report, gva, access, kind, size, upper_at, lower_at, upper_base, lower_base,
            upper_bits, lower_bits):
    """Every value of the chosen bits in both entries; stops at the first difference."""
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    vcpu.cpl = cpu[ow.CPL]
    vcpu.ac = cpu[ow.AC]
    vcpu.pkru = cpu[ow.PKRU]
    memory = memory_of(vm, frames)
    uppers = len(upper_bits)
    lowers = len(lower_bits)
    for u in range(1 << uppers):
        upper = upper_base | scatter(u, upper_bits, uppers)
        for k in range(1 << lowers):
            lower = lower_base | scatter(k, lower_bits, lowers)
            report[5] += 1
            if not same(vm, vcpu, memory, cpu, out, report, gva, access, kind, size, upper_at, lower_at, upper,
                        lower):
                return


@core
def oracle_access(handle, frames, cpu, gva, kind, out):
    """The oracle's access on the state's RAM."""
    vm = state.attach(handle)
    return ow.access(memory_of(vm, frames), cpu, gva, kind, out)


@core
def oracle_load_pdptes(handle, frames, cpu, cr3):
    """The oracle's PDPTE load from the state's RAM."""
    vm = state.attach(handle)
    return ow.load_pdptes(memory_of(vm, frames), cpu, cr3)


def table(values):
    """A table of 64-bit words as core functions take it in this mode."""
    values = [signed(v) for v in values]
    if not state.JIT:
        return values
    import numpy
    return numpy.array(values, dtype=numpy.int64)


@dataclass(frozen=True)
class Controls:
    """The control bits that judge an access."""

    wp: bool = True
    nxe: bool = True
    smep: bool = False
    smap: bool = False
    ac: bool = False
    pke: bool = False
    pse: bool = True
    pkru: int = 0


class WalkMachine:
    """A VM with one path of tables for `mode` (key of GVA), and the oracle's tables beside it."""

    def __init__(self, mode, *, maxphyaddr=40, amd=True, gbpages=True, pse36=False):
        self.mode, self.gva, self.root_level = mode, GVA[mode], ROOT[mode]
        self.size = 4 if mode == "bits32" else 8
        self.vm = Vm(memory=PAGES * 4096, record=0)
        self.vcpu, self.ram = self.vm.vcpus[0], self.vm.store.ram()
        record = self.vcpu.record
        record.is_amd, record.has_pse36 = int(amd), int(pse36)
        self.vcpu.set_cpuid(maxphyaddr=maxphyaddr, gbpages=gbpages, pcid=True)
        self.vm.add_memslot(1, HIGH_GFN << 12, HIGH_PAGES << 12, HIGH_FRAME << 12)
        frames = [ow.ram_frame(gfn, 0) for gfn in range(PAGES)] + [ow.NO_FRAME] * (HIGH_GFN - PAGES)
        self.frames = table(frames + [ow.ram_frame(HIGH_FRAME + i, 0) for i in range(HIGH_PAGES)])
        self.cpu = table([0] * ow.CPU_WORDS)
        self.out = table([0] * ow.OUT_WORDS)
        self.report = table([0] * 6)
        for field, value in ((ow.MAXPHYADDR, maxphyaddr), (ow.AMD, amd), (ow.GBPAGES, gbpages), (ow.PSE36, pse36)):
            self.cpu[field] = int(value)
        self.reset_path()

    # -- tables

    def index(self, level):
        width = 10 if self.size == 4 else 9
        return self.gva >> 12 + width * (level - 1) & (3 if self.mode == "pae" and level == 3 else (1 << width) - 1)

    def table_gfn(self, level):
        """Where the table of `level` is."""
        if level == 1:
            return LEVEL1_GFN
        return HIGH_GFN if level == 2 and self.root_level > 3 else 0x10 + level

    def entry_at(self, level):
        """Byte of the RAM at which the path's entry of `level` is."""
        gfn = self.table_gfn(level)
        frame = gfn - HIGH_GFN + HIGH_FRAME if gfn >= HIGH_GFN else gfn
        return (frame << 12) + self.index(level) * self.size

    def entry_gpa(self, level):
        """Guest-physical address of the path's entry of `level`."""
        return (self.table_gfn(level) << 12) + self.index(level) * self.size

    def target(self, level):
        """Frame bits of the path's entry at `level`."""
        return (self.table_gfn(level - 1) if level > 1 else DATA_GFN) << 12

    def set(self, level, value):
        at = self.entry_at(level)
        self.ram[at:at + self.size] = (value & (1 << 8 * self.size) - 1).to_bytes(self.size, "little")

    def get(self, level):
        at = self.entry_at(level)
        return int.from_bytes(self.ram[at:at + self.size], "little")

    def reset_path(self):
        for level in range(1, self.root_level + 1):
            rights = b.PT_PRESENT if self.mode == "pae" and level == 3 else PERMISSIVE
            self.set(level, self.target(level) | rights)

    # -- registers

    def control(self, c):
        """Give both the registers of `Controls` c."""
        cr0 = b.CR0_PE | b.CR0_PG | b.CR0_ET | (b.CR0_WP if c.wp else 0)
        cr4 = (b.CR4_PSE if c.pse else 0) | (b.CR4_SMEP if c.smep else 0) | (b.CR4_SMAP if c.smap else 0)
        cr4 |= b.CR4_PKE if c.pke else 0
        efer = b.EFER_NX if c.nxe else 0
        if self.mode != "bits32":
            cr4 |= b.CR4_PAE
        if self.mode in ("level4", "level5"):
            efer |= b.EFER_LME | b.EFER_LMA
        if self.mode == "level5":
            cr4 |= b.CR4_LA57
        cr3 = self.table_gfn(self.root_level) << 12
        self.vcpu.set_sregs(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)
        self.vcpu.set_privilege(0, c.ac)
        self.vcpu.record.pkru = c.pkru
        for field, value in ((ow.CR0, cr0), (ow.CR3, cr3), (ow.CR4, cr4), (ow.EFER, efer), (ow.AC, int(c.ac)),
                             (ow.PKRU, c.pkru)):
            self.cpu[field] = value
        ow.prepare(self.cpu, 9)
        if self.mode == "pae":
            assert oracle_load_pdptes(self.vm.handle, self.frames, self.cpu, cr3)

    # -- walks

    def oracle(self, name):
        """One access by the oracle: the `out` table."""
        _, kind, self.cpu[ow.CPL] = ACCESSES[name]
        oracle_access(self.vm.handle, self.frames, self.cpu, signed(self.gva), kind, self.out)
        return [int(v) for v in self.out]

    def kvm(self, name):
        """One walk by KVM's walker: (gpa or None, error code)."""
        access, _, cpl = ACCESSES[name]
        self.vcpu.record.cpl = cpl
        gpa = int(calls.gva_to_gpa(self.vm.handle, 0, signed(self.gva), access))
        return (None, self.vcpu.other_walker.fault_error) if gpa < 0 else (gpa, 0)

    def compare(self, name, levels, bases, positions):
        """All combinations of `positions` (two lists of bits) in the entries of two levels; (difference or None).

        `bases`: the fixed bits of both entries.  The number of cases adds up in `self.report[CASES]`.
        """
        access, kind, self.cpu[ow.CPL] = ACCESSES[name]
        self.report[VERDICT] = 0
        compare(self.vm.handle, self.frames, self.cpu, self.out, self.report, self.gva, access, kind, self.size,
                self.entry_at(levels[0]), self.entry_at(levels[1]), signed(bases[0]), signed(bases[1]),
                table(positions[0]), table(positions[1]))
        if not self.report[VERDICT]:
            return None
        r = [int(v) for v in self.report]
        return (f"{VERDICTS[r[VERDICT]]}: upper {r[UPPER] & (1 << 64) - 1:#x} lower {r[LOWER] & (1 << 64) - 1:#x}: "
                f"mmu {r[THEIRS]:#x}, oracle {r[OURS]:#x}")
