# SPDX-License-Identifier: GPL-2.0-or-later
"""What a shadow PTE looks like, and how one is made, changed and cleared.

     63  62      52 51                12  11        10          9           8..5      4..0
    | NX | mmio gen | frame, MMIO mark  | MMU-     | MMU-      | host-     | G PS D A | PCD PWT U W P |
                                          present    writable    writable

    W set        => host-writable and MMU-writable set
    MMU-writable => the MMU itself does not need the entry read-only (write tracking, sync page tables)
An MMIO spte is not MMU-present: P set, bit 51 set (reserved by MAXPHYADDR), so hardware faults with PFEC P|RSVD.
"""

from .. import state
from ..state import core
from ..x86.bits import (
    FRAME_MASK,
    FRAME_SHIFT,
    NX,
    PT_ACCESSED,
    PT_DIRTY,
    PT_PAGE_SIZE,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from . import access_tracking, geometry, memslots, rmap, roles, unsync, warn

HOST_WRITABLE, MMU_WRITABLE, MMU_PRESENT = 1 << 9, 1 << 10, 1 << 11
#: SPTE_TDP_AD_*: bits 52-53 of a present spte.
AD_TYPE = 3 << 52
AD_TYPE_DISABLED = 1 << 52
#: shadow_mmio_value without memory encryption, MAXPHYADDR below 52.
MMIO_VALUE = 1 << 51 | PT_PRESENT
MMIO_MASK = 1 << 51 | PT_PRESENT


@core
def is_present(spte):
    """is_shadow_present_pte."""
    return spte & MMU_PRESENT != 0


@core
def is_large(spte):
    return spte & PT_PAGE_SIZE != 0


@core
def is_last(spte, level):
    """is_last_spte."""
    return level == 1 or spte & PT_PAGE_SIZE != 0


@core
def is_mmio(spte):
    """is_mmio_spte."""
    return spte & MMIO_MASK == MMIO_VALUE and not spte & MMU_PRESENT


@core
def is_mmu_writable(spte):
    return spte & MMU_WRITABLE != 0


@core
def ad_enabled(spte):
    """spte_ad_enabled."""
    return spte & AD_TYPE != AD_TYPE_DISABLED


@core
def clear_track_bits(vm, sptep):
    """mmu_spte_clear_track_bits: a leaf becomes non-present; returns what it was."""
    old = geometry.read_spte(vm, sptep)
    geometry.write_spte(vm, sptep, state.rules(vm).nonpresent_spte)
    if not is_present(old):
        return old
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    rmap.update_page_stats(vm, roles.level(sp.role), -1)
    return old


@core
def clear_no_track(vm, sptep):
    """mmu_spte_clear_no_track."""
    geometry.write_spte(vm, sptep, state.rules(vm).nonpresent_spte)


@core
def update(vm, sptep, new):
    """mmu_spte_update: change bits of a present spte; True when the TLB must be flushed.

    A writable entry that becomes read-only must be flushed even if it was already read-only in the table but
    MMU-writable: a CPU may hold the older, writable one (f81602958c11).
    """
    old = geometry.read_spte(vm, sptep)
    geometry.write_spte(vm, sptep, new)
    if not is_present(old):
        return False
    if (old ^ new) & FRAME_MASK:
        warn.warn(vm, 20)
    if is_mmu_writable(old) and not (is_mmu_writable(new) if state.rules(vm).flush_only_mmu_writable
                                     else new & PT_WRITABLE):
        return True
    if state.rules(vm).flush_only_mmu_writable:
        return False
    if old & PT_ACCESSED and not new & PT_ACCESSED:
        return True
    return old & PT_DIRTY != 0 and not new & PT_DIRTY


@core
def make_nonleaf(child_pfn, ad_disabled):
    """make_nonleaf_spte."""
    spte = child_pfn << FRAME_SHIFT | MMU_PRESENT | PT_PRESENT | PT_WRITABLE | PT_USER
    if ad_disabled:
        return spte | AD_TYPE_DISABLED
    return spte | PT_ACCESSED


@core
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
