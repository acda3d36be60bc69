# SPDX-License-Identifier: GPL-2.0-or-later
"""A read-only direct table stays linked when the guest's large page becomes dirty.

id:      C3
year:    2010
commits: 9e7b0e7fba45
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  5

A clean large page is mapped by a direct table without write access, so that the first write faults and sets the dirty bit.
After that fault the entry should lead to another table, one with write access. The old one stayed linked and got writable
entries; another PDE of the same page that is shadowed by the same table may now write, although its own dirty bit is clear.

Fix: a linked direct table whose access differs is unlinked (today the comparison of roles would see to that, too; both are
left out here).
"""


@replaces("mmu.faults.validate_direct_spte")
def validate_direct_spte(vm, sptep, direct_access):
    """Before 9e7b0e7fba45: what is linked is good."""
    return


@replaces("mmu.faults.get_child_sp")
def get_child_sp(vm, vcpu, sptep, gfn, direct, access):
    """kvm_mmu_get_child_sp: index of the table to link, EEXIST if the right one is linked, NOT_A_PAGE out of room.

    "The right one" was any table at all until 2026: a stale one for another gfn (CVE-2026-46113) or with another role
    (CVE-2026-53359) was taken for it.
    """
    spte = geometry.read_spte(vm, sptep)
    parent = state.page(vm, geometry.sptep_page(vm, sptep))
    role = roles.child(parent.role, direct, access, geometry.sptep_index(vm, sptep))
    if sptes.is_present(spte) and not sptes.is_large(spte):
        rules = state.rules(vm)
        child = state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(spte)))
        if (not rules.child_gfn_must_match or child.gfn == gfn) and \
                (not rules.child_role_must_match or child.role == role
                                                       or direct and (child.role ^ role) & ~roles.ACCESS == 0):
            return EEXIST
    i = shadow_pages.get(vm, vcpu, gfn, role)
    return i if i >= 0 else NOT_A_PAGE
