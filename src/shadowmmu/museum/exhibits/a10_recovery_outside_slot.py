# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge-page recovery looks up a gfn that lies before its memslot.

id:      A10
year:    2026
commits: ef057cbf825e
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   host
length:  3

When dirty logging ends, KVM asks for every 4K and 2M entry whether a larger page could take its place, by the gfn of the
shadow page that holds it. That page may stand for a 2M guest page which begins before the memslot; its gfn then yields a
negative index into the slot's table of large-page permissions, and the kernel reads memory outside of it.

Fix: the question is asked only if the whole range lies in the slot.
"""


@replaces("mmu.dirty.is_collapsible")
def is_collapsible(vm, sptep, i):
    """kvm_mmu_zap_collapsible_spte: may the table that holds the entry be a large page?"""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    if not sp.role & roles.DIRECT:
        return False
    level = state.rules(vm).max_huge_page_level
    while level > 1 and memslots.disallow_lpage(vm, i, sp.gfn, level):
        level -= 1
    return min(level, host.mapping_level(vm, i, sp.gfn)) > roles.level(sp.role)
