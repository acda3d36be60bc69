# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 001 with a vector that refuses a page when it is full.

id:      S001.refuse
year:    2022
commits: -
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  15

What the reviewer's remark would be about if mmu_pages_add could fail: the bit of the child is cleared, the page is not in the
vector, so it stays unsync where no walk will find it. Needs more unsync pages below one root than the vector holds.

Fix: add always succeeds, or the bit is cleared only after it did.
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


@replaces("mmu.unsync.pages_add")
def pages_add(vm, vector, i, index):
    """True when there is no room; then the page was not added."""
    if state.page(vm, i).unsync:
        for k in range(vector.nr):
            if vector.sp[k] == i:
                return False
    if vector.nr == PAGE_ARRAY_NR:
        return True
    vector.sp[vector.nr] = i
    vector.idx[vector.nr] = index
    vector.nr += 1
    return False


@replaces("mmu.unsync.pages_clear_parents")
def pages_clear_parents(vm, vector):
    """Gone with patch 04 of the series: the walk itself clears."""
    return
