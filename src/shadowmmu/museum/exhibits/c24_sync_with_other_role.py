# SPDX-License-Identifier: GPL-2.0-or-later
"""An unsync page is synchronised by an MMU that reads guest tables differently.

id:      C24
year:    2021
commits: ddc16abbbae9
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   -
length:  4

A new upper-level shadow page write-protects its gfn, so level-1 pages of that gfn that are unsync must be brought up to date.
They may belong to another role (system management mode, a nested guest, other control bits); they were reread in the role of
the vCPU that happened to be there, and then counted as being in sync. (Today a check in kvm_sync_page notices; the exhibit
leaves it in.)

Fix: they are zapped.
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
        if sp.role != role:
            if roles.level(role) > 1 and sp.unsync:
                unsync.unlink_unsync_page(vm, sp)
                if unsync.sync_page(vm, vcpu, sp) > 0:
                    flush.remote_tlbs(vm)
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
