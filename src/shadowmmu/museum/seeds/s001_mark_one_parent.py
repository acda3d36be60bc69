# SPDX-License-Identifier: GPL-2.0-or-later
"""Only one parent of a page that becomes unsync is told.

id:      S001.parents
year:    2009
commits: -
cve:     -
rules:   linux-6.12
change:  -
breaks:  unsync-bits
needs:   -
length:  2

A mutant: a page table that two directories share has two parents; the bitmap of the second stays empty, and a flush of a root
that reaches the table only through it does not reread the table.

Fix: every parent is marked.
"""


@replaces("mmu.unsync.mark_parents_unsync")
def mark_parents_unsync(vm, sp):
    """kvm_mmu_mark_parents_unsync."""
    head = sp.parent_ptes
    if head == 0:
        return
    if not head & 1:
        mark_unsync(vm, (head >> 1) - 1)
        return
    d = (head >> 1) - 1
    while d >= 0:
        desc = state.desc(vm, d)
        mark_unsync(vm, desc.sptes[0])
        return
