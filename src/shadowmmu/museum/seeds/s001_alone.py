# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 001 without its companion: the walk clears the bits, and the callers clear them once more.

id:      S001.alone
year:    2022
commits: -
cve:     -
rules:   linux-6.12
change:  -
breaks:  warning
needs:   -
length:  2

Patch 05 of Lai's series as posted, on a tree without patch 04: __mmu_unsync_walk clears the bit of a child when the child is
put into the vector, and mmu_pages_clear_parents, which the callers still run, clears it again. unsync_children goes below
zero, and a parent whose count reaches zero too early hides other unsync pages from the next flush. An illumos port of KVM hit
a count of -1 in 2013 and panicked (row E11).

Fix: patch 04 first, which takes mmu_pages_clear_parents away.
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
