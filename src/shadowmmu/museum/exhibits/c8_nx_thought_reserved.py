# SPDX-License-Identifier: GPL-2.0-or-later
"""The check for reserved bits in shadow entries takes NX for one where the guest has none.

id:      C8
year:    2016
commits: 5f0b819995e1
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   -
length:  3

When a fault says "reserved bit" KVM walks its own tables for an MMIO spte, and on the way it checks that no other entry has
reserved bits. What is reserved was computed from the guest's EFER.NX. After the fix of C7 entries may have NX although the
guest does not: the walk finds them broken and reports an internal error to userspace. In that walk it takes a race (an MMIO
spte that gives way to such an entry between the exit and the walk). Since 2021 the same masks are asked when an entry is made
(3849e0924ef1), and there the exhibit asks.

Fix: NX counts as used whenever shadow entries may have it.
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
    if spte & NX and level == 1 and not state.context(vm, vcpu.mmu).cpu_role & roles.EFER_NX_BIT:
        warn.warn(vm, 23)
    if level > 1:
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
