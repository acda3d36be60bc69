# SPDX-License-Identifier: GPL-2.0-or-later
"""sync reads a 4-byte table from its start, whatever quadrant the page shadows."""


@replaces("mmu.faults.sync_spte")
def sync_spte(vm, vcpu, sp, i):
    ctx = state.context(vm, vcpu.mmu)
    size = walk.gpte_size(ctx)
    gpte, ok = walk.read_gpte(vm, vcpu, (sp.gfn << vm.page_shift) + i * size, size)
    if not ok:
        return -1
    sptep = geometry.first_sptep(vm, sp.id) + i
    if prefetch_invalid_gpte(vm, ctx, sptep, gpte):
        return 1
    gfn = walk.gpte_to_gfn(gpte)
    access = walk.protect_clean_gpte(ctx, roles.access(sp.role) & walk.gpte_access(ctx, gpte), gpte)
    if mmio.sync_spte(vm, vcpu, sptep, gfn, access):
        return 0
    if gfn != rmap.page_get_gfn(vm, sp, i):
        rmap.drop_spte(vm, sptep)
        return 1
    if state.rules(vm).sync_skips_same_access and rmap.page_get_access(vm, sp, i) == access:
        return 0
    rmap.page_set_access(vm, sp, i, access)
    old = geometry.read_spte(vm, sptep)
    slot = memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn)
    spte = sptes.make(vm, vcpu, sp, slot, access, gfn, geometry.entry_frame(old), old, True, False, True,
                      old & sptes.HOST_WRITABLE != 0)
    return 1 if sptes.update(vm, sptep, spte) else 0
