# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks: through the guest's tables (FNAME(walk_addr)) and through the shadow tables (shadow_walk_*).

    guest:   CR3 -> [gpte] -> [gpte] -> ... -> gfn, access        reads guest memory, sets A and D
    shadow:  root -> [spte] -> [spte] -> ...                      only looks; the iterator lies in a FAULT record

A guest walk that had to set A or D uses compare-exchange against what it read; if the entry has changed meanwhile
(also by itself, in a recursive mapping) it starts again.
"""

from .. import state
from ..state import core
from ..x86.bits import (
    CR4_LA57,
    NX,
    PFERR_FETCH,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    PKEY_MASK,
    PKEY_SHIFT,
    PT_ACCESSED,
    PT_DIRTY,
    PT_PAGE_SIZE,
    PT_PRESENT,
)
from . import contexts, events, faults, flush, geometry, host, memslots, mmio, roles, roots, sptes, warn, zap

FAILED = -1
#: `address_mask` of a gpa that could not be had (INVALID_GPA).
INVALID_GPA = -1

#: WALKER records: of the page fault in progress, and of everything else.
WALKERS_PER_VCPU = 2
FAULT_WALKER, OTHER_WALKER = 0, 1


@core
def walker_of(vm, vcpu, which):
    return state.walker(vm, vcpu.id * WALKERS_PER_VCPU + which)


@core
def gpte_access(gpte):
    """FNAME(gpte_access): ACC_* of an IA-32 entry; X is P unless NX."""
    access = gpte & (roles.ACC_WRITE | roles.ACC_USER | roles.ACC_EXEC)
    if gpte & NX:
        access ^= roles.ACC_EXEC
    return access


@core
def gpte_size(ctx):
    """Bytes of a guest entry."""
    return 4 if ctx.kind == contexts.PAGING32 else 8


@core
def gpte_index(vm, ctx, addr, level):
    """PT_INDEX of the guest's format."""
    bits = vm.level_bits + 1 if ctx.kind == contexts.PAGING32 else vm.level_bits
    return (addr >> (vm.page_shift + bits * (level - 1))) & ((1 << bits) - 1)


@core
def gpte_to_gfn(gpte):
    return geometry.entry_frame(gpte)


@core
def leaf_pages(vm, ctx, level):
    """4K pages under a leaf of `level` in the guest's format."""
    bits = vm.level_bits + 1 if ctx.kind == contexts.PAGING32 else vm.level_bits
    return 1 << (bits * (level - 1))


@core
def is_last_gpte(ctx, level, gpte):
    """FNAME(is_last_gpte): in 32-bit paging bit 7 counts only with CR4.PSE, and only in a PDE."""
    if level == 1:
        return True
    if ctx.kind == contexts.PAGING32 and not (level == 2 and ctx.cpu_ext & roles.EXT_PSE):
        return False
    return gpte & PT_PAGE_SIZE != 0


@core
def protect_clean_gpte(access, gpte):
    """FNAME(protect_clean_gpte): no write until the dirty bit is set, so that the write faults and sets it."""
    if not gpte & PT_DIRTY:
        access &= ~roles.ACC_WRITE
    return access


@core
def update_accessed_dirty(vm, vcpu, ctx, w, write):
    """FNAME(update_accessed_dirty_bits): 0 done, 1 an entry changed under us (restart)."""
    size = gpte_size(ctx)
    level = w.max_level
    while level >= w.level:
        gpte = w.ptes[level - 1]
        new = gpte
        gpa = w.pte_gpa[level - 1]
        if not new & PT_ACCESSED:
            events.emit(vm, events.SET_ACCESSED_BIT, gpa)
            new |= PT_ACCESSED
        if level == w.level and write and not new & PT_DIRTY:
            events.emit(vm, events.SET_DIRTY_BIT, gpa)
            new |= PT_DIRTY
        # in a read-only slot the bits are what they are
        if new != gpte and w.pte_writable[level - 1]:
            frame = host.gpa_frame(vm, vcpu, gpa, False)
            offset = geometry.page_offset(vm, gpa)
            if host.read_entry(vm, frame, offset, size) != gpte:
                return 1
            host.write_entry(vm, frame, offset, size, new)
            memslots.mark_page_dirty(vm, vcpu, gpa >> vm.page_shift)
            w.ptes[level - 1] = new
        level -= 1
    return 0


@core
def fail(vm, vcpu, ctx, w, addr, access, errcode):
    """Tail of a failed walk: the error code that the guest will see."""
    errcode |= access & (PFERR_WRITE | PFERR_USER)
    if access & PFERR_FETCH and (contexts.is_efer_nx(ctx) or contexts.is_cr4_smep(ctx)):
        errcode |= PFERR_FETCH
    w.fault_error = errcode
    w.fault_address = addr
    w.fault_nested = 0
    events.emit(vm, events.WALKER_ERROR, errcode)
    return False


@core
def walk_once(vm, vcpu, ctx, w, addr, access):
    """One attempt of walk_addr: 1 success, 0 fault, 2 start again."""
    size = gpte_size(ctx)
    nx = NX if size == 8 else 0
    w.level = roles.level(ctx.cpu_role)
    gpte = vcpu.cr3
    if w.level == 3:
        gpte = ctx.pdptrs[(addr >> (vm.page_shift + 2 * vm.level_bits)) & 3]
        events.emit(vm, events.PAGING_ELEMENT, gpte, 3)
        if not gpte & PT_PRESENT:
            fail(vm, vcpu, ctx, w, addr, access, 0)
            return 0
        w.level = 2
    w.max_level = w.level
    pte_access = -1
    while True:
        # NX inverted is ANDed like the other permissions
        pt_access = pte_access
        level = w.level
        table_gfn = gpte_to_gfn(gpte)
        offset = gpte_index(vm, ctx, addr, level) * size
        gpa = (table_gfn << vm.page_shift) + offset
        w.table_gfn[level - 1] = table_gfn
        w.pte_gpa[level - 1] = gpa
        i = memslots.vcpu_gfn_to_memslot(vm, vcpu, table_gfn)
        if not memslots.is_visible(vm, i):
            fail(vm, vcpu, ctx, w, addr, access, 0)
            return 0
        w.pte_writable[level - 1] = 0 if state.slot(vm, i).flags & memslots.READONLY else 1
        frame = host.fault_in(vm, memslots.gfn_to_hva(vm, i, table_gfn)) - vm.ram_pfn
        gpte = host.read_entry(vm, frame, offset, size)
        events.emit(vm, events.PAGING_ELEMENT, gpte, level)
        pte_access = pt_access & (gpte ^ nx)
        if not gpte & PT_PRESENT:
            fail(vm, vcpu, ctx, w, addr, access, 0)
            return 0
        if contexts.is_rsvd_bits_set(ctx, gpte, level):
            fail(vm, vcpu, ctx, w, addr, access, PFERR_RSVD | PFERR_PRESENT)
            return 0
        w.ptes[level - 1] = gpte
        # the access of the tables above, not of this entry (b1bd5cba3306, CVE-2021-38198)
        w.pt_access[level - 1] = gpte_access(pt_access ^ nx)
        if is_last_gpte(ctx, level, gpte):
            break
        w.level = level - 1
    accessed_dirty = pte_access & PT_ACCESSED
    w.pte_access = gpte_access(pte_access ^ nx)
    pkey = (gpte >> PKEY_SHIFT) & PKEY_MASK if size == 8 else 0
    errcode = contexts.permission_fault(vcpu, ctx, w.pte_access, pkey, access)
    if errcode:
        fail(vm, vcpu, ctx, w, addr, access, errcode)
        return 0
    pages = leaf_pages(vm, ctx, w.level)
    w.gfn = (gpte_to_gfn(gpte) & -pages) + ((addr >> vm.page_shift) & (pages - 1))
    if w.level == 2 and size == 4 and vcpu.has_pse36 and vm.level_bits == 9:
        # PSE-36: PDE bits 16:13 are address bits 35:32
        w.gfn += ((gpte >> 13) & 0xF) << 20
    write = access & PFERR_WRITE
    if not write:
        w.pte_access = protect_clean_gpte(w.pte_access, gpte)
    elif not gpte & PT_DIRTY:
        accessed_dirty = 0
    if not accessed_dirty and update_accessed_dirty(vm, vcpu, ctx, w, write):
        return 2
    return 1


@core
def walk_addr(vm, vcpu, ctx, w, addr, access):
    """FNAME(walk_addr_generic): True and a filled walker, or False and the fault in it."""
    events.emit(vm, events.PAGETABLE_WALK, addr, access)
    while True:
        result = walk_once(vm, vcpu, ctx, w, addr, access)
        if result != 2:
            return result == 1


@core
def gva_to_gpa(vm, vcpu, addr, access):
    """walk_mmu->gva_to_gpa: gpa, or INVALID_GPA with the fault in the vCPU's second walker."""
    ctx = state.context(vm, vcpu.walk_mmu)
    w = walker_of(vm, vcpu, OTHER_WALKER)
    if ctx.kind == contexts.NONPAGING:
        return addr
    if not walk_addr(vm, vcpu, ctx, w, addr, access):
        return INVALID_GPA
    return (w.gfn << vm.page_shift) | geometry.page_offset(vm, addr)


@core
def read_gpte(vm, vcpu, gpa, size):
    """kvm_vcpu_read_guest_atomic of one entry: value and True, or 0 and False."""
    frame = host.gpa_frame(vm, vcpu, gpa, True)
    if frame < 0:
        return 0, False
    return host.read_entry(vm, frame, geometry.page_offset(vm, gpa), size), True


@core
def gpte_changed(vm, vcpu, ctx, w, level):
    """FNAME(gpte_changed): does the entry still hold what the walk saw?  At level 1 the neighbours are read, too."""
    size = gpte_size(ctx)
    gpa = w.pte_gpa[level - 1]
    if level > 1:
        gpte, ok = read_gpte(vm, vcpu, gpa, size)
        return not ok or gpte != w.ptes[level - 1]
    base = gpa & -(vm.prefetch_num * size)
    frame = host.gpa_frame(vm, vcpu, base, True)
    if frame < 0:
        return True
    offset = geometry.page_offset(vm, base)
    for i in range(vm.prefetch_num):
        w.prefetch_ptes[i] = host.read_entry(vm, frame, offset + i * size, size)
    return w.prefetch_ptes[(gpa - base) >> (3 if size == 8 else 2)] != w.ptes[0]


# ---- shadow tables

@core
def shadow_walk_init(vm, vcpu, it, root_hpa, addr):
    """shadow_walk_init_using_root."""
    ctx = state.context(vm, vcpu.mmu)
    it.it_addr = addr
    it.it_frame = geometry.entry_frame(root_hpa)
    it.it_level = roles.level(ctx.root_role)
    if it.it_level >= 4 and roles.level(ctx.cpu_role) < 4 and not ctx.root_role & roles.DIRECT:
        it.it_level = 3
    if it.it_level == 3:
        entry = roots.read_pae_root(vm, ctx, (addr >> (vm.page_shift + 2 * vm.level_bits)) & 3)
        it.it_frame = geometry.entry_frame(entry)
        it.it_level = 2 if it.it_frame else 0


@core
def shadow_walk_okay(vm, it):
    """shadow_walk_okay."""
    if it.it_level < 1:
        return False
    it.it_index = geometry.index(vm, it.it_addr, it.it_level)
    it.it_sptep = geometry.frame_sptep(vm, it.it_frame) + it.it_index
    return True


@core
def shadow_walk_next(vm, it):
    """shadow_walk_next."""
    spte = geometry.read_spte(vm, it.it_sptep)
    if not sptes.is_present(spte) or sptes.is_last(spte, it.it_level):
        it.it_level = 0
        return
    it.it_frame = geometry.entry_frame(spte)
    it.it_level -= 1


@core
def address_bits(vm, vcpu):
    """Bits of a canonical linear address."""
    return vm.page_shift + vm.level_bits * (5 if vcpu.cr4 & CR4_LA57 else 4)


@core
def is_noncanonical(vm, vcpu, addr):
    """is_noncanonical_address."""
    shift = 64 - address_bits(vm, vcpu)
    return shift > 0 and sign_extend(addr, 64 - shift) != addr


@core
def sign_extend(value, bits):
    """The low `bits` of `value` as a signed number."""
    sign = 1 << (bits - 1)
    return ((value & (2 * sign - 1)) ^ sign) - sign


@core
def invalidate_addr_in_root(vm, vcpu, mmu, addr, root_hpa):
    """__kvm_mmu_invalidate_addr: reread the one gpte in every unsync page on the way; the page stays unsync."""
    mmio.clear_info(vcpu, addr & -(1 << vm.page_shift))
    if mmu != vcpu.mmu:
        warn.warn(vm, 22)
        return
    if root_hpa == roots.INVALID_PAGE:
        return
    it = state.fault(vm, vcpu.id * 2 + 1)
    zaps = state.rules(vm).invlpg_zaps
    shadow_walk_init(vm, vcpu, it, root_hpa, addr)
    while shadow_walk_okay(vm, it):
        i = geometry.sptep_page(vm, it.it_sptep)
        if i < 0:
            break   # the dummy root
        sp = state.page(vm, i)
        spte = geometry.read_spte(vm, it.it_sptep)
        if zaps and sptes.is_last(spte, it.it_level):
            if not sp.unsync or not zap_and_prefetch(vm, vcpu, sp, it.it_sptep, it.it_index):
                break
        elif not zaps and sp.unsync:
            flags = 0
            if spte != state.rules(vm).nonpresent_spte:
                flags = faults.sync_spte(vm, vcpu, sp, it.it_index)
            if flags < 0:
                zap.zap_pte(vm, sp, it.it_sptep)
            if flags != 0:
                flush.remote_tlbs_sptep(vm, it.it_sptep)
        if not sp.unsync_children:
            break
        shadow_walk_next(vm, it)


@core
def zap_and_prefetch(vm, vcpu, sp, sptep, index):
    """The leaf step of FNAME(invlpg) before 9fd4a4e3a3d9: drop the entry, then fill it again from the gpte.  False when
    the gpte cannot be read."""
    ctx = state.context(vm, vcpu.mmu)
    old = geometry.read_spte(vm, sptep)
    zap.zap_pte(vm, sp, sptep)
    if sptes.is_present(old):
        flush.remote_tlbs_gfn(vm, sp.gfn, roles.level(sp.role))
    size = gpte_size(ctx)
    offset = roles.quadrant(sp.role) << vm.level_bits if size == 4 else 0
    gpte, ok = read_gpte(vm, vcpu, (sp.gfn << vm.page_shift) + (offset + index) * size, size)
    if ok:
        faults.prefetch_gpte(vm, vcpu, sp, sptep, gpte, False)
    return ok


@core
def invalidate_addr(vm, vcpu, mmu, addr, which):
    """kvm_mmu_invalidate_addr: a guest INVLPG-like event for `addr` in the roots of mask `which`."""
    ctx = state.context(vm, mmu)
    if is_noncanonical(vm, vcpu, addr):
        return
    flush.tlb_gva(vcpu, addr)
    if ctx.root_role & roles.DIRECT:
        return
    if which & roots.CURRENT:
        invalidate_addr_in_root(vm, vcpu, mmu, addr, ctx.root_hpa)
    for i in range(3):
        if which & roots.previous(i):
            invalidate_addr_in_root(vm, vcpu, mmu, addr, ctx.prev_hpa[i])
