# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host does to ranges of gfns in the trees of the TDP MMU (the second half of tdp_mmu.c).

    MMU notifier                  unmap, age, test_age        leaves of all roots, also invalid ones
    dirty log on                  split huge pages; write-protect the slot, or clear D (PML)
    dirty log read                write-protect (or clear D of) the pages of one word of the bitmap
    dirty log off                 replace tables by huge pages where that is possible again
    a shadowed guest page table   write-protect one gfn and keep it so

Every function walks every root of the address space; there is no reverse map to ask.
"""

from .. import state
from ..state import core, layout
from ..x86.bits import FRAME_MASK, FRAME_SHIFT, NX, PT_ACCESSED, PT_DIRTY, PT_PAGE_SIZE, PT_WRITABLE
from . import access_tracking, faults, flush, geometry, roles, sptes, tdp_iter, tdp_mmu

ROOTS = layout.TDP_ROOT_LIST


@core
def is_wanted(sp, as_id, only_valid):
    """The filters of for_each_tdp_mmu_root; as_id -1 means any."""
    return (as_id < 0 or roles.as_id(sp.role) == as_id) and not (only_valid and sp.role & roles.INVALID)


@core
def is_leaf(it):
    return sptes.is_present(it.old_spte) and sptes.is_last(it.old_spte, it.level)


@core
def resched(vm, it, flushing):
    """tdp_iter.cond_resched with a flush that is due: it comes before mmu_lock is given away."""
    if not tdp_iter.cond_resched(vm, it):
        return False
    if flushing:
        flush.remote_tlbs(vm)
    return True


@core
def zap_leafs(vm, as_id, first, end, only_valid):
    """tdp_mmu_zap_leafs over all roots: True when the TLB must be flushed."""
    flushing = False
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, as_id, only_valid):
            tdp_iter.start(vm, it, i, 1, first, min(end, tdp_mmu.max_gfn_exclusive(vm, roles.level(sp.role))))
            while tdp_iter.okay(it):
                if resched(vm, it, flushing):
                    flushing = False
                elif is_leaf(it):
                    tdp_mmu.set_spte(vm, it, state.rules(vm).nonpresent_spte, False)
                    if not sp.role & roles.INVALID:
                        flushing = True
                tdp_iter.advance(vm, it)
        i = sp.next
    return flushing


@core
def age_leaf(vm, it):
    """age_gfn_range: the page is old from now on."""
    old = it.old_spte
    if sptes.ad_enabled(old):
        new = old & ~PT_ACCESSED
    else:
        new = access_tracking.mark(old)
    geometry.write_spte(vm, it.sptep, new)
    tdp_mmu.trace_change(vm, it.as_id, it.gfn, it.level, old, new)


@core
def age_gfn_range(vm, as_id, first, end, test_only):
    """kvm_tdp_mmu_age_gfn_range, kvm_tdp_mmu_test_age_gfn: was a page used?"""
    young = False
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, as_id, False):
            tdp_iter.start(vm, it, i, 1, first, end)
            while tdp_iter.okay(it):
                if is_leaf(it) and access_tracking.is_accessed(it.old_spte):
                    young = True
                    if not test_only:
                        age_leaf(vm, it)
                tdp_iter.advance(vm, it)
        i = sp.next
    return young


@core
def wrprot_slot(vm, slot, min_level):
    """kvm_tdp_mmu_wrprot_slot: no write access; the entries stay MMU-writable."""
    s = state.slot(vm, slot)
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, s.as_id, True):
            tdp_iter.start(vm, it, i, min_level, s.base_gfn, s.base_gfn + s.npages)
            while tdp_iter.okay(it):
                if not tdp_iter.cond_resched(vm, it) and is_leaf(it) and it.old_spte & PT_WRITABLE:
                    tdp_mmu.set_spte(vm, it, it.old_spte & ~PT_WRITABLE, True)
                tdp_iter.advance(vm, it)
        i = sp.next


@core
def need_write_protect(vm, sp):
    """tdp_mmu_need_write_protect: D cannot be used to log this tree's writes."""
    return sp.role & roles.GUEST_MODE != 0 or not state.rules(vm).ad_enabled


@core
def clear_dirty_slot(vm, slot):
    """kvm_tdp_mmu_clear_dirty_slot: the hardware logs a page when it sets D (PML)."""
    s = state.slot(vm, slot)
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, s.as_id, True):
            bit = PT_WRITABLE if need_write_protect(vm, sp) else PT_DIRTY
            tdp_iter.start(vm, it, i, 1, s.base_gfn, s.base_gfn + s.npages)
            while tdp_iter.okay(it):
                if not tdp_iter.cond_resched(vm, it) and is_leaf(it) and it.old_spte & bit:
                    tdp_mmu.set_spte(vm, it, it.old_spte & ~bit, True)
                tdp_iter.advance(vm, it)
        i = sp.next


@core
def clear_dirty_pt_masked(vm, slot, gfn, mask, wrprot):
    """kvm_tdp_mmu_clear_dirty_pt_masked: 4K entries of the gfns in `mask` (bit 0 = gfn, 64 bits)."""
    as_id = state.slot(vm, slot).as_id
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, as_id, True):
            bit = PT_WRITABLE if wrprot or need_write_protect(vm, sp) else PT_DIRTY
            tdp_iter.start(vm, it, i, 1, gfn, gfn + 64)
            while tdp_iter.okay(it):
                old = it.old_spte
                if is_leaf(it) and it.level == 1 and (mask >> (it.gfn - gfn)) & 1 and old & bit:
                    geometry.write_spte(vm, it.sptep, old & ~bit)
                    tdp_mmu.trace_change(vm, it.as_id, it.gfn, 1, old, old & ~bit)
                tdp_iter.advance(vm, it)
        i = sp.next


@core
def write_protect_gfn(vm, slot, gfn, min_level):
    """kvm_tdp_mmu_write_protect_gfn: a guest page table is shadowed there; True when the TLB must be flushed."""
    changed = False
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, state.slot(vm, slot).as_id, True):
            tdp_iter.start(vm, it, i, min_level, gfn, gfn + 1)
            while tdp_iter.okay(it):
                if is_leaf(it):
                    new = it.old_spte & ~(PT_WRITABLE | sptes.MMU_WRITABLE)
                    if new == it.old_spte:
                        break
                    tdp_mmu.set_spte(vm, it, new, False)
                    changed = True
                tdp_iter.advance(vm, it)
        i = sp.next
    return changed


@core
def try_split_huge_pages(vm, slot, target_level):
    """kvm_tdp_mmu_try_split_huge_pages: before dirty logging, so that the first write to a page is not a split."""
    s = state.slot(vm, slot)
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, s.as_id, True):
            tdp_iter.start(vm, it, i, target_level + 1, s.base_gfn, s.base_gfn + s.npages)
            while tdp_iter.okay(it):
                if not tdp_iter.cond_resched(vm, it) and is_leaf(it):
                    child = tdp_mmu.alloc_child_sp(vm, it)
                    if child < 0:
                        return
                    tdp_mmu.split_huge_page(vm, it, child, True)
                tdp_iter.advance(vm, it)
        i = sp.next


@core
def first_leaf(vm, table):
    """Place of the first present leaf below a table, or -1."""
    sp = state.page(vm, table)
    level = roles.level(sp.role)
    first = geometry.first_sptep(vm, table)
    for sptep in range(first, first + geometry.entries(vm)):
        spte = geometry.read_spte(vm, sptep)
        if sptes.is_present(spte):
            if sptes.is_last(spte, level):
                return sptep
            below = geometry.first_sptep(vm, geometry.frame_to_page(vm, geometry.entry_frame(spte)))
            for at in range(below, below + geometry.entries(vm)):
                if sptes.is_present(geometry.read_spte(vm, at)):
                    return at
    return -1


@core
def make_huge_spte(vm, small, level):
    """make_huge_spte."""
    pages = geometry.pages_per_hpage(vm, level)
    frame = geometry.entry_frame(small) & -pages
    huge = small & ~FRAME_MASK | frame << FRAME_SHIFT | PT_PAGE_SIZE
    if state.rules(vm).nx_huge_pages:
        huge |= NX
    return huge


@core
def recover_entry(vm, slot, it):
    """One entry of recover_huge_pages_range (6.13: in place) or zap_collapsible_spte_range (before)."""
    table = geometry.frame_to_page(vm, geometry.entry_frame(it.old_spte))
    if not state.rules(vm).tdp_recovers_in_place:
        # tdp_mmu_zap_spte_atomic flushes before it tells
        flush.remote_tlbs_gfn(vm, it.gfn, it.level)
        tdp_mmu.set_spte(vm, it, state.rules(vm).nonpresent_spte, True)
        return False
    small = first_leaf(vm, table)
    if small < 0:
        return False
    tdp_mmu.set_spte(vm, it, make_huge_spte(vm, geometry.read_spte(vm, small), it.level), True)
    return True


@core
def recover_huge_pages(vm, slot):
    """kvm_tdp_mmu_recover_huge_pages (kvm_tdp_mmu_zap_collapsible_sptes): the slot's dirty log is off."""
    s = state.slot(vm, slot)
    end = s.base_gfn + s.npages
    flushing = False
    it = state.tdp_iter(vm)
    i = vm.list_head[ROOTS]
    while i >= 0:
        sp = state.page(vm, i)
        if is_wanted(sp, s.as_id, True):
            tdp_iter.start(vm, it, i, 2, s.base_gfn, end)
            while tdp_iter.okay(it):
                # an entry that begins outside the slot cannot become large (ef057cbf825e: nor be asked about)
                if resched(vm, it, flushing):
                    flushing = False
                elif it.level <= faults.MAX_HUGEPAGE_LEVEL and sptes.is_present(it.old_spte) and not is_leaf(it) \
                        and s.base_gfn <= it.gfn < end \
                        and faults.max_mapping_level(vm, slot, it.gfn, faults.MAX_HUGEPAGE_LEVEL) >= it.level:
                    if recover_entry(vm, slot, it):
                        flushing = True
                tdp_iter.advance(vm, it)
        i = sp.next
    if flushing:
        flush.remote_tlbs(vm)
