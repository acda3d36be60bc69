# SPDX-License-Identifier: GPL-2.0-or-later
"""Small machines for search: pages of 32 bytes, tables of four entries, guest page tables at fixed places.

    gfn   0      1      2     3     4    5    6        7      8 .. 11   12, 13   14, 15
          empty  root a  PDPT  PD    PT T PT U root b   PD b   data      slot 1   no memory (MMIO)
          |<------------------------ slot 0 ------------------------->|

    root a --> PDPT --> PD  [0] --> T     0x000  T itself: the guest edits T
    root b --^              [1] --> U     0x020  U: the guest edits U
               (W cleared)  [2] 2M        0x040  PD: the guest edits PD
                            [3] --> U     0x060  data 8
                             (read-only)  0x080  data 9, 0x0a0 data 10, 0x0c0 gfn 14 (MMIO), 0x0e0 not accessed yet
                                          0x100 .. 0x17f  the large page, 0x180 .. 0x1ff  U again, read-only

32-bit tables have eight 4-byte entries, so a page table spans two quadrants; its linear pages lie further apart.
Address space 1 (system management mode) sees the same memory.  No host page has two gfns: KVM tracks page tables by gfn, so a
write through another gfn of the same memory is none of its business.
"""

from dataclasses import dataclass

from ..state import JIT, interpreted
from ..state.store import Config
from ..vm.machine import Vm
from ..x86.bits import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR3_NOFLUSH,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    NX,
)
from . import area as areas
from . import ops
from .ops import row

P, W, U, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
FULL = P | W | U | A | D
ROOT_A, PDPT, PD, T, U_TABLE, ROOT_B, PD_B = 1, 2, 3, 4, 5, 6, 7
DATA, MMIO = 8, 14
PAGE = 32
MEMORY_PAGES, SPARE_PAGES = 16, 2
QUOTA = 22


def entry(gfn, flags=FULL):
    """A paging entry."""
    return ops.signed(gfn << 12 | flags)


@dataclass(frozen=True)
class Machine:
    """One small machine: paging mode, start registers, linear pages of interest, and where tables are mapped."""

    name: str
    what: str
    entry_bytes: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    pages: tuple            # linear page numbers of interest
    pcids: tuple = (0,)
    intel: bool = False

    @property
    def gvas(self):
        return [page * PAGE for page in self.pages]

    @property
    def per_table(self):
        return PAGE // self.entry_bytes

    @property
    def index_bits(self):
        """Bits of a linear address that index one table of the guest."""
        return 3 if self.entry_bytes == 4 else 2

    def tables(self):
        """gfn -> entries of the guest's tables at the start."""
        t = {
            PD: [entry(T), entry(U_TABLE), entry(DATA, FULL | PS), entry(U_TABLE, FULL & ~W)],
            T: [entry(T), entry(U_TABLE), entry(PD), entry(DATA)],
            U_TABLE: [entry(DATA + 1), entry(DATA + 2), entry(MMIO), entry(DATA + 3, P | W | U)],
        }
        if self.entry_bytes == 4:
            t[T] += [entry(DATA + 1), entry(12)]
            t[U_TABLE] += [entry(DATA), entry(12)]
            t[ROOT_A], t[ROOT_B] = t.pop(PD), [entry(T, FULL & ~W), entry(U_TABLE)]
        elif self.efer & EFER_LMA:
            t[PDPT] = [entry(PD), entry(PD_B)]
            t[ROOT_A], t[ROOT_B] = [entry(PDPT)], [entry(PDPT, FULL & ~W)]
            t[PD_B] = [entry(U_TABLE), entry(T)]
        else:
            t[ROOT_A], t[ROOT_B] = [entry(PD, P)], [entry(PD_B, P)]
            t[PD_B] = [entry(U_TABLE), entry(T)]
        return t

    def config(self, vcpus):
        return Config(page_shift=5, level_bits=2, prefetch_num=4, vcpus=vcpus, memory_pages=MEMORY_PAGES,
                      spare_pages=SPARE_PAGES, shadow_pages=QUOTA + 8 * vcpus + 6, slots=5, slot_pages=32, descs=40,
                      hash_buckets=4, events=1)


_LONG = CR4_PAE
_CR0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET
_EFER = EFER_LME | EFER_LMA | EFER_NX
_PAGES = tuple(range(16))
_PAGES32 = (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 24, 25, 28)

MACHINES = {m.name: m for m in (
    Machine("4-level", "64-bit paging", 8, _CR0, ROOT_A << 12, _LONG, _EFER, _PAGES),
    Machine("pcid", "64-bit paging with PCIDs", 8, _CR0, ROOT_A << 12, _LONG | CR4_PCIDE | CR4_PGE, _EFER, _PAGES,
            (0, 1, 2)),
    Machine("pae", "PAE paging", 8, _CR0, ROOT_A << 12, CR4_PAE, EFER_NX, _PAGES),
    Machine("32-bit", "32-bit paging with 4M pages", 4, _CR0, ROOT_A << 12, CR4_PSE, 0, _PAGES32),
    Machine("intel", "64-bit paging, PCIDs, an Intel CPU's rules", 8, _CR0, ROOT_A << 12, _LONG | CR4_PCIDE, _EFER,
            _PAGES, (0, 1), True),
)}


def build(machine, rules, vcpus):
    """A `Vm` in the machine's initial state (no area)."""
    vm = Vm(0, rules=rules, config=machine.config(vcpus), record=0)
    for space in range(2):
        vm.add_memslot(space * 2, 0, 12 * PAGE, 0, as_id=space)
    vm.add_memslot(1, 12 * PAGE, 2 * PAGE, 12 * PAGE)
    for gfn, entries in machine.tables().items():
        size = machine.entry_bytes
        data = b"".join((e & (1 << 8 * size) - 1).to_bytes(size, "little") for e in entries)
        vm.write_gpa(gfn * PAGE, data)
    for cpu in vm.vcpus:
        cpu.record.is_amd = 0 if machine.intel else 1
        cpu.record.rip = 1
        # PSE-36 bits would overlap the frame numbers of such small tables
        cpu.record.has_pse36 = 0
        cpu.set_cpuid(pcid=True)
        cpu.set_sregs(cr0=machine.cr0, cr3=machine.cr3, cr4=machine.cr4, efer=machine.efer, cs_l=0)
    vm.set_nr_mmu_pages(QUOTA)
    return vm


# ---- the alphabet

def _entry_values(m, at_pd):
    """Values that a guest would write into an entry, the most telling first."""
    if at_pd:
        values = [entry(T), entry(U_TABLE), 0, entry(U_TABLE, FULL & ~W), entry(DATA, FULL | PS), entry(T, FULL & ~U),
                  entry(DATA, FULL), entry(PD)]
        flagged = [entry(DATA, FULL & ~D | PS), entry(T, FULL & ~A), entry(DATA, FULL & ~W | PS), entry(12, FULL | PS)]
    else:
        values = [entry(DATA + 1), entry(DATA), 0, entry(DATA, FULL & ~W), entry(U_TABLE), entry(MMIO), entry(T),
                  entry(PD)]
        flagged = [entry(DATA, FULL & ~U), entry(DATA, P | W | U | A), entry(DATA, P | W | U), entry(12), entry(ROOT_A),
                   entry(DATA + 1, FULL | G), entry(13, FULL & ~W), entry(U_TABLE, FULL & ~W)]
    if m.entry_bytes == 8:
        flagged += [entry(DATA + 1, FULL | NX), entry(DATA, FULL | 1 << 45)]
    return values, flagged


def alphabet(machine, vcpus, small=False):
    """Kind -> list of rows.  small: the short list for exhaustive search."""
    m, size = machine, machine.entry_bytes
    out = {op.kind: [] for op in ops.OPS}
    gvas = m.gvas
    root_b = (ROOT_B << 12) | m.pcids[-1]
    for v in range(vcpus):
        for gva in gvas:
            telling = gva // PAGE in m.pages[:7]
            for flags in (0,) if small else (0, ops.USER, ops.BY_TLB, ops.AC, ops.USER | ops.BY_TLB):
                if not small or telling:
                    out["access"].append(row(ops.LOAD, v, gva, 0, 0, flags))
                if not small:
                    out["access"].append(row(ops.FETCH, v, gva, 0, 0, flags & ~ops.AC))
        tables = [(m.pages[0], False), (m.pages[1], False), (m.pages[2], m.entry_bytes == 8)]
        for page, is_pd in tables:
            values, flagged = _entry_values(m, is_pd)
            for i in range(2 if small else m.per_table):
                for value in values[:4] if small else values + flagged:
                    for flags in (0,) if small else (0, 0, ops.BY_TLB):
                        out["store"].append(row(ops.STORE, v, page * PAGE + i * size, value, size, flags))
        for page in m.pages:
            if not small or page in m.pages[3:5]:
                for flags in (0,) if small else (0, ops.USER, ops.BY_TLB):
                    out["store"].append(row(ops.STORE, v, page * PAGE, entry(DATA + 1), size, flags))
        if not small:
            out["store"] += [row(ops.STORE, v, PAGE + 2, 0, 2, 0), row(ops.STORE, v, 2 * PAGE, 1, 1, 0)]
        for root in (ROOT_A, ROOT_B) if small else (ROOT_A, ROOT_A, ROOT_B, ROOT_B, MMIO):
            for pcid in m.pcids:
                for keep in (0, CR3_NOFLUSH) if len(m.pcids) > 1 else (0,):
                    out["cr3"].append(row(ops.MOV_CR3, v, root << 12 | pcid | keep))
        for gva in gvas[:8 if small else None]:
            out["flush"].append(row(ops.INVLPG, v, gva))
        for pcid in m.pcids:
            for kind in range(4):
                out["flush"].append(row(ops.INVPCID, v, kind, pcid, gvas[3 + pcid]))
        changes = [(0, 0), (CR0_WP, 0)] if small else [(0, 0), (CR0_WP, 0), (CR0_PG, 0)]
        for clear, _ in changes:
            out["registers"].append(row(ops.MOV_CR0, v, m.cr0 & ~clear))
        for change in (0, CR4_PGE, CR4_SMEP) if small else (0, CR4_PGE, CR4_SMEP, CR4_SMAP, CR4_SMEP | CR4_SMAP, CR4_PSE,
                                                             CR4_PCIDE):
            out["registers"].append(row(ops.MOV_CR4, v, m.cr4 ^ change))
        if not small:
            out["registers"] += [row(ops.WRMSR_EFER, v, (m.efer ^ EFER_NX) & ~EFER_LMA),
                                 row(ops.WRMSR_EFER, v, m.efer & ~EFER_LMA)]
            out["modes"] += [row(ops.SMM_ENTER, v), row(ops.SMM_LEAVE, v), row(ops.INIT, v),
                             row(ops.SET_SREGS, v, m.cr0, m.cr3, m.cr4, m.efer),
                             row(ops.SET_SREGS, v, m.cr0, root_b if m.cr4 & CR4_PCIDE else ROOT_B << 12, m.cr4, m.efer)]
        if vcpus > 1:
            out["enter"].append(row(ops.ENTER, v))
    for gfn, at_pd in ((T, False), (U_TABLE, False), (PD if size == 8 else ROOT_A, True)):
        values, flagged = _entry_values(m, at_pd)
        for i in range(1 if small else m.per_table):
            for value in values[:2] if small else values + flagged:
                out["host write"].append(row(ops.HOST_WRITE, 0, gfn * PAGE + i * size, value, size))
    out["slots"] = [row(ops.SLOT_DELETE, 0, 1, 0), row(ops.SLOT_CREATE, 0, 1, 12, 2, 12, 0)]
    if not small:
        out["slots"] += [row(ops.SLOT_MOVE, 0, 1, 14, 0), row(ops.SLOT_MOVE, 0, 1, 12, 0),
                         row(ops.SLOT_CREATE, 0, 3, 14, 2, 14, 0), row(ops.SLOT_DELETE, 0, 3, 0),
                         row(ops.SLOT_CREATE, 0, 1, 12, 2, 12, 4), row(ops.SLOT_CREATE, 0, 1, 12, 2, 12, 2)]
    out["dirty"] = [row(ops.DIRTY_LOG, 0, 0, on, 0) for on in (1, 0)] + [row(ops.DIRTY_READ, 0, 0, 0)]
    hvas = (DATA,) if small else (DATA, DATA + 1, U_TABLE, 12)
    out["unmap"] = [row(ops.UNMAP, 0, hva, 1) for hva in hvas]
    out["reclaim"] = [row(ops.SET_NR_MMU_PAGES, 0, n) for n in ((8,) if small else (8, 12, QUOTA))]
    return out


# ---- states

class Arena:
    """Copies of one machine with its area, in one buffer: `handle(i)` is what core functions take."""

    def __init__(self, machine, rules, vcpus, copies=4, aside=0):
        import ctypes
        import mmap

        from . import search
        self.machine, self.rules, self.vcpus, self.aside = machine, rules, vcpus, aside
        vm = build(machine, rules, vcpus)
        offset, length = vm.store.tables["events"]
        self.area = -(-(offset + length) // 64) * 64
        self.stride = self.area + 8 * areas.words(vcpus)
        self.stride = -(-self.stride // 64) * 64
        self.words = self.stride // 8
        self.memory = mmap.mmap(-1, self.stride * copies)
        self._view = memoryview(self.memory)
        source = memoryview(vm.store.memory)
        self._view[:self.area] = source[:self.area]
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self._headers = [interpreted.header(self._view[i * self.stride:(i + 1) * self.stride]) for i in range(copies)]
        table = self._view[self.area:self.stride].cast("q")
        table[areas.ASIDE] = aside
        table[areas.N_GVAS] = len(machine.pages)
        table[areas.LIMIT] = (max(machine.pages) + 1) * PAGE
        for i, gva in enumerate(machine.gvas):
            table[areas.GVAS + i] = gva
        search.prepare(self.handle(0), self.area)
        for i in range(1, copies):
            self.copy(i, 0)

    def handle(self, i):
        """Copy i as core functions take it."""
        return self.address + i * self.stride if JIT else self._headers[i]

    def view(self, i):
        """Copy i as Python records."""
        return self._headers[i]

    def copy(self, to, source):
        s = self.stride
        self._view[to * s:(to + 1) * s] = self._view[source * s:(source + 1) * s]

    def head(self, i):
        """The area's words of copy i."""
        return self._view[i * self.stride + self.area:(i + 1) * self.stride].cast("q")
