# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU with nested paging, on a TLB miss: the guest's tables are at guest-physical addresses, so each of their entries
is itself translated by the nested tables.

    gva --> [gPML4E] --> [gPDPTE] --> [gPDE] --> [gPTE] --> gpa --> hpa
               ^            ^           ^          ^         ^
            4 nested     4 nested    4 nested   4 nested   4 nested        5 * 4 + 4 = 24 references (4-level in 4-level)

    nested entry absent, read-only ...    #NPF to the hypervisor: EXITINFO1 = error code and one of
                                          bit 33 (while reading a guest table), bit 32 (the final address)
    guest entry absent, ...               #PF to the guest, no exit

The model follows the AMD manual (APM vol. 2 15.25): guest tables are accessed as writes, every nested access as user.
It serves the library's accesses and, compiled, is the page walker of the engine (engines/unicorn_svm/nested_paging).
"""

from .. import state
from ..mmu import contexts, geometry, memslots, roles, sptes, warn
from ..state import core
from ..x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
    FRAME_MASK,
    FRAME_SHIFT,
    NX,
    PFERR_FETCH,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    PKEY_MASK,
    PKEY_SHIFT,
    PT_ACCESSED,
    PT_DIRTY,
    PT_GLOBAL,
    PT_PAGE_SIZE,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from . import registers

OK, NESTED_FAULT, PAGE_FAULT, NOT_CANONICAL = range(4)
#: Kinds of access, and of who accesses: a supervisor whom SMAP binds, a user, a supervisor whom it does not.
LOAD, STORE, FETCH = range(3)
SUPERVISOR_SMAP, USER, SUPERVISOR = range(3)
READ_BIT, WRITE_BIT, EXEC_BIT = 1, 2, 4


@core
def kind_bit(kind):
    """The permission that an access needs."""
    return READ_BIT if kind == LOAD else WRITE_BIT if kind == STORE else EXEC_BIT


@core
def nested_fault(h, gpa, kind, final, error):
    """Fill in an #NPF."""
    if error & PFERR_RSVD and not h.rsvd_without_present:
        error |= PFERR_PRESENT
    error |= PFERR_GUEST_FINAL if final else PFERR_GUEST_PAGE
    # EPT: handle_ept_violation makes U of "a read"; a guest table is read and, for its A and D bits, written
    if not h.ept or kind == LOAD or not final:
        error |= PFERR_USER
    if kind == STORE:
        error |= PFERR_WRITE
    elif kind == FETCH:
        error |= PFERR_FETCH
    h.error = error
    h.address = gpa
    return -1


@core
def log_dirty(vm, vcpu, gpa):
    """Page modification logging: the hardware notes the page whose D bit it sets.  KVM reads the buffer after every exit
    (vmx_flush_pml_buffer) and marks the pages; nothing can happen in between, so they are marked at once."""
    memslots.mark_page_dirty(vm, vcpu, gpa >> vm.page_shift)


@core
def nested_translate(vm, vcpu, h, gpa, kind, final):
    """gpa -> hpa through the nested tables, or -1 with the #NPF in `h`.  Sets A and D in the nested entries."""
    # KVM tells the CPU to leave A and D alone when L1's EPT has none (construct_eptp)
    ad = not h.peek and not state.context(vm, vcpu.mmu).root_role & roles.AD_DISABLED
    frame = geometry.entry_frame(h.nested_root)
    level = h.nested_level
    if gpa >> (vm.page_shift + vm.level_bits * level):
        return nested_fault(h, gpa, kind, final, 0)
    w = True
    u = True
    nx = False
    sptep = 0
    spte = 0
    while True:
        if not geometry.is_table(vm, frame):
            warn.warn(vm, warn.NO_TABLE)
            return nested_fault(h, gpa, kind, final, 0)
        sptep = geometry.frame_sptep(vm, frame) + geometry.index(vm, gpa, level)
        spte = geometry.read_spte(vm, sptep)
        h.nested_refs += 0 if h.peek else 1
        if not spte & PT_PRESENT:
            return nested_fault(h, gpa, kind, final, 0)
        if spte & sptes.MMIO_MASK == sptes.MMIO_VALUE:
            return nested_fault(h, gpa, kind, final, PFERR_RSVD)
        w = w and spte & PT_WRITABLE != 0
        u = u and spte & PT_USER != 0
        nx = nx or spte & NX != 0
        if level == 1 or spte & PT_PAGE_SIZE:
            break
        if ad and not spte & PT_ACCESSED:
            geometry.write_spte(vm, sptep, spte | PT_ACCESSED)
        frame = geometry.entry_frame(spte)
        level -= 1
    # in the shadow of an EPT, U is the right to read and nothing else
    if not u and (kind == LOAD or not h.ept) or kind == FETCH and nx or kind == STORE and not w:
        return nested_fault(h, gpa, kind, final, PFERR_PRESENT)
    h.nested_prot = (READ_BIT if u else 0) | (WRITE_BIT if w else 0) | (0 if nx else EXEC_BIT)
    if ad:
        new = spte | PT_ACCESSED | (PT_DIRTY if kind == STORE else 0)
        if new != spte:
            geometry.write_spte(vm, sptep, new)
        if kind == STORE and not spte & PT_DIRTY and state.rules(vm).pml:
            log_dirty(vm, vcpu, gpa)
        if not new & PT_DIRTY:
            # the TLB must not hide the first write
            h.nested_prot &= ~WRITE_BIT
    pages = geometry.pages_per_hpage(vm, level)
    pfn = (geometry.entry_frame(spte) & -pages) + ((gpa >> vm.page_shift) & (pages - 1))
    return pfn << vm.page_shift | geometry.page_offset(vm, gpa)


@core
def read_entry(vm, hpa, size):
    """A guest entry by host physical address."""
    at = hpa - (vm.ram_pfn << vm.page_shift)
    if size == 8:
        return state.words(vm, vm.ram)[at >> 3]
    return state.words32(vm, vm.ram)[at >> 2] + 0


@core
def set_bits(vm, h, hpa, size, bits):
    """Set A or D in a guest entry."""
    if h.peek:
        return
    at = hpa - (vm.ram_pfn << vm.page_shift)
    if size == 8:
        state.words(vm, vm.ram)[at >> 3] = state.words(vm, vm.ram)[at >> 3] | bits
    else:
        state.words32(vm, vm.ram)[at >> 2] = (state.words32(vm, vm.ram)[at >> 2] + 0) | bits


@core
def guest_fault(h, gva, kind, who, error):
    """Fill in a #PF."""
    if error & PFERR_RSVD and not h.rsvd_without_present:
        error |= PFERR_PRESENT
    if who == USER:
        error |= PFERR_USER
    if kind == STORE:
        error |= PFERR_WRITE
    elif kind == FETCH and (h.efer & EFER_NX and h.cr4 & CR4_PAE or h.cr4 & CR4_SMEP):
        error |= PFERR_FETCH
    h.error = error
    h.address = gva
    return PAGE_FAULT


@core
def reserved_bits(vm, vcpu, h, level, size, large):
    """Bits that must be zero in a guest entry of `level` (APM vol. 2 5.3; SDM vol. 3 4.5.4; only what this CPU checks)."""
    if size == 4:
        # with PSE-36 only bit 21; small machines have none, and a frame that is not aligned
        return 0 if not large else 1 << 21 if vm.level_bits == 9 else (1 << (13 + vm.level_bits)) - (1 << 13)
    mask = FRAME_MASK & -(1 << h.phys_bits)
    if not h.efer & EFER_NX:
        mask |= NX
    if not h.efer & EFER_LMA:
        # PAE: bits 62:52 have no meaning yet; in a PDPTE neither NX
        mask |= 0x7FF << 52
        if level == 3:
            mask |= NX
    if large:
        mask |= (geometry.pages_per_hpage(vm, level) - 1) << FRAME_SHIFT & ~(1 << 12)
        if level == 3 and not vcpu.has_gbpages:
            mask |= PT_PAGE_SIZE
    elif level >= 4:
        # APM figures 5-19, 5-20: bit 8, too
        mask |= PT_PAGE_SIZE | (PT_GLOBAL if vcpu.is_amd else 0)
    return mask


@core
def permissions(h, who, w, u, nx):
    """What the guest's entries permit (read 1, write 2, execute 4), protection keys left out."""
    prot = 0
    if who != SUPERVISOR_SMAP or not u:
        prot = READ_BIT
        if w or who != USER and not h.cr0 & CR0_WP:
            prot |= WRITE_BIT
    if not nx and (who == USER or not (h.cr4 & CR4_SMEP and u)):
        prot |= EXEC_BIT
    return prot


@core
def key_permissions(h, entry, who, prot):
    """`prot` less what the protection key of a user page forbids."""
    if not h.cr4 & CR4_PKE or not h.efer & EFER_LMA:
        return prot
    key = (h.pkru >> (2 * ((entry >> PKEY_SHIFT) & PKEY_MASK))) & 3
    if key & 1:
        prot &= ~(READ_BIT | WRITE_BIT)
    elif key & 2 and (who == USER or h.cr0 & CR0_WP):
        prot &= ~WRITE_BIT
    return prot


@core
def levels(h):
    """Levels of the guest's paging mode."""
    if h.efer & EFER_LMA:
        return 5 if h.cr4 & CR4_LA57 else 4
    return 3 if h.cr4 & CR4_PAE else 2


@core
def walk(vm, vcpu, h, gva, kind, who):
    """One TLB miss: OK with h.hpa and h.prot, or the kind of fault with h.error and h.address."""
    if not h.peek:
        h.walks += 1
    h.refs_before = h.guest_refs + h.nested_refs
    h.page_size = 1 << vm.page_shift
    if not h.cr0 & CR0_PG:
        # the linear address is the guest-physical one
        return final_step(vm, vcpu, h, gva & 0xFFFFFFFF, kind, READ_BIT | WRITE_BIT | EXEC_BIT)
    level = levels(h)
    size = 8 if level > 2 else 4
    if level >= 4:
        sign = gva >> (vm.page_shift + vm.level_bits * level - 1)
        if sign != 0 and sign != -1:
            return NOT_CANONICAL
    elif not vm.scaled:
        gva &= 0xFFFFFFFF
    bits = vm.level_bits if size == 8 else vm.level_bits + 1
    table = geometry.entry_frame(h.cr3) << vm.page_shift
    if level == 3:
        # 32-byte aligned in its page
        table |= h.cr3 & ((1 << vm.page_shift) - 1) & ~31
    w = True
    u = True
    nx = False
    top = level
    table_kind = table_access(vm, vcpu, h)
    while True:
        at = (gva >> (vm.page_shift + bits * (level - 1))) & ((1 << (2 if top == 3 and level == 3 else bits)) - 1)
        gpa = table + at * size
        hpa = nested_translate(vm, vcpu, h, gpa, table_kind, False)
        if hpa < 0:
            return NESTED_FAULT
        entry = read_entry(vm, hpa, size)
        h.guest_refs += 0 if h.peek else 1
        if not entry & PT_PRESENT:
            return guest_fault(h, gva, kind, who, 0)
        pdpte = top == 3 and level == 3
        large = entry & PT_PAGE_SIZE != 0 and not pdpte and (level == 3 or level == 2 and (size == 8 or h.cr4 & CR4_PSE != 0))
        if entry & reserved_bits(vm, vcpu, h, level, size, large):
            return guest_fault(h, gva, kind, who, PFERR_RSVD)
        if not pdpte:
            w = w and entry & PT_WRITABLE != 0
            u = u and entry & PT_USER != 0
            nx = nx or size == 8 and entry & NX != 0
        if level == 1 or large:
            break
        if not entry & PT_ACCESSED and (not pdpte or h.pdpte_accessed):
            if table_kind == LOAD and nested_translate(vm, vcpu, h, gpa, STORE, False) < 0:
                return NESTED_FAULT
            set_bits(vm, h, hpa, size, PT_ACCESSED)
        table = geometry.entry_frame(entry) << vm.page_shift
        level -= 1
    if who == USER and not u:
        return guest_fault(h, gva, kind, who, PFERR_PRESENT)
    prot = permissions(h, who, w, u, nx)
    if u:
        allowed = key_permissions(h, entry, who, READ_BIT | WRITE_BIT | EXEC_BIT)
        if not allowed & kind_bit(kind):
            return guest_fault(h, gva, kind, who, PFERR_PRESENT | PFERR_PK)
        prot &= allowed
    if not prot & kind_bit(kind):
        return guest_fault(h, gva, kind, who, PFERR_PRESENT)
    if table_kind == LOAD and not is_marked(entry, kind) and nested_translate(vm, vcpu, h, gpa, STORE, False) < 0:
        return NESTED_FAULT
    set_final_bits(vm, h, hpa, size, entry, kind)
    if kind != STORE and not entry & PT_DIRTY:
        prot &= ~WRITE_BIT
    unit = vm.page_shift + bits * (level - 1)
    h.page_size = 1 << unit
    frame = geometry.entry_frame(entry)
    if size == 4 and large:
        # PSE-36: bits 20:13 of the entry are address bits 39:32
        frame = frame & ~((1 << bits) - 1) | ((entry >> 13) & 0xFF) << 20 if vm.level_bits == 9 else frame
    gpa = (frame << vm.page_shift) & -(1 << unit) | gva & ((1 << unit) - 1)
    return final_step(vm, vcpu, h, gpa, kind, prot)


@core
def table_access(vm, vcpu, h):
    """A guest's table is written by a walk; only read where EPT has no A and D bits (SDM vol. 3 29.3.3.2), until one of the
    guest's
    own is to be set."""
    return LOAD if h.ept and state.context(vm, vcpu.mmu).root_role & roles.AD_DISABLED else STORE


@core
def is_marked(entry, kind):
    """A, and for a store D, stand in the entry that maps the page."""
    return entry & PT_ACCESSED != 0 and (kind != STORE or entry & PT_DIRTY != 0)


@core
def set_final_bits(vm, h, hpa, size, entry, kind):
    """A, and for a store D, in the entry that maps the page."""
    bits = PT_ACCESSED | (PT_DIRTY if kind == STORE else 0)
    if entry & bits != bits:
        set_bits(vm, h, hpa, size, bits)


@core
def final_step(vm, vcpu, h, gpa, kind, prot):
    """The nested walk of the final address."""
    hpa = nested_translate(vm, vcpu, h, gpa, kind, True)
    if hpa < 0:
        return NESTED_FAULT
    h.hpa = hpa
    h.prot = prot & h.nested_prot
    h.most_refs = max(h.most_refs, h.guest_refs + h.nested_refs - h.refs_before)
    return OK


@core
def levels_of(vm, vcpu):
    """Levels of the nested tables that the hardware walks: on SVM the host's own (hCR4.LA57), on VMX those of the EPTP."""
    return vcpu.tdp_level if vcpu.is_amd else roles.level(state.context(vm, vcpu.mmu).root_role)


@core
def load_registers(vm, vcpu, h):
    """The walk of a vCPU that no engine runs: its registers are the hardware's."""
    h.cr0 = registers.hardware_cr0(vm, vcpu)
    h.cr3 = vcpu.cr3
    h.cr4 = registers.hardware_cr4(vm, vcpu)
    h.efer = registers.hardware_efer(vm, vcpu)
    h.nested_root = vcpu.hw_root
    ctx = state.context(vm, vcpu.mmu)
    h.nested_level = levels_of(vm, vcpu)
    h.ept = 1 if ctx.kind == contexts.PAGING_EPT else 0
    h.phys_bits = vcpu.maxphyaddr
    h.pkru = vcpu.pkru
    h.rsvd_without_present = 0
    h.pdpte_accessed = 0
    h.peek = 0
