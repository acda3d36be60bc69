# SPDX-License-Identifier: GPL-2.0-or-later
"""A reserved-bit fault of an MMIO spte is handled as a fast page fault.

id:      D10
year:    2013
commits: 1c118b8226
cve:     -
rules:   linux-6.12
change:  -
breaks:  livelock
needs:   no guest paging, host
length:  3

The fast path repairs entries that are write-protected for the dirty log only. It looked at the present bit alone, and an MMIO
spte has that bit; with write permission noted in it, the fault was declared spurious. If the mark was of an old generation
the slow path that would renew it was never reached, and the guest faulted for ever.

Fix: faults with the reserved bit in the error code are not for the fast path.
"""


@replaces("mmu.faults.fast_page_fault")
def fast_page_fault(vm, vcpu, f):
    """fast_page_fault (direct MMUs only): a write to an entry that is only write-protected for the dirty log, or the use
    of one that only looks absent because it is old, is fixed without the lock.  INVALID: take the slow path."""
    if not (f.write if f.present else not state.rules(vm).ad_enabled):
        # page_fault_can_be_fast
        return INVALID
    it = state.fault(vm, vcpu.id * 2 + 1)
    walk.shadow_walk_init(vm, vcpu, it, state.context(vm, vcpu.mmu).root_hpa, f.addr)
    sptep = -1
    while walk.shadow_walk_okay(vm, it):
        sptep = it.it_sptep
        walk.shadow_walk_next(vm, it)
    result = INVALID
    spte = geometry.read_spte(vm, sptep) if sptep >= 0 else 0
    old = spte
    if sptep >= 0 and spte & PT_PRESENT:
        sp = state.page(vm, geometry.sptep_page(vm, sptep))
        level = roles.level(sp.role)
        if sptes.is_last(spte, level):
            if is_access_allowed(f, spte):
                result = SPURIOUS
            else:
                new = access_tracking.restore(spte) if access_tracking.is_tracked(spte) else spte
                protected = f.write and sptes.is_mmu_writable(spte)
                if protected:
                    new |= PT_WRITABLE
                # a huge page of a dirty log must be split, not made writable
                large = level > 1 and f.slot >= 0 and memslots.dirty_track_enabled(vm, f.slot)
                if not (protected and large) and new != spte and is_access_allowed(f, new):
                    # fast_pf_fix_direct_spte
                    geometry.write_spte(vm, sptep, new)
                    if new & PT_WRITABLE and not spte & PT_WRITABLE:
                        memslots.mark_page_dirty_in_slot(vm, f.slot, f.gfn)
                    result = FIXED
    events.emit(vm, events.FAST_PAGE_FAULT, vcpu.id, f.addr, f.error_code, sptep, old,
                geometry.read_spte(vm, sptep) if sptep >= 0 else 0, 1 if result == SPURIOUS else 0,
                1 if result == FIXED else 0)
    if result != INVALID:
        vcpu.stat[counters.PF_FAST] += 1
    return result
