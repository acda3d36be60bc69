# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that becomes a page table keeps its writable mappings.

id:      S004.writable
year:    2007
commits: cea0f0e7ea54
cve:     -
rules:   linux-6.12
change:  -
breaks:  write-protection
needs:   -
length:  2

Seed 004 as posted looks whether a gfn is shadowed when it makes an entry for it, and leaves W out then. Entries that are
writable already when the page becomes a page table stay: the guest changes the table without a fault.

Fix: a new shadow page revokes the writable entries of its gfn (later in the same series).
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
