# SPDX-License-Identifier: GPL-2.0-or-later
"""Prefetch takes the entry's access without ANDing that of the tables above."""


@replaces("mmu.faults.prefetch_gpte")
def prefetch_gpte(vm, vcpu, sp, sptep, gpte, no_dirty_log):
    ctx = state.context(vm, vcpu.mmu)
    if prefetch_invalid_gpte(vm, ctx, sptep, gpte):
        return False
    gfn = walk.gpte_to_gfn(gpte)
    access = walk.protect_clean_gpte(ctx, walk.gpte_access(ctx, gpte), gpte)
    slot = memslots.gfn_to_memslot_dirty_bitmap(vm, vcpu, gfn, no_dirty_log and access & roles.ACC_WRITE)
    if slot < 0:
        return False
    pfn = host.gfn_to_pfn_atomic(vm, slot, gfn)
    if pfn < 0:
        return False
    set_spte(vm, vcpu, slot, sptep, access, gfn, pfn, True, True, False)
    return True
