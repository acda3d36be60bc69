# SPDX-License-Identifier: GPL-2.0-or-later
"""The version that the reviewer wrote into the review of seed 001.

id:      S001.review
year:    2022
commits: -
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -
base:    s001_with_04.py

Recurse or add, and clear the bit afterwards in every case; an early end leaves the bit of the page that was added last,
stale, for the next walk to clear. The condition it states is kept by all callers: everything in the vector is processed even
after an error. With patch 04. No search finds anything.

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
            if sptes.is_present(spte) and not sptes.is_large(spte):
                c = geometry.frame_to_page(vm, geometry.entry_frame(spte))
                child = state.page(vm, c)
                # this branch first: what a function returns must be known before it calls itself (state/native)
                if child.unsync and not child.unsync_children:
                    if pages_add(vm, vector, c, index):
                        return ENOSPC
                    leaves += 1
                elif child.unsync_children:
                    n = walk_below(vm, c, vector)
                    if n < 0:
                        return n
                    leaves += n
            clear_child_bit(vm, sp, index)
    return leaves


@replaces("mmu.unsync.pages_first")
def pages_first(vm, vector):
    """Only leaves are in the vector, behind the page where the walk began."""
    if vector.nr == 0:
        return 0
    return pages_next(vm, vector, 0)


@replaces("mmu.unsync.pages_next")
def pages_next(vm, vector, n):
    """No path to remember."""
    return n + 1
