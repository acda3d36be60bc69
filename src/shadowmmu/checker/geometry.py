# SPDX-License-Identifier: GPL-2.0-or-later
"""Small machines for search: pages of 32 bytes, tables of four entries, guest page tables at fixed places.

    gfn   0        1      2     3     4    5    6        7      8 .. 11   12, 13   14, 15
          (PML4)   root a  PDPT  PD    PT T PT U root b   PD b   data      slot 1   no memory (MMIO)
          |<------------------------- slot 0 ------------------------->|

    root a --> PDPT --> PD  [0] --> T     0x000  T itself: the guest edits T
    root b --^              [1] --> U     0x020  U: the guest edits U
               (W cleared)  [2] 2M        0x040  PD: the guest edits PD
                            [3] --> U     0x060  data 8, or the PDPT, or root a: the guest edits that
                             (read-only)  0x080  data 9, 0x0a0 data 10, 0x0c0 gfn 14 (MMIO), 0x0e0 not accessed yet
                                          0x100 .. 0x17f  the large page, 0x180 .. 0x1ff  U again, read-only

32-bit tables have eight 4-byte entries, so a page table spans two quadrants; its linear pages lie further apart.  `wide` has
four directories with different rights over T and U: 14 shadow pages of two guest tables, more than one batch of
unsync pages (KVM_PAGE_ARRAY_NR), and more than 14 sptes of one gfn.

Address space 1 (system management mode) sees the same memory, except that gfn 11 is another page there (SMRAM) and slot 1 does
not exist.  No page that may become a page table has two gfns: KVM tracks page tables by gfn, so a write through another gfn
of the same memory is none of its business.
"""

from dataclasses import dataclass

from .. import rules as rule_sets
from ..state import JIT, interpreted
from ..state.store import Config
from ..vm.machine import Vm
from ..x86.bits import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    NX,
)
from . import area as areas
from . import known, nested_tables, places
from .places import (
    DATA,
    FAR_MMIO,
    FULL,
    L1_PAGES,
    L1_TABLES,
    L2_TABLE,
    MEMORY_PAGES,
    MMIO,
    PAGE,
    PD,
    PD_B,
    PDPT,
    PML4,
    PS,
    ROOT_A,
    ROOT_B,
    SMRAM,
    SPARE_PAGES,
    U_TABLE,
    G,
    P,
    T,
    U,
    W,
    entry,
)

#: How often a kind of operation is drawn.
WEIGHTS = {"access": 34, "store": 24, "upper": 3, "emulated": 4, "cr3": 8, "flush": 8, "registers": 4, "modes": 2,
           "host registers": 1, "enter": 3, "nested": 0, "begin": 5, "finish": 6, "host write": 2, "slots": 2,
           "dirty": 2, "memory": 2, "reclaim": 1}

QUOTA = 22


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
    host_level: int = 1     # size of the host's own mappings: 3 where everything lies in one large page
    slot_pages: int = 12    # of slot 0
    slot1_pages: int = 2    # of slot 1, behind it; none if slot 0 has everything
    edits: int = DATA       # what the guest maps at its fourth page
    quota: int = QUOTA
    #: The smallest one that a guest can run with; direct pages of the legacy MMU count, too.
    least_quota: int = 8
    #: SMM has slot 1, too.
    smm_has_slot1: bool = False
    #: Rules that the machine needs otherwise than the kernel's default: module parameters.
    parameters: tuple = ()
    prefetch: int = 4       # entries that one fault fills; 2 leaves half a table to be filled by later faults
    #: One walk in so many is about no pages in particular (choice).
    wide_in: int = 4
    #: Kind of operation -> how often it is drawn, where the machine needs others than WEIGHTS.
    more: tuple = ()
    #: Nested paging: `npt` (L1 is an SVM hypervisor, its nested tables have the format of its own paging mode) or `ept`; then the
    #: host has nested paging, too, of this many levels, and `pages` are L2's physical pages.
    nested: str = ""
    mmu: str = "tdp"
    l2_paging: bool = False
    #: A plain guest on a host with two-dimensional paging (unshadowed).
    unshadowed: bool = False
    #: A gfn without memory that the guest maps at the start.
    mmio: int = MMIO
    tdp_level: int = 4
    nested_levels: int = 4

    def parameter(self, name):
        """Value of a module parameter that the machine needs otherwise; 0 if it leaves it."""
        return dict(self.parameters).get(name, 0)

    @property
    def weights(self):
        """How often a kind of operation is drawn."""
        return WEIGHTS | dict(self.more)

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
        """gfn -> entries of the guest's tables at the start (with nested paging: of the nested tables, and L1's own)."""
        if not self.nested:
            return self.guest_tables()
        t = nested_tables.ept_tables(self.edits, self.nested_levels) if self.nested == "ept" else self.guest_tables()
        if self.l2_paging:
            t |= nested_tables.l2_tables()
        if self.is_nested_pae:
            t = nested_tables.pae_roots(t)
        return t | nested_tables.l1_tables(self.efer & EFER_LMA != 0, self.entry_bytes)

    @property
    def is_nested_pae(self):
        """L1's nested tables begin with four PDPTEs."""
        return self.nested == "npt" and self.entry_bytes == 8 and not self.efer & EFER_LMA

    def guest_tables(self):
        """gfn -> entries in the format of the machine's registers."""
        t = {
            PD: [entry(T), entry(U_TABLE), entry(DATA, FULL | PS), entry(U_TABLE, FULL & ~W)],
            T: [entry(T), entry(U_TABLE), entry(PD), entry(self.edits)],
            U_TABLE: [entry(DATA + 1), entry(DATA + 2), entry(self.mmio), entry(DATA + 3, P | W | U)],
            PD_B: [entry(U_TABLE), entry(T)],
        }
        if self.cr4 & CR4_PGE:
            # the kernel's part of an address space
            t[U_TABLE][:2] = [entry(DATA + 1, FULL | G), entry(DATA + 2, FULL | G)]
        if self.entry_bytes == 4:
            t[T][2] = entry(ROOT_A)
            t[T] += [entry(DATA + 1), entry(12)]
            t[U_TABLE] += [entry(DATA + 1, FULL & ~W), entry(12)]
            t[ROOT_A], t[ROOT_B] = t.pop(PD), [entry(T, FULL & ~W), entry(U_TABLE)]
            del t[PD_B]
        elif not self.efer & EFER_LMA:
            t[ROOT_A], t[ROOT_B] = [entry(PD, P)], [entry(PD_B, P)]
        else:
            t[PDPT] = [entry(PD), entry(PD_B)] + ([entry(0, FULL | PS)] if self.host_level == 3 else [])
            t[ROOT_A], t[ROOT_B] = [entry(PDPT)], [entry(PDPT, FULL & ~W)]
            if self.cr4 & CR4_LA57:
                t[PML4], t[ROOT_A], t[ROOT_B] = t[ROOT_A], [entry(PML4)], [entry(PML4, FULL & ~W)]
        if self.name == "wide":
            t[PD] = [entry(T), entry(U_TABLE), entry(U_TABLE, FULL & ~W), entry(U_TABLE, FULL & ~U)]
            t[PD_B] = [entry(U_TABLE, FULL | NX), entry(T, FULL & ~W), entry(U_TABLE, FULL & ~W & ~U), entry(T, FULL & ~U)]
            t[PDPT] = [entry(PD), entry(PD_B), entry(PD, FULL | NX), entry(PD_B, FULL & ~U)]
        return t

    def config(self, vcpus):
        return Config(page_shift=5, level_bits=2, prefetch_num=self.prefetch, vcpus=vcpus,
                      memory_pages=MEMORY_PAGES + (L1_PAGES if self.nested else 0), spare_pages=SPARE_PAGES,
                      shadow_pages=self.quota + 8 * vcpus + 6, slots=8, slot_pages=44,
                      descs=3 * self.quota, hash_buckets=4, events=1, host_level=self.host_level)


_LONG = CR4_PAE
_CR0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET
_EFER = EFER_LME | EFER_LMA | EFER_NX
_PAGES = tuple(range(16))
#: In `wide`: the tables, and what each of the sixteen leaf tables maps at its start or end.
_WIDE = (0, 1, 2, 3, 4, 8, 12, 16, 19, 20, 23, 24, 28, 31, 35, 36, 40, 44, 48, 51, 52, 56, 60)
#: A third of them beyond what two levels translate, by the second directory.
_BY_BOTH = tuple(range(24))
_PAGES32 = (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 24, 25, 28)

_NESTED_PAGING = (("nested", 14), ("emulated", 16), ("modes", 0), ("cr3", 0), ("host registers", 0))

MACHINES = {m.name: m for m in (
    Machine("4-level", "64-bit paging", 8, _CR0, ROOT_A << 12, _LONG, _EFER, _PAGES),
    Machine("pcid", "64-bit paging with PCIDs", 8, _CR0, ROOT_A << 12, _LONG | CR4_PCIDE | CR4_PGE, _EFER, _PAGES,
            (0, 1, 2), more=(("cr3", 14), ("registers", 8))),
    Machine("pae", "PAE paging", 8, _CR0, ROOT_A << 12, CR4_PAE, EFER_NX, _PAGES, edits=ROOT_A),
    Machine("32-bit", "32-bit paging with 4M pages", 4, _CR0, ROOT_A << 12, CR4_PSE, 0, _PAGES32),
    Machine("intel", "64-bit paging, PCIDs, an Intel CPU's rules", 8, _CR0, ROOT_A << 12, _LONG | CR4_PCIDE, _EFER,
            _PAGES, (0, 1), True, edits=PDPT),
    Machine("huge", "64-bit paging, large pages in guest and host", 8, _CR0, ROOT_A << 12, _LONG, _EFER,
            (*_PAGES, 35, 37, 40, 41), host_level=3, slot_pages=16, prefetch=2),
    Machine("huge-nx", "the same with the workaround for the iTLB multihit erratum", 8, _CR0, ROOT_A << 12, _LONG, _EFER,
            (*_PAGES, 35, 37, 40, 44), host_level=3, slot1_pages=4, smm_has_slot1=True,
            parameters=(("nx_huge_pages", 1),), more=(("modes", 8), ("slots", 5), ("dirty", 6), ("memory", 6))),
    Machine("nonpaging", "a guest without paging on a host with large pages", 4, CR0_PE | CR0_ET, ROOT_A << 12, CR4_PSE, 0,
            _PAGES, host_level=2),
    Machine("5-level", "five-level paging", 8, _CR0, ROOT_A << 12, _LONG | CR4_LA57, _EFER, _PAGES, edits=PDPT, prefetch=2),
    Machine("nested", "64-bit L1 and L2 on shadow paging, with PCIDs and without VPIDs", 8, _CR0, ROOT_A << 12,
            _LONG | CR4_PCIDE | CR4_PGE, _EFER, _PAGES, (0, 1), True, more=(("nested", 12), ("cr3", 10), ("slots", 0))),
    Machine("nested-pae", "PAE L1 and L2 on shadow paging", 8, _CR0, ROOT_A << 12, CR4_PAE, EFER_NX, _PAGES, (0,), True,
            edits=ROOT_A, more=(("nested", 12), ("slots", 0))),
    Machine("npt", "nested paging: a 64-bit SVM hypervisor on the TDP MMU", 8, _CR0, L1_TABLES << 12, _LONG, _EFER, _PAGES,
            edits=PDPT, more=_NESTED_PAGING, nested="npt"),
    Machine("npt-legacy", "the same on the legacy direct MMU, whose pages are shadow pages, too", 8, _CR0, L1_TABLES << 12, _LONG,
            _EFER, _PAGES, edits=ROOT_A, mmu="tdp-legacy", quota=36, least_quota=24, more=_NESTED_PAGING, nested="npt"),
    Machine("npt-pae", "nested paging: a PAE SVM hypervisor", 8, _CR0, L1_TABLES << 12, CR4_PAE, EFER_NX, _PAGES,
            more=(*_NESTED_PAGING, ("upper", 0)), nested="npt"),
    Machine("npt-32", "nested paging: a 32-bit SVM hypervisor", 4, _CR0, L1_TABLES << 12, CR4_PSE, 0, (*_PAGES, 16, 17, 24, 28),
            more=_NESTED_PAGING, nested="npt"),
    Machine("npt-5", "nested paging: a 64-bit SVM hypervisor on a host with five levels", 8, _CR0, L1_TABLES << 12, _LONG, _EFER,
            _PAGES, edits=PDPT, more=_NESTED_PAGING, nested="npt", tdp_level=5),
    Machine("ept", "nested paging: a VMX hypervisor with EPT", 8, _CR0, L1_TABLES << 12, _LONG, _EFER, _BY_BOTH, (0,), True,
            edits=PDPT, more=_NESTED_PAGING, nested="ept"),
    Machine("npt-pae-5", "nested paging: a PAE SVM hypervisor on a host with five levels", 8, _CR0, L1_TABLES << 12, CR4_PAE,
            EFER_NX, _PAGES, more=(*_NESTED_PAGING, ("upper", 0)), nested="npt", tdp_level=5),
    Machine("ept-5", "nested paging: a VMX hypervisor with EPT of four and five levels", 8, _CR0, L1_TABLES << 12, _LONG, _EFER,
            _PAGES, (0,), True, edits=PDPT, more=_NESTED_PAGING, nested="ept", tdp_level=5, nested_levels=5),
    Machine("npt-l2", "nested paging: a 64-bit SVM hypervisor, whose guest pages, too", 8, _CR0, L1_TABLES << 12, _LONG, _EFER,
            _PAGES, edits=PDPT, more=(*_NESTED_PAGING, ("cr3", 6), ("flush", 10)), nested="npt", l2_paging=True,
            quota=30, least_quota=16),
    Machine("ept-l2", "nested paging: a VMX hypervisor, whose guest pages, too", 8, _CR0, L1_TABLES << 12, _LONG, _EFER, _PAGES,
            (0,), True, edits=PDPT, more=(*_NESTED_PAGING, ("cr3", 6), ("flush", 10)), nested="ept", l2_paging=True,
            quota=30, least_quota=16),
    Machine("tdp", "two-dimensional paging: a 64-bit guest with PCIDs on the TDP MMU", 8, _CR0, ROOT_A << 12,
            _LONG | CR4_PCIDE | CR4_PGE, _EFER, _PAGES, (0, 1, 2), unshadowed=True, more=(("cr3", 14), ("registers", 8))),
    Machine("tdp-legacy", "the same on the legacy direct MMU", 8, _CR0, ROOT_A << 12, _LONG | CR4_PCIDE | CR4_PGE, _EFER, _PAGES,
            (0, 1, 2), unshadowed=True, mmu="tdp-legacy", quota=30, least_quota=16, more=(("cr3", 14), ("registers", 8))),
    Machine("tdp-hyperv", "the same with large pages, and KVM a guest of Hyper-V", 8, _CR0, ROOT_A << 12, _LONG, _EFER, _PAGES,
            unshadowed=True, mmu="tdp-legacy", quota=30, least_quota=16, host_level=3, slot_pages=16,
            parameters=(("hyperv_flush", 1),),
            more=(("access", 24), ("store", 8), ("dirty", 60), ("memory", 5), ("flush", 2), ("cr3", 2), ("registers", 1),
                  ("begin", 2), ("upper", 1), ("emulated", 1))),
    Machine("tdp-contended", "the same on the TDP MMU, whose loops always give mmu_lock away; MMIO below its root's second entry",
            8, _CR0, ROOT_A << 12, _LONG, _EFER, _PAGES, unshadowed=True, mmio=FAR_MMIO, parameters=(("tdp_yields", 1),),
            more=(("slots", 6), ("dirty", 6), ("memory", 6))),
    Machine("wide", "64-bit paging, 14 shadow pages of two page tables", 8, _CR0, ROOT_A << 12, _LONG, _EFER, _WIDE, quota=44,
            edits=PDPT, wide_in=1, more=(("access", 60), ("registers", 1), ("slots", 1), ("dirty", 1), ("reclaim", 0))),
)}


def build(machine, rules, vcpus):
    """A `Vm` in the machine's initial state (no area)."""
    values = rules if isinstance(rules, dict) else rule_sets.RULES[rules]
    vm = Vm(0, rules=values | dict(machine.parameters), mmu=machine.mmu if machine.nested or machine.unshadowed else "shadow",
            config=machine.config(vcpus), record=0)
    vm.add_memslot(0, 0, machine.slot_pages * PAGE, 0)
    if machine.slot_pages == 12:
        vm.add_memslot(1, 12 * PAGE, machine.slot1_pages * PAGE, 12 * PAGE)
        vm.add_memslot(2, 0, 11 * PAGE, 0, as_id=1)
        vm.add_memslot(5, 11 * PAGE, PAGE, SMRAM * PAGE, as_id=1)
        if machine.smm_has_slot1:
            vm.add_memslot(6, 12 * PAGE, machine.slot1_pages * PAGE, 12 * PAGE, as_id=1)
    else:
        vm.add_memslot(2, 0, machine.slot_pages * PAGE, 0, as_id=1)
    if machine.nested:
        vm.add_memslot(7, L1_TABLES * PAGE, L1_PAGES * PAGE, MEMORY_PAGES * PAGE)
    for gfn, entries in machine.tables().items():
        size = 4 if machine.l2_paging and gfn == L2_TABLE else machine.entry_bytes
        data = b"".join((e & (1 << 8 * size) - 1).to_bytes(size, "little") for e in entries)
        vm.write_gpa(gfn * PAGE, data)
    for cpu in vm.vcpus:
        cpu.record.is_amd = 0 if machine.intel else 1
        cpu.record.rip = 1
        # PSE-36 bits would overlap the frame numbers of such small tables
        cpu.record.has_pse36 = 0
        cpu.record.tdp_level = machine.tdp_level
        # what nested tables have in bits 62:59 is nobody's protection key
        cpu.record.pkru = places.KEY_1_DENIED if machine.nested else 0
        if machine.unshadowed:
            # as on any host: not more than the direct MMU's tables translate
            cpu.record.maxphyaddr = 12 + 2 * machine.tdp_level
        cpu.set_cpuid(pcid=True)
        cpu.set_sregs(cr0=machine.cr0, cr3=machine.cr3, cr4=machine.cr4, efer=machine.efer, cs_l=0)
    vm.set_nr_mmu_pages(machine.quota)
    return vm


# ---- states

class Arena:
    """Copies of one machine with its area, in one buffer: `handle(i)` is what core functions take."""

    def __init__(self, machine, rules, vcpus, copies=4, aside=0):
        import ctypes
        import mmap

        from . import entries
        self.machine, self.rules, self.vcpus, self.aside = machine, rules, vcpus, aside
        vm = build(machine, rules, vcpus)
        offset, length = vm.store.tables["events"]
        self.area = -(-(offset + length) // 64) * 64
        from . import l2_paging
        self.stride = self.area + 8 * (areas.words(vcpus) + (vcpus * l2_paging.EXTRA_WORDS if machine.l2_paging else 0))
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
        for deviation in known.DEVIATIONS.values():
            if aside & deviation.bit and isinstance(deviation.aside, known.Rule):
                setattr(interpreted.rules(self.view(0)), deviation.aside.name, 1)
        if machine.l2_paging:
            table[areas.L2_CR0], table[areas.L2_CR3], table[areas.L2_CR4] = nested_tables.L2_REGISTERS
        table[areas.UNSHADOWED] = machine.unshadowed
        table[areas.N_GVAS] = len(machine.pages)
        table[areas.LIMIT] = (max(machine.pages) + 1) * PAGE
        for i, gva in enumerate(machine.gvas):
            table[areas.GVAS + i] = gva
        entries.prepare(self.handle(0), self.area)
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
