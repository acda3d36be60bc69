# SPDX-License-Identifier: GPL-2.0-or-later
"""While one page is synchronised, another that waits for it is mapped writable.

id:      E5
year:    2010
commits: e02aa901b1aa
cve:     -
rules:   linux-6.1
change:  -
breaks:  write-protection
needs:   -
length:  4

Several unsync pages are brought up to date one after the other. The first may map the guest table behind the second; that one
is still unsync at this moment, so a writable mapping looked harmless. Then the second is synchronised and counts as
protected, with a writable mapping of it in place: the guest changes that table without any fault. (Rules of 6.1: since 6.4 a
sync leaves an entry alone whose gfn and access are unchanged, and the bug would hide.)

Fix: synchronising maps a gfn that has a shadow page read-only, unsync or not.
"""


@replaces("mmu.unsync.try_to_unsync_pages")
def try_to_unsync_pages(vm, slot, gfn, can_unsync, prefetch):
    """mmu_try_to_unsync_pages: 0 if the gfn may be mapped writable, else why not.

    All pages that shadow the gfn, of every role, become unsync together.
    """
    if tracking.gfn_is_write_tracked(vm, slot, gfn):
        return EPERM
    if state.rules(vm).unsync_shortcut and slot >= 0 and tracking.is_nothing_shadowed(vm, slot, gfn):
        return 0
    i = shadow_pages.hash_first(vm, gfn)
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if sp.gfn != gfn or not roles.has_gptes(sp.role) or shadow_pages.is_obsolete(vm, sp):
            continue
        if sp.unsync:
            continue
        if not can_unsync:
            return EPERM
        if prefetch:
            return EEXIST
        if roles.level(sp.role) != 1:
            warn.warn(vm, 6)
        unsync_page(vm, sp)
    return 0
