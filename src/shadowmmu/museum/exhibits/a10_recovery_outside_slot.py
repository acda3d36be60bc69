# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge-page recovery looks up a gfn that lies before its memslot.

id:      A10
year:    2026
commits: ef057cbf825e
cve:     -
rules:   linux-6.12
change:  -
breaks:  -
needs:   host
length:  -

When dirty logging ends, KVM asks for every 4K entry whether a large page could take its place, by the gfn of the shadow page
that holds it. That page may stand for a 2M guest page which begins before the memslot; its gfn then yields a negative index
into the slot's table of large-page permissions, and the kernel reads memory outside of it.

Fix: the question is asked only if the whole range lies in the slot.
"""


@replaces("mmu.dirty.head_collapsible")
def head_collapsible(vm, sptep, i, gfn):
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    if not sp.role & (1 << 7):
        return -1
    level = state.rules(vm).max_huge_page_level
    while level > 1 and memslots.disallow_lpage(vm, i, sp.gfn, level):
        level -= 1
    if min(level, host.mapping_level(vm, i, sp.gfn)) > 1:
        return sptep
    return -1
