# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain guest on a host with two-dimensional paging: its own tables are nobody's shadow.

    linear --(guest's tables, walked by the hardware)--> physical --(tables of the direct MMU)--> frame
       |                                                    |
       what is permitted: oracle.tlb, as on any machine     what KVM keeps

    HELD    rows of tlb_model, made here from both kinds of tables as they are: linear page -> frame, the rights of both together
            NAME has the PCID, the level of the guest page, GLOBAL and the physical page; D: it may be written without a walk, for
            both entries have D, and KVM's has W
            taken by   the guest's own MOV CR3, INVLPG, INVPCID, #PF: the hardware does them without an exit
                       KVM's flushes (tlb_model.obey): of what it changes in its tables, or does in the guest's place

So what a search finds here is a flush that KVM owed, a frame that it should have taken away, or an emulated access that went
another way than the hardware would.  The hardware's rows go where the manuals say so (SDM vol. 3 4.10.4.1, 29.4.3; APM vol. 2
5.5, 15.16).  They are made while the guest is in long mode or does not page; in 32-bit paging (after INIT) none is, and PAE
paging ends the walk.
"""

from .. import state
from ..mmu import geometry, sptes
from ..state import core
from ..vm import two_dimensional
from ..x86.bits import (
    CR0_PG,
    CR3_NOFLUSH,
    CR3_PCID_MASK,
    CR4_LA57,
    CR4_PCIDE,
    CR4_PGE,
    EFER_LMA,
    FRAME_MASK,
    FRAME_SHIFT,
    NX,
    PT_ACCESSED,
    PT_DIRTY,
    PT_GLOBAL,
    PT_PAGE_SIZE,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from . import architecture, host_side, ops, tlb_model
from . import area as areas

#: Where NAME of a row has the guest-physical page.
GFN_SHIFT = 20
#: A global translation: kept by what takes one PCID's only (SDM vol. 3 4.10.2.4).
GLOBAL = 1 << 18
RIGHTS = PT_WRITABLE | PT_USER
INVPCID_ADDRESS, INVPCID_SINGLE, INVPCID_ALL_WITH_GLOBAL, INVPCID_ALL = range(4)


# ---- what the hardware may hold

@core
def direct_entry(vm, vcpu, gfn):
    """The leaf of the direct MMU's tables for a guest page: (frame, rights W and NX of all levels, dirty), frame -1 for none."""
    frame = geometry.entry_frame(vcpu.hw_root)
    level = two_dimensional.levels_of(vm, vcpu)
    rights = PT_WRITABLE + 0
    if gfn >> (vm.level_bits * level):
        return -1, 0, 0
    while geometry.is_table(vm, frame):
        spte = geometry.read_spte(vm, geometry.frame_sptep(vm, frame) + geometry.index(vm, gfn << vm.page_shift, level))
        if not spte & PT_PRESENT or spte & sptes.MMIO_MASK == sptes.MMIO_VALUE:
            return -1, 0, 0
        rights = rights & spte & PT_WRITABLE | (rights | spte) & NX
        frame = geometry.entry_frame(spte)
        if level == 1 or spte & PT_PAGE_SIZE:
            pages = geometry.pages_per_hpage(vm, level)
            return frame & -pages | gfn & (pages - 1), rights, spte & PT_DIRTY
        level -= 1
    return -1, 0, 0


@core
def guest_leaf(vm, vcpu, gva):
    """The walk of the guest's tables that a CPU may have done: (guest-physical page, W, U, NX, D and G, level of the leaf), page
    -1 where an entry is absent, not marked as accessed, or out of reach."""
    if not vcpu.cr0 & CR0_PG:
        return gva >> vm.page_shift, RIGHTS | PT_DIRTY, 1
    if not vcpu.efer & EFER_LMA:
        return -1, 0, 0
    gfn = (vcpu.cr3 & FRAME_MASK) >> FRAME_SHIFT
    level = 5 if vcpu.cr4 & CR4_LA57 else 4
    rights = RIGHTS + 0
    while True:
        frame, _, _ = direct_entry(vm, vcpu, gfn)
        if not vm.ram_pfn <= frame < vm.ram_pfn + vm.n_ram:
            # nothing, or a broken MMU's frame, which is not the VM's
            return -1, 0, 0
        at = ((frame - vm.ram_pfn) << (vm.page_shift - 3)) + geometry.index(vm, gva, level)
        entry = state.words(vm, vm.ram)[at]
        large = entry & PT_PAGE_SIZE != 0 and level > 1
        reserved = two_dimensional.reserved_bits(vm, vcpu, state.hw_walk(vm), level, 8, large and level <= 3)
        if not entry & PT_PRESENT or not entry & PT_ACCESSED or entry & reserved:
            return -1, 0, 0
        rights = rights & entry & RIGHTS | (rights | entry) & NX
        gfn = (entry & FRAME_MASK) >> FRAME_SHIFT
        if level == 1 or large:
            pages = geometry.pages_per_hpage(vm, level)
            return gfn & -pages | gva >> vm.page_shift & (pages - 1), rights | entry & (PT_DIRTY | PT_GLOBAL), level
        level -= 1


@core
def memory_sum(vm):
    """Checksum of guest memory (as tlb_model.table_sum)."""
    ram = state.words(vm, vm.ram)
    total = 0
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        total += ram[i] * (2 * i + 0x10001) ^ ram[i] >> 40
    return total & 0x3FFFFFFFFFFFF


@core
def sample(vm, area, v):
    """While the vCPU runs guest code: hold what both kinds of tables offer now.  True if there may be something new."""
    vcpu = state.vcpu(vm, v)
    held = areas.part(vm, area, v, areas.HELD)
    total = tlb_model.table_sum(vm) ^ memory_sum(vm) ^ vcpu.cr3 ^ vcpu.cr0 << 20
    if held[tlb_model.LAST_ROOT] == vcpu.hw_root and held[tlb_model.LAST_SUM] == total and held[tlb_model.COUNT]:
        return False
    held[tlb_model.LAST_ROOT] = vcpu.hw_root
    held[tlb_model.LAST_SUM] = total
    two_dimensional.load_registers(vm, vcpu, state.hw_walk(vm))
    h = areas.head(vm, area)
    pcid = current_pcid(vcpu)
    for i in range(h[areas.N_GVAS]):
        gva = h[areas.GVAS + i] + 0
        gfn, rights, level = guest_leaf(vm, vcpu, gva)
        if gfn < 0:
            continue
        frame, outer, dirty = direct_entry(vm, vcpu, gfn)
        if frame < 0:
            continue
        if not outer & PT_WRITABLE or not dirty:
            rights &= ~PT_DIRTY
        if rights & PT_GLOBAL and vcpu.cr4 & CR4_PGE:
            level |= GLOBAL >> tlb_model.WHOLE_SHIFT
        rights &= ~PT_GLOBAL
        name = gfn << GFN_SHIFT | level << tlb_model.WHOLE_SHIFT | pcid << tlb_model.PCID_SHIFT | 1
        tlb_model.hold(vm, area, held, name, gva, frame << FRAME_SHIFT | rights | outer & NX)
    return True


@core
def current_pcid(vcpu):
    """PCID of the guest's own CR3."""
    return vcpu.cr3 & CR3_PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0


@core
def drop(vm, area, v, pcid, gva, globals_go):
    """The hardware forgets: of one PCID (-1: of all), one linear page (-1: all).  globals_go: global ones of every PCID, too; if
    not, they stay."""
    held = areas.part(vm, area, v, areas.HELD)
    held[tlb_model.LAST_ROOT] = 0
    i = 0
    while i < held[tlb_model.COUNT]:
        at = tlb_model.ROWS + i * tlb_model.ROW_WORDS
        name = held[at] + 0
        goes = globals_go if name & GLOBAL else pcid < 0 or tlb_model.pcid_of(name) == pcid
        if goes and (gva < 0 or tlb_model.covers(vm, name, held[at + 1] + 0, gva)):
            tlb_model.drop(held, i)
        else:
            i += 1


@core
def flush_ranges(vm, area):
    """Hyper-V's flushes by range: every CPU forgets what leads to these guest-physical pages (a flush by range takes
    translations of the nested tables and what was made of them)."""
    for v in range(vm.n_vcpus):
        held = areas.part(vm, area, v, areas.HELD)
        i = 0
        while i < held[tlb_model.COUNT]:
            gfn = held[tlb_model.ROWS + i * tlb_model.ROW_WORDS] >> GFN_SHIFT
            goes = False
            for k in range(vm.range_count):
                goes = goes or vm.range_gfn[k] <= gfn < vm.range_gfn[k] + vm.range_pages[k]
            if goes:
                tlb_model.drop(held, i)
                held[tlb_model.LAST_ROOT] = 0
            else:
                i += 1
    for k in range(vm.range_count):
        vm.range_gfn[k] = 0
        vm.range_pages[k] = 0
    vm.range_count = 0


# ---- what the guest does without an exit

@core
def by_hardware(code, flags):
    """Is this an instruction that KVM does not intercept?  Where it emulates one, the script says so."""
    return (code == ops.MOV_CR3 or code == ops.INVLPG or code == ops.INVPCID) and not flags & ops.EMULATED


@core
def instruction(vm, area, code, v, a, b, c):
    """MOV CR3, INVLPG or INVPCID by the hardware."""
    vcpu = state.vcpu(vm, v)
    pcid = current_pcid(vcpu)
    if code == ops.MOV_CR3:
        if architecture.cr3_refused(vm, area, v, a):
            areas.skip(vm, area)
            return
        keep = vcpu.cr4 & CR4_PCIDE != 0 and a < 0
        vcpu.cr3 = a & ~CR3_NOFLUSH if vcpu.cr4 & CR4_PCIDE else a
        if keep:
            areas.head(vm, area)[areas.KEPT] = 1
        else:
            drop(vm, area, v, current_pcid(vcpu), -1, False)
        architecture.cr3_written(vm, area, v, a)
    elif code == ops.INVLPG:
        drop(vm, area, v, pcid, a, True)
        architecture.event(vm, area, v, architecture.INVLPG, -1, a)
    elif a < 0 or a > INVPCID_ALL or a <= INVPCID_SINGLE and b and not vcpu.cr4 & CR4_PCIDE:
        # #GP(0)
        areas.skip(vm, area)
        return
    else:
        drop(vm, area, v, b if a <= INVPCID_SINGLE else -1, c if a == INVPCID_ADDRESS else -1, a == INVPCID_ALL_WITH_GLOBAL)
        architecture.event(vm, area, v, architecture.INVPCID_ADDRESS + a, b, c)
    host_side.look_at_host(vm, area)
