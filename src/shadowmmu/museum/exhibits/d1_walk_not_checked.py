# SPDX-License-Identifier: GPL-2.0-or-later
"""What the walk saw is not compared again when the table to link is there already.

id:      D1
year:    2008
commits: f7d9c7b7b902
cve:     -
rules:   linux-6.12
change:  -
breaks:  follows
needs:   two vCPUs, interleaving
length:  3

The guest's tables are read without the lock; under it another vCPU may have changed them and built shadow entries
accordingly. The entries of the walk were read again only where a new shadow page had to be made. With a page that existed
already, the old value was installed over the newer one.

Fix: every level is compared, always.
"""


@replaces("mmu.faults.fetch")
def fetch(vm, vcpu, f, w):
    """FNAME(fetch): build the shadow of the walk in `w` down to the leaf."""
    ctx = state.context(vm, vcpu.mmu)
    direct_access = w.pte_access
    top = roles.level(ctx.cpu_role)
    if top == 3:
        top = 2
    if walk.gpte_changed(vm, vcpu, ctx, w, top):
        return RETRY
    if ctx.root_hpa == roots.dummy_root(vm):
        vcpu.requests |= flush.REQ_FREE_OBSOLETE_ROOTS
        return RETRY
    walk.shadow_walk_init(vm, vcpu, f, ctx.root_hpa, f.addr)
    while walk.shadow_walk_okay(vm, f):
        state.page(vm, geometry.sptep_page(vm, f.it_sptep)).write_flooding_count = 0
        if f.it_level == w.level:
            break
        table_gfn = w.table_gfn[f.it_level - 2]
        i = get_child_sp(vm, vcpu, f.it_sptep, table_gfn, False, w.pt_access[f.it_level - 2])
        if i == NOT_A_PAGE:
            return roots.ENO_ROOT
        # linking needs no flush by the guest, so the page must be up to date first (65855ed8b034)
        if i >= 0 and state.page(vm, i).unsync_children:
            if unsync.sync_children(vm, vcpu, i, False):
                return RETRY
        changed = walk.gpte_changed(vm, vcpu, ctx, w, f.it_level - 1)
        if i >= 0 and changed:
            return RETRY
        if i >= 0:
            link_shadow_page(vm, f.it_sptep, state.page(vm, i))
        if f.write and table_gfn == f.gfn:
            f.write_fault_to_shadow_pgtable = 1
        walk.shadow_walk_next(vm, f)
    # only now: a table shadowed above may forbid large pages
    hugepage_adjust(vm, f)
    events.emit(vm, events.SPTE_REQUESTED, f.gfn, f.pfn, f.goal_level, direct_access)
    return map_leaf(vm, vcpu, f, w, direct_access, True)
