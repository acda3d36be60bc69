# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks: through the guest's tables (FNAME(walk_addr)) and through the shadow tables (shadow_walk_*).

    guest:   CR3 -> [gpte] -> [gpte] -> ... -> gfn, access        reads guest memory, sets A and D
    shadow:  root -> [spte] -> [spte] -> ...                      only looks; the iterator lies in a FAULT record

A guest walk that had to set A or D uses compare-exchange against what it read; if the entry has changed meanwhile
(also by itself, in a recursive mapping) it starts again.
"""

from .. import state
from ..state import core, layout
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
from . import (
    contexts,
    ept,
    events,
    faults,
    flush,
    geometry,
    host,
    memslots,
    mmio,
    nested,
    roles,
    roots,
    sptes,
    warn,
    zap,
)

FAILED = -1
#: `address_mask` of a gpa that could not be had (INVALID_GPA).
INVALID_GPA = -1

#: PFEC of the access to a table of nested_mmu: U, and W for its A and D bits.
NESTED_TABLE_ACCESS = PFERR_WRITE | PFERR_USER

#: WALKER records: of the page fault in progress, and of everything else.
WALKERS_PER_VCPU = layout.WALKERS_PER_VCPU
FAULT_WALKER, OTHER_WALKER, NESTED_WALKER = 0, 1, 2


@core
def walker_of(vm, vcpu, which):
    return state.walker(vm, vcpu.id * WALKERS_PER_VCPU + which)


@core
def is_present(ctx, gpte):
    """FNAME(is_present_gpte)."""
    return ept.is_present(gpte) if ctx.kind == contexts.PAGING_EPT else gpte & PT_PRESENT != 0


@core
def have_ad(ctx):
    """PT_HAVE_ACCESSED_DIRTY: always but for an EPT without them."""
    return ctx.kind != contexts.PAGING_EPT or not ctx.cpu_role & roles.AD_DISABLED


@core
def accessed_mask(ctx):
    return ept.ACCESSED if ctx.kind == contexts.PAGING_EPT else PT_ACCESSED


@core
def dirty_mask(ctx):
    return ept.DIRTY if ctx.kind == contexts.PAGING_EPT else PT_DIRTY


@core
def gpte_access(ctx, gpte):
    """FNAME(gpte_access): ACC_* of an entry; in IA-32 formats X is P unless NX."""
    if ctx.kind == contexts.PAGING_EPT:
        return ept.gpte_access(gpte)
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
def protect_clean_gpte(ctx, access, gpte):
    """FNAME(protect_clean_gpte): no write until the dirty bit is set, so that the write faults and sets it."""
    if have_ad(ctx) and not gpte & dirty_mask(ctx):
        access &= ~roles.ACC_WRITE
    return access


@core
def update_accessed_dirty(vm, vcpu, ctx, w, write):
    """FNAME(update_accessed_dirty_bits): 0 done, 1 an entry changed under us (restart)."""
    if not have_ad(ctx):
        return 0
    accessed = accessed_mask(ctx)
    dirty = dirty_mask(ctx)
    size = gpte_size(ctx)
    level = w.max_level
    while level >= w.level:
        gpte = w.ptes[level - 1]
        new = gpte
        gpa = w.pte_gpa[level - 1]
        if not new & accessed:
            events.emit(vm, events.SET_ACCESSED_BIT, gpa)
            new |= accessed
        if level == w.level and write and not new & dirty:
            events.emit(vm, events.SET_DIRTY_BIT, gpa)
            new |= dirty
        # in a read-only slot the bits are what they are
        if new != gpte and w.pte_writable[level - 1]:
            frame = host.gpa_frame(vm, vcpu, w.real_gfn[level - 1] << vm.page_shift, False)
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
    # a fault of L1's tables for L2 is L1's business, whoever walks
    if ctx.kind == contexts.PAGING_EPT:
        vcpu.fault_qualification = ept.qualification(w, access)
    w.fault_nested = 1 if ctx.id != vcpu.walk_mmu - 3 * vcpu.id else 0
    events.emit(vm, events.WALKER_ERROR, errcode)
    return False


@core
def begin(vm, vcpu, ctx, w, addr, access):
    """Head of a walk: level and entry in hand.  False when a PDPTE is missing."""
    w.level = roles.level(ctx.cpu_role)
    w.gpte = nested.guest_pgd(vcpu, ctx)
    w.access = -1
    if w.level == 3:
        w.gpte = nested.pdptr(vm, vcpu, ctx, (addr >> (vm.page_shift + 2 * vm.level_bits)) & 3)
        events.emit(vm, events.PAGING_ELEMENT, w.gpte, 3)
        if not w.gpte & PT_PRESENT:
            return fail(vm, vcpu, ctx, w, addr, access, 0)
        w.level = 2
    w.max_level = w.level
    return True


@core
def step(vm, vcpu, ctx, w, addr, access, real_gfn):
    """One level: the entry in the table that the entry in hand points to.  1 it is the last, 0 fault, 2 go on below."""
    size = gpte_size(ctx)
    # NX inverted is ANDed like the other permissions
    nx = NX if size == 8 else 0
    level = w.level
    pt_access = w.access
    table_gfn = gpte_to_gfn(w.gpte)
    offset = gpte_index(vm, ctx, addr, level) * size
    w.table_gfn[level - 1] = table_gfn
    w.real_gfn[level - 1] = real_gfn
    w.pte_gpa[level - 1] = (table_gfn << vm.page_shift) + offset
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, real_gfn)
    if not memslots.is_visible(vm, i):
        fail(vm, vcpu, ctx, w, addr, access, 0)
        return 0
    w.pte_writable[level - 1] = 0 if state.slot(vm, i).flags & memslots.READONLY else 1
    frame = host.fault_in(vm, memslots.gfn_to_hva(vm, i, real_gfn)) - vm.ram_pfn
    gpte = host.read_entry(vm, frame, offset, size)
    events.emit(vm, events.PAGING_ELEMENT, gpte, level)
    w.gpte = gpte
    w.access = pt_access & (gpte ^ nx)
    if not is_present(ctx, gpte):
        fail(vm, vcpu, ctx, w, addr, access, 0)
        return 0
    if contexts.is_rsvd_bits_set(ctx, gpte, level):
        fail(vm, vcpu, ctx, w, addr, access, PFERR_RSVD | PFERR_PRESENT)
        return 0
    w.ptes[level - 1] = gpte
    # the access of the tables above, not of this entry (b1bd5cba3306, CVE-2021-38198)
    w.pt_access[level - 1] = gpte_access(ctx, pt_access ^ nx)
    if is_last_gpte(ctx, level, gpte):
        return 1
    w.level = level - 1
    return 2


@core
def leaf(vm, vcpu, ctx, w, addr, access):
    """After the last entry: permissions and frame.  False: fault."""
    size = gpte_size(ctx)
    gpte = w.gpte
    w.pte_access = gpte_access(ctx, w.access ^ (NX if size == 8 else 0))
    pkey = (gpte >> PKEY_SHIFT) & PKEY_MASK if size == 8 else 0
    errcode = contexts.permission_fault(vcpu, ctx, w.pte_access, pkey, access)
    if errcode:
        return fail(vm, vcpu, ctx, w, addr, access, errcode)
    pages = leaf_pages(vm, ctx, w.level)
    w.gfn = (gpte_to_gfn(gpte) & -pages) + ((addr >> vm.page_shift) & (pages - 1))
    if w.level == 2 and size == 4 and vcpu.has_pse36 and vm.level_bits == 9:
        # PSE-36: PDE bits 16:13 are address bits 35:32
        w.gfn += ((gpte >> 13) & 0xF) << 20
    return True


@core
def finish(vm, vcpu, ctx, w, access):
    """Tail of a good walk, A and D bits: 1 done, 2 an entry changed under us."""
    write = access & PFERR_WRITE
    accessed_dirty = w.access & accessed_mask(ctx)
    if not write:
        w.pte_access = protect_clean_gpte(ctx, w.pte_access, w.gpte)
    elif not w.gpte & dirty_mask(ctx):
        accessed_dirty = 0
    if not accessed_dirty and update_accessed_dirty(vm, vcpu, ctx, w, write):
        return 2
    return 1


@core
def walk_once(vm, vcpu, ctx, w, addr, access):
    """One attempt of walk_addr: 1 success, 0 fault, 2 start again."""
    if not begin(vm, vcpu, ctx, w, addr, access):
        return 0
    result = 2
    while result == 2:
        result = step(vm, vcpu, ctx, w, addr, access, gpte_to_gfn(w.gpte))
    if result == 0 or not leaf(vm, vcpu, ctx, w, addr, access):
        return 0
    return finish(vm, vcpu, ctx, w, access)


@core
def walk_addr(vm, vcpu, ctx, w, addr, access):
    """FNAME(walk_addr_generic) of an MMU whose tables lie in L1's memory: True and a filled walker, or False and the
    fault in it.  (Of nested_mmu: nested.walk_addr.)"""
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
    if ctx.id == nested.NESTED_MMU:
        return nested.gva_to_gpa(vm, vcpu, ctx, w, addr, access)
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
    if ctx.id != nested.GUEST_MMU:
        # in guest_mmu it is a gpa
        if is_noncanonical(vm, vcpu, addr):
            return
        flush.tlb_gva(vcpu, addr)
    if ctx.root_role & roles.DIRECT or ctx.id == nested.NESTED_MMU:
        # no sync_spte: nothing is shadowed
        return
    if which & roots.CURRENT:
        invalidate_addr_in_root(vm, vcpu, mmu, addr, ctx.root_hpa)
    for i in range(3):
        if which & roots.previous(i):
            invalidate_addr_in_root(vm, vcpu, mmu, addr, ctx.prev_hpa[i])
