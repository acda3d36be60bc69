# SPDX-License-Identifier: GPL-2.0-or-later
"""A large page gives way to a table without a flush.

id:      B16
year:    2008
commits: 93a423e7045c
cve:     -
rules:   linux-6.12
change:  -
breaks:  two-sizes
needs:   large host pages
length:  2

A write-protected guest page table inside a large mapping, or dirty logging, makes KVM replace a large entry by a table. The
large translation may be cached, with rights that the smaller ones no longer have.

Fix: overwriting a large entry is followed by a remote flush.
"""


@replaces("mmu.faults.link_shadow_page")
def link_shadow_page(vm, sptep, sp):
    """__link_shadow_page: whatever stood in the entry is zapped first."""
    spte = geometry.read_spte(vm, sptep)
    if sptes.is_present(spte):
        if state.rules(vm).link_zaps_any:
            zap.zap_pte(vm, state.page(vm, geometry.sptep_page(vm, sptep)), sptep)
        else:
            rmap.drop_spte(vm, sptep)
    geometry.write_spte(vm, sptep, sptes.make_nonleaf(geometry.page_frame(vm, sp.id),
                                                      sp.role & roles.AD_DISABLED))
    add_parent_pte(vm, sp, sptep)
    if sp.unsync_children:
        warn.warn(vm, 8)
    if sp.unsync_children or sp.unsync:
        unsync.mark_unsync(vm, sptep)
