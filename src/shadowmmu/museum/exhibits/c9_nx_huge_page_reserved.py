# SPDX-License-Identifier: GPL-2.0-or-later
"""The NX bit of the iTLB-multihit workaround is taken for a reserved bit.

id:      C9
year:    2021
commits: 112022bdb5bc, 3849e0924ef1
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   large host pages
length:  2

Against the iTLB multihit erratum KVM maps large pages without execute permission, also for guests that do not use NX. The
masks for the check of C8 were still made from the guest's EFER.NX for most MMUs, so such an entry looked broken: in a walk
for an MMIO spte, and in the check of every new entry that came in the same series.

Fix: efer_nx is set in the role of every shadow MMU that does not use nested paging, and the masks follow.
"""


@replaces("mmu.sptes.make")
def make(vm, vcpu, sp, slot, access, gfn, pfn, old, prefetch, can_unsync, synchronizing, host_writable):
    """make_spte: the leaf for (gfn, pfn).  A write that had to be refused shows as MMU_WRITABLE clear although
    `access` allows it; the caller compares."""
    level = roles.level(sp.role)
    spte = MMU_PRESENT | PT_PRESENT
    if sp.role & roles.AD_DISABLED:
        spte |= AD_TYPE_DISABLED
    elif not prefetch or (synchronizing and state.rules(vm).accessed_when_synchronizing):
        spte |= PT_ACCESSED
    if level > 1 and access & roles.ACC_EXEC and state.rules(vm).nx_huge_pages:
        access &= ~roles.ACC_EXEC
    if not access & roles.ACC_EXEC:
        spte |= NX
    if access & roles.ACC_USER:
        spte |= PT_USER
    if level > 1:
        if spte & NX and not state.context(vm, vcpu.mmu).cpu_role & roles.EFER_NX_BIT:
            warn.warn(vm, 23)
        spte |= PT_PAGE_SIZE
    if host_writable:
        spte |= HOST_WRITABLE
    else:
        access &= ~roles.ACC_WRITE
    spte |= pfn << FRAME_SHIFT
    if access & roles.ACC_WRITE:
        # A spte that was writable had its gfn unsynced already; protection is then the business of whoever made the
        # shadow page (account_shadowed) or synced it.  Upstream tests bit 1 of whatever stood there.
        was_writable = old & PT_WRITABLE != 0 and (is_last(old, level) or not state.rules(vm).dirty_with_writable)
        if state.rules(vm).strict_old_spte and not is_present(old):
            was_writable = False
        if was_writable or unsync.try_to_unsync_pages(vm, slot, gfn, can_unsync, prefetch) == 0:
            spte |= PT_WRITABLE | MMU_WRITABLE
            # until 6.13 the dirty bit was left to the hardware where the check was skipped
            if not sp.role & roles.AD_DISABLED and (not was_writable or state.rules(vm).dirty_with_writable):
                spte |= PT_DIRTY
    if prefetch and not synchronizing:
        spte = access_tracking.mark_new(spte)
    if spte & PT_WRITABLE and slot >= 0 and memslots.dirty_track_enabled(vm, slot):
        memslots.mark_page_dirty_in_slot(vm, slot, gfn)
    return spte
