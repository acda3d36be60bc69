# SPDX-License-Identifier: GPL-2.0-or-later
"""The role of 7.2 without `cr4_smep`.

id:      R.cr4_smep
year:    -
commits: -
cve:     -
rules:   linux-7.2
change:  -
breaks:  warning
needs:   -
length:  2

Linux 7.2 has CR4.SMEP itself in the role.

Fix: the bit is compared.
"""


@replaces("mmu.shadow_pages.find")
def find(vm, vcpu, gfn, role):
    """kvm_mmu_find_shadow_page: index, or -1.

    A miss for an upper-level page zaps unsync pages of the gfn: the new page will be write-protected, so none may
    stay unsync (ddc16abbbae9).  A hit that is unsync is reread but stays unsync.
    """
    found = -1
    collisions = 0
    i = hash_first(vm, gfn)
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if is_obsolete(vm, sp):
            continue
        if sp.gfn != gfn:
            collisions += 1
            continue
        if (sp.role ^ role) & ~roles.CR4_SMEP_BIT:
            if roles.level(role) > 1 and sp.unsync:
                zap.prepare_zap_page(vm, sp)
            continue
        if sp.role & roles.DIRECT:
            found = sp.id
            break
        if sp.unsync:
            flags = unsync.sync_page(vm, vcpu, sp)
            if flags < 0:
                break
            if flags > 0:
                flush.remote_tlbs(vm)
        sp.write_flooding_count = 0
        found = sp.id
        break
    if found < 0:
        vm.stat[counters.MMU_CACHE_MISS] += 1
    else:
        vm.stat[counters.MMU_CACHE_HIT] += 1
    zap.commit_zap_page(vm)
    if collisions > vm.stat[counters.MAX_MMU_PAGE_HASH_COLLISIONS]:
        vm.stat[counters.MAX_MMU_PAGE_HASH_COLLISIONS] = collisions
    return found


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
                (not rules.child_role_must_match or (child.role ^ role) & ~roles.CR4_SMEP_BIT == 0):
            return EEXIST
    i = shadow_pages.get(vm, vcpu, gfn, role)
    return i if i >= 0 else NOT_A_PAGE


@replaces("mmu.roots.is_root_usable")
def is_root_usable(vm, hpa, root_pgd, pgd, role):
    """is_root_usable: same pgd (PCID bits included) unless direct, same role."""
    if hpa == INVALID_PAGE:
        return False
    if not role & roles.DIRECT and pgd != root_pgd:
        return False
    i = root_to_sp(vm, hpa)
    if i < 0:
        warn.warn(vm, 4)
        return False
    return (role ^ state.page(vm, i).role) & ~roles.CR4_SMEP_BIT == 0
