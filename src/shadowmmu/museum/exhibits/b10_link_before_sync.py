# SPDX-License-Identifier: GPL-2.0-or-later
"""A table with out-of-date descendants is linked as it is.

id:      B10
year:    2021
commits: 65855ed8b034
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  3

A shadow page that was out of use may have unsync pages below it. Linking it is enough to make them visible, and the guest
need not flush: it turned a non-present entry into a present one, and CPUs do not cache entries that are not present. KVM
linked first and synchronised only when a flush came.

Fix: what is below is synchronised before the link is made.
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
        if walk.gpte_changed(vm, vcpu, ctx, w, f.it_level - 1):
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


@replaces("mmu.faults.link_shadow_page")
def link_shadow_page(vm, sptep, sp):
    """__link_shadow_page: whatever stood in the entry is zapped first."""
    spte = geometry.read_spte(vm, sptep)
    if sptes.is_present(spte):
        if state.rules(vm).link_zaps_any:
            zap.zap_pte(vm, state.page(vm, geometry.sptep_page(vm, sptep)), sptep)
        else:
            rmap.drop_spte(vm, sptep)
        flush.remote_tlbs_sptep(vm, sptep)
    geometry.write_spte(vm, sptep, sptes.make_nonleaf(geometry.page_frame(vm, sp.id),
                                                      sp.role & roles.AD_DISABLED))
    add_parent_pte(vm, sp, sptep)
    if sp.unsync_children or sp.unsync:
        unsync.mark_unsync(vm, sptep)
