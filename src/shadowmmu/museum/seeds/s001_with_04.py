# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 001 with its companion patch 04.

id:      S001.with04
year:    2022
commits: -
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -

Patches 04 and 05 together. "This ordering is wrong, no?" was the reviewer's question about clearing the bit before the page
is added to the vector. It is not: mmu_pages_add never refuses, its "true" means that the vector is full now, and callers must
process all that is in it even when the walk ends early. No search finds anything.

Fix: none needed.
"""


@replaces("mmu.unsync.walk_below")
def walk_below(vm, i, vector):
    """__mmu_unsync_walk: gather below page `i`; number of leaves, or ENOSPC when the vector is full.

    Bits found to be stale (entry gone, child in order) are cleared on the way.
    """
    sp = state.page(vm, i)
    leaves = 0
    first = geometry.first_sptep(vm, i)
    words = (geometry.entries(vm) + 31) >> 5
    for w in range(words):
        if not sp.unsync_child_bitmap[w]:
            continue
        for b in range(32):
            index = (w << 5) + b
            if not (sp.unsync_child_bitmap[w] >> b) & 1:
                continue
            spte = geometry.read_spte(vm, first + index)
            if not sptes.is_present(spte) or sptes.is_large(spte):
                clear_child_bit(vm, sp, index)
                continue
            c = geometry.frame_to_page(vm, geometry.entry_frame(spte))
            child = state.page(vm, c)
            if child.unsync_children:
                if pages_add(vm, vector, c, index):
                    return ENOSPC
                n = walk_below(vm, c, vector)
                if n < 0:
                    return n
                leaves += n
            clear_child_bit(vm, sp, index)
            if child.unsync:
                leaves += 1
                if pages_add(vm, vector, c, index):
                    return ENOSPC
    return leaves


@replaces("mmu.unsync.pages_clear_parents")
def pages_clear_parents(vm, vector):
    """Gone with patch 04 of the series: the walk itself clears."""
    return
