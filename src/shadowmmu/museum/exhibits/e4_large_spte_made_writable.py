# SPDX-License-Identifier: GPL-2.0-or-later
"""The fast path makes a large entry writable that is read-only for the dirty log.

id:      E4
year:    2013
commits: 6b73a96065e8, c126d94f2c90
cve:     -
rules:   linux-6.12
change:  -
breaks:  leaf-sptes
needs:   no guest paging, large host pages, host
length:  3

Dirty logging wants to know each 4K page, so large entries are write-protected and split at the next write. The fast path
found an entry that is only protected for the dirty log, made it writable, and logged the one page that was touched; writes to
the others go unnoticed, and a migrated guest loses them.

Fix: large entries in a memslot with a dirty log are not repaired by the fast path.
"""


@replaces("mmu.faults.fast_page_fault")
def fast_page_fault(vm, vcpu, f):
    """fast_page_fault (direct MMUs only): a write to an entry that is only write-protected for the dirty log, or the use
    of one that only looks absent because it is old, is fixed without the lock.  INVALID: take the slow path."""
    if f.rsvd:
        return INVALID
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
    if sptep >= 0 and sptes.is_present(spte):
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
                if new != spte and is_access_allowed(f, new):
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
