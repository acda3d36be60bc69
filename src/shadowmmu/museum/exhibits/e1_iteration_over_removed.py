# SPDX-License-Identifier: GPL-2.0-or-later
"""Write protection drops large entries while it walks the list of them.

id:      E1
year:    2008
commits: 6597ca09e6c0
cve:     -
rules:   linux-6.12
change:  -
breaks:  write-protection
needs:   large host pages
length:  4

In 2008 a large entry was not made read-only when its page became a page table; it was dropped. The walk over the reverse map
went on from an entry that was no longer in the list, came to no next one, and left the other mappings of the page writable.

Fix: the walk starts again after a removal (today nothing is removed: entries of all sizes are made read-only).
"""


@replaces("mmu.rmap.write_protect")
def write_protect(vm, head, pt_protect):
    """As in 2008: a large entry goes, and the iteration with it."""
    flushed = False
    if head == 0:
        return False
    sptep = pte_list.first(vm, head)
    if pt_protect and roles.level(state.page(vm, geometry.sptep_page(vm, sptep)).role) > 1:
        drop_spte(vm, sptep)
        return True
    if not head & 1:
        return spte_write_protect(vm, (head >> 1) - 1, pt_protect)
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        for k in range(desc.spte_count):
            if spte_write_protect(vm, desc.sptes[k], pt_protect):
                flushed = True
        d = desc.more
    return flushed
