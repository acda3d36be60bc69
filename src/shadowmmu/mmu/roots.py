# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots: the tables that hardware CR3 points to, their counts, and the cache of the last three.

    mmu.root {pgd, hpa}      current          MOV CR3 to a cached pgd: no allocation, no TLB flush of the others
    mmu.prev_roots[0..2]     MRU .. LRU       on a miss the current root moves to prev[0], the LRU is freed

A root with a shadow page is counted (root_count) per reference.  "Special" roots (pae_root and the tables above it)
have no shadow page; they are never cached, and their four PDPTEs are counted instead.
Merged forms of seeds 000 (5499ea73e7db) and 003 (71fe70130d88).
"""

from .. import state
from ..state import core, layout
from ..x86.bits import (
    CR3_PCID_MASK,
    CR4_PCIDE,
    FRAME_MASK,
    FRAME_SHIFT,
    PT_ACCESSED,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from . import (
    counters,
    flush,
    geometry,
    memslots,
    mmio,
    nested,
    reclaim,
    roles,
    shadow_pages,
    tdp_mmu,
    unsync,
    warn,
    zap,
)

INVALID_PAGE = -1
NUM_PREV_ROOTS = layout.NUM_PREV_ROOTS
CURRENT = 1
ALL = (1 << (NUM_PREV_ROOTS + 1)) - 1
OK, ENOSPC, ENO_ROOT = 0, -28, -14


@core
def previous(i):
    """KVM_MMU_ROOT_PREVIOUS(i)."""
    return 2 << i


@core
def dummy_root(vm):
    """kvm_mmu_get_dummy_root: a table in which nothing is present, frame 0 of the special frames."""
    return vm.shadow_pfn << FRAME_SHIFT


@core
def root_to_sp(vm, hpa):
    """Index of the shadow page of a root, or -1 for special and dummy roots."""
    return geometry.frame_to_page(vm, geometry.entry_frame(hpa))


@core
def read_pae_root(vm, ctx, i):
    return geometry.read_spte(vm, geometry.frame_sptep(vm, ctx.pae_root) + i)


@core
def write_pae_root(vm, ctx, i, value):
    geometry.write_spte(vm, geometry.frame_sptep(vm, ctx.pae_root) + i, value)


@core
def put_root(vm, hpa):
    """mmu_free_root_page: one reference less; a valid page stays in the cache, an invalid one is zapped."""
    i = root_to_sp(vm, hpa)
    if i < 0:
        warn.warn(vm, 5)
        return
    sp = state.page(vm, i)
    if sp.tdp_mmu_page:
        tdp_mmu.put_root(vm, sp)
        return
    sp.root_count -= 1
    if sp.root_count < 0:
        warn.warn(vm, 24)
    if sp.root_count == 0 and sp.role & roles.INVALID:
        zap.prepare_zap_page(vm, sp)


@core
def lock_fits(vm, ctx, hpa):
    """mmu_free_root_page's assertion: kvm_mmu_free_roots decides by the MMU's role how it takes mmu_lock, the root's page says
    how it must be held."""
    i = root_to_sp(vm, hpa)
    shared = state.rules(vm).tdp_mmu_enabled and ctx.root_role & roles.DIRECT
    if i >= 0 and (state.page(vm, i).tdp_mmu_page != 0) != (shared != 0):
        warn.warn(vm, 45)


@core
def free_roots(vm, ctx, which):
    """kvm_mmu_free_roots for the mask `which`."""
    free_current = which & CURRENT and ctx.root_hpa != INVALID_PAGE
    for i in range(NUM_PREV_ROOTS):
        if which & previous(i) and ctx.prev_hpa[i] != INVALID_PAGE:
            if state.rules(vm).roots_freed_shared:
                lock_fits(vm, ctx, ctx.prev_hpa[i])
            put_root(vm, ctx.prev_hpa[i])
            ctx.prev_hpa[i] = INVALID_PAGE
    if free_current:
        if ctx.root_hpa == dummy_root(vm):
            pass
        elif root_to_sp(vm, ctx.root_hpa) >= 0:
            if state.rules(vm).roots_freed_shared:
                lock_fits(vm, ctx, ctx.root_hpa)
            put_root(vm, ctx.root_hpa)
        elif ctx.pae_root:
            for i in range(4):
                entry = read_pae_root(vm, ctx, i)
                if entry & PT_PRESENT:
                    put_root(vm, entry & FRAME_MASK)
                    write_pae_root(vm, ctx, i, 0)
        ctx.root_hpa = INVALID_PAGE
        ctx.root_pgd = 0
    zap.commit_zap_page(vm)


@core
def is_root_usable(vm, hpa, root_pgd, pgd, role):
    """is_root_usable: same pgd (PCID bits included) unless direct, same role."""
    if hpa == INVALID_PAGE:
        return False
    if not role & roles.DIRECT and pgd != root_pgd:
        return False
    i = root_to_sp(vm, hpa)
    if i < 0:
        warn.warn(vm, 4)
        return False
    return not roles.differ(vm, role, state.page(vm, i).role)


@core
def swap_root(ctx, i):
    """Exchange the current root with previous root `i`."""
    hpa = ctx.root_hpa
    pgd = ctx.root_pgd
    ctx.root_hpa = ctx.prev_hpa[i]
    ctx.root_pgd = ctx.prev_pgd[i]
    ctx.prev_hpa[i] = hpa
    ctx.prev_pgd[i] = pgd


@core
def cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role):
    """cached_root_find_and_keep_current: the swaps rotate the cache; the old current root becomes the MRU.

        C   0 1 2     on entry
        0   C 1 2
        1   C 0 2
        2   C 0 1     the entry that falls out at the end is the LRU
    """
    if is_root_usable(vm, ctx.root_hpa, ctx.root_pgd, new_pgd, new_role):
        return True
    for i in range(NUM_PREV_ROOTS):
        swap_root(ctx, i)
        if is_root_usable(vm, ctx.root_hpa, ctx.root_pgd, new_pgd, new_role):
            return True
    free_roots(vm, ctx, CURRENT)
    return False


@core
def cached_root_find_without_current(vm, ctx, new_pgd, new_role):
    """cached_root_find_without_current: on entry the current root is invalid; a hit closes its gap in the cache."""
    for i in range(NUM_PREV_ROOTS):
        if is_root_usable(vm, ctx.prev_hpa[i], ctx.prev_pgd[i], new_pgd, new_role):
            swap_root(ctx, i)
            for k in range(i, NUM_PREV_ROOTS - 1):
                ctx.prev_hpa[k] = ctx.prev_hpa[k + 1]
                ctx.prev_pgd[k] = ctx.prev_pgd[k + 1]
            ctx.prev_hpa[NUM_PREV_ROOTS - 1] = INVALID_PAGE
            return True
    return False


@core
def fast_pgd_switch(vm, ctx, new_pgd, new_role):
    """fast_pgd_switch: a special or dummy current root is dropped first, so that it is never cached."""
    if ctx.root_hpa != INVALID_PAGE and root_to_sp(vm, ctx.root_hpa) < 0:
        free_roots(vm, ctx, CURRENT)
    if ctx.root_hpa != INVALID_PAGE:
        return cached_root_find_and_keep_current(vm, ctx, new_pgd, new_role)
    return cached_root_find_without_current(vm, ctx, new_pgd, new_role)


@core
def new_pgd(vm, vcpu, pgd):
    """kvm_mmu_new_pgd."""
    ctx = state.context(vm, vcpu.mmu)
    role = ctx.root_role
    if not fast_pgd_switch(vm, ctx, pgd, role):
        vm.stat[counters.ROOT_MISS] += 1
        return
    vm.stat[counters.ROOT_HIT] += 1
    vcpu.requests |= flush.REQ_LOAD_MMU_PGD
    if state.rules(vm).flush_on_reuse:
        vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    if not role & roles.DIRECT:
        i = root_to_sp(vm, ctx.root_hpa)
        if i >= 0:
            state.page(vm, i).write_flooding_count = 0


@core
def alloc_root(vm, vcpu, ctx, gfn, quadrant, level):
    """mmu_alloc_root: hpa of the root table, or INVALID_PAGE when out of capacity."""
    role = ctx.root_role & ~(roles.LEVEL | roles.QUADRANT) | level | quadrant << roles.QUADRANT_SHIFT
    i = shadow_pages.get(vm, vcpu, gfn, role)
    if i < 0:
        return INVALID_PAGE
    state.page(vm, i).root_count += 1
    return geometry.page_frame(vm, i) << FRAME_SHIFT


@core
def alloc_direct_roots(vm, vcpu, ctx):
    """mmu_alloc_direct_roots: a nested page table, or for a guest without paging four PAE directories of 1G each."""
    if state.rules(vm).tdp_mmu_enabled:
        return tdp_mmu.alloc_root(vm, ctx)
    if not reclaim.make_pages_available(vm):
        return ENOSPC
    level = roles.level(ctx.root_role)
    if level >= 4:
        root = alloc_root(vm, vcpu, ctx, 0, 0, level)
        if root == INVALID_PAGE:
            return ENO_ROOT
        ctx.root_hpa = root
    else:
        for i in range(4):
            root = alloc_root(vm, vcpu, ctx, i << (2 * vm.level_bits), 0, 2)
            if root == INVALID_PAGE:
                return ENO_ROOT
            write_pae_root(vm, ctx, i, root | PT_PRESENT)
        ctx.root_hpa = ctx.pae_root << FRAME_SHIFT
    ctx.root_pgd = 0
    return OK


@core
def is_visible_gfn(vm, vcpu, gfn):
    """kvm_vcpu_is_visible_gfn."""
    return memslots.is_visible(vm, memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn))


@core
def alloc_shadow_roots(vm, vcpu, ctx):
    """mmu_alloc_shadow_roots."""
    pgd = nested.guest_pgd(vcpu, ctx)
    gfn = geometry.entry_frame(pgd)
    level = roles.level(ctx.cpu_role)
    if not is_visible_gfn(vm, vcpu, gfn) and not (level == 3 and state.rules(vm).pae_root_unseen):
        if state.rules(vm).dummy_root:
            ctx.root_hpa = dummy_root(vm)
            return OK
        vcpu.requests |= flush.REQ_TRIPLE_FAULT
        return ENO_ROOT
    absent = 0
    if level == 3:
        # before the lock is taken: all four are checked before any root is made
        for i in range(4):
            pdptr = nested.pdptr(vm, vcpu, ctx, i)
            if not pdptr & PT_PRESENT:
                absent |= 1 << i
            elif not is_visible_gfn(vm, vcpu, geometry.entry_frame(pdptr)):
                if not state.rules(vm).dummy_root:
                    vcpu.requests |= flush.REQ_TRIPLE_FAULT
                    return ENO_ROOT
                absent |= 1 << i
    if not reclaim.make_pages_available(vm):
        return ENOSPC
    if level >= 4:
        root = alloc_root(vm, vcpu, ctx, gfn, 0, roles.level(ctx.root_role))
        if root == INVALID_PAGE:
            return ENO_ROOT
        ctx.root_hpa = root
        ctx.root_pgd = pgd
        return OK
    root_level = roles.level(ctx.root_role)
    # PDPTEs have no permission bits; entries of a 64-bit table above must permit everything
    bits = PT_PRESENT if root_level < 4 else PT_PRESENT | PT_WRITABLE | PT_USER | PT_ACCESSED
    ctx.special = 1
    for i in range(4):
        if absent >> i & 1:
            write_pae_root(vm, ctx, i, 0)
            continue
        if level == 3:
            gfn = geometry.entry_frame(nested.pdptr(vm, vcpu, ctx, i))
        # 32-bit: each PAE directory shadows a quarter of the guest's page directory
        root = alloc_root(vm, vcpu, ctx, gfn, i if level == 2 else 0, 2)
        if root == INVALID_PAGE:
            return ENO_ROOT
        write_pae_root(vm, ctx, i, root | bits)
    ctx.root_hpa = special_tables(vm, ctx, root_level, bits) << FRAME_SHIFT
    ctx.root_pgd = pgd
    return OK


@core
def special_tables(vm, ctx, root_level, bits):
    """Frame of the root over pae_root: itself, or the 64-bit tables that lead to it when L1's 32-bit NPT is shadowed
    (04d45551a1ee, 12ec33a70574)."""
    if root_level < 4:
        return ctx.pae_root
    geometry.write_spte(vm, geometry.frame_sptep(vm, ctx.pml4_root), ctx.pae_root << FRAME_SHIFT | bits)
    if root_level == 4:
        return ctx.pml4_root
    geometry.write_spte(vm, geometry.frame_sptep(vm, ctx.pml5_root), ctx.pml4_root << FRAME_SHIFT | bits)
    return ctx.pml5_root


@core
def is_unsync_root(vm, hpa):
    """is_unsync_root."""
    if hpa == INVALID_PAGE or hpa == dummy_root(vm):
        return False
    i = root_to_sp(vm, hpa)
    if i < 0:
        return False
    sp = state.page(vm, i)
    return sp.unsync != 0 or sp.unsync_children != 0


@core
def sync_roots(vm, vcpu):
    """kvm_mmu_sync_roots: everything reachable from the current root."""
    ctx = state.context(vm, vcpu.mmu)
    if ctx.root_role & roles.DIRECT or ctx.root_hpa == INVALID_PAGE:
        return
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    if roles.level(ctx.cpu_role) >= 4:
        if is_unsync_root(vm, ctx.root_hpa):
            unsync.sync_children(vm, vcpu, root_to_sp(vm, ctx.root_hpa), True)
        return
    for i in range(4):
        entry = read_pae_root(vm, ctx, i)
        if entry & PT_PRESENT:
            unsync.sync_children(vm, vcpu, root_to_sp(vm, entry), True)


@core
def sync_prev_roots(vm, vcpu):
    """kvm_mmu_sync_prev_roots: unsync previous roots are simply freed."""
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    for i in range(NUM_PREV_ROOTS):
        if is_unsync_root(vm, ctx.prev_hpa[i]):
            which |= previous(i)
    free_roots(vm, ctx, which)


@core
def active_pcid(vcpu):
    """kvm_get_active_pcid."""
    return get_pcid(vcpu, vcpu.cr3)


@core
def get_pcid(vcpu, pgd):
    """kvm_get_pcid."""
    return pgd & CR3_PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0


@core
def load_pgd(vm, vcpu):
    """kvm_mmu_load_pgd, svm_load_mmu_pgd: what hardware CR3 will be (64-bit tables carry the guest's PCID)."""
    ctx = state.context(vm, vcpu.mmu)
    if ctx.root_hpa == INVALID_PAGE:
        return
    vcpu.hw_root = ctx.root_hpa
    if state.rules(vm).tdp_enabled:
        # nested CR3; hardware CR3 is the guest's own business
        return
    if roles.level(ctx.root_role) >= 4:
        vcpu.hw_root |= active_pcid(vcpu)


@core
def load(vm, vcpu):
    """kvm_mmu_load."""
    ctx = state.context(vm, vcpu.mmu)
    result = OK
    if ctx.root_role & roles.DIRECT:
        result = alloc_direct_roots(vm, vcpu, ctx)
    else:
        result = alloc_shadow_roots(vm, vcpu, ctx)
    if result != OK:
        return result
    sync_roots(vm, vcpu)
    load_pgd(vm, vcpu)
    # the root's past is unknown
    flush.tlb_hardware(vcpu)
    return OK


@core
def is_obsolete_root(vm, hpa):
    """is_obsolete_root: roots without a shadow page cannot be judged and count as obsolete."""
    if hpa == INVALID_PAGE:
        return False
    i = root_to_sp(vm, hpa)
    return i < 0 or shadow_pages.is_obsolete(vm, state.page(vm, i))


@core
def free_obsolete_of(vm, ctx):
    which = 0
    if is_obsolete_root(vm, ctx.root_hpa):
        which |= CURRENT
    for i in range(NUM_PREV_ROOTS):
        if is_obsolete_root(vm, ctx.prev_hpa[i]):
            which |= previous(i)
    if which:
        free_roots(vm, ctx, which)


@core
def free_obsolete_roots(vm, vcpu):
    """kvm_mmu_free_obsolete_roots."""
    base = vcpu.id * 3
    free_obsolete_of(vm, state.context(vm, base))
    free_obsolete_of(vm, state.context(vm, base + 1))


@core
def reload(vm, vcpu):
    """kvm_mmu_reload."""
    if state.rules(vm).reload_frees_obsolete and vcpu.requests & flush.REQ_FREE_OBSOLETE_ROOTS:
        vcpu.requests &= ~flush.REQ_FREE_OBSOLETE_ROOTS
        free_obsolete_roots(vm, vcpu)
    if state.context(vm, vcpu.mmu).root_hpa != INVALID_PAGE:
        return OK
    return load(vm, vcpu)
