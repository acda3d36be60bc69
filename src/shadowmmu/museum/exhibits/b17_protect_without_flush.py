# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries are made read-only and the CPUs that cached them writable are not told.

id:      B17
year:    2007
commits: d9e368d61263
cve:     -
rules:   linux-6.12
change:  -
breaks:  follows
needs:   -
length:  3

When a page turns out to be a page table, its writable mappings are revoked. Without a flush another CPU keeps its writable
translation and changes the table without a fault; the shadow of it stays as it was.

Fix: write protection is followed by a remote flush.
"""


@replaces("mmu.tracking.account_shadowed")
def account_shadowed(vm, sp):
    """account_shadowed: a new page shadows the guest table at sp.gfn."""
    gfn = sp.gfn
    vm.indirect_shadow_pages += 1
    i = memslots.role_gfn_to_memslot(vm, sp.role, gfn)
    if i < 0:
        warn.warn(vm, 17)
        return
    update_disallow_lpage(vm, i, gfn, 1)
    if roles.level(sp.role) > 1:
        # __kvm_write_track_add_gfn
        memslots.gfn_meta(vm, i, gfn).write_track += 1
    rmap.slot_gfn_write_protect(vm, i, gfn, 1)
    if state.rules(vm).protect_all_address_spaces:
        other = memslots.gfn_to_memslot(vm, 1 - state.slot(vm, i).as_id, gfn)
        if other >= 0 and rmap.slot_gfn_write_protect(vm, other, gfn, 1):
            flush.remote_tlbs_gfn(vm, gfn, 1)
