# SPDX-License-Identifier: GPL-2.0-or-later
"""Direct pages of the same gfn are shared whatever rights they were made for.

id:      C2
year:    2007
commits: d28c6cfbbc5e
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  3

A guest's large page is shadowed by a table without guest counterpart. Two PDEs may name the same frame, one writable and one
not. The key of the page cache did not hold the access rights, so the second PDE was given the table made for the first:
either the guest faults for ever on a write that its tables allow, or a write succeeds that they forbid.

Fix: the access rights of a direct page are part of its role.
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
        if sp.role != role and not (role & roles.DIRECT and (sp.role ^ role) & ~roles.ACCESS == 0):
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
